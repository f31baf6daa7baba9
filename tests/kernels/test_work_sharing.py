"""Phases of shared work: every item once, in order, whatever the threads do."""

import threading
import time

import numpy as np
import pytest

from adapterhub.kernels.numba_support import compiled
from adapterhub.kernels.work_sharing import claimed, finish, new_counters

PHASES, ITEMS = 50, 7


@compiled()
def work(counters, log, thread, delay):
    """Add up what the phase before has left, so that a thread that runs ahead is seen."""
    for phase in range(PHASES):
        for item in claimed(counters, phase, ITEMS):
            total = np.int64(1)
            for _ in range(delay):
                total += log[0, 0] & 0
            before = log[phase, :ITEMS].sum() if phase else np.int64(ITEMS)
            log[phase + 1, item] += total if before == ITEMS else np.int64(1000)
            log[phase + 1, ITEMS + thread] += 1


def run(threads, delay=100):
    counters = new_counters(PHASES)
    log = np.zeros((PHASES + 1, ITEMS + threads), np.int64)
    log[0, :ITEMS] = 1
    jobs = [
        threading.Thread(target=work, args=(counters.ctypes.data, log, number, delay))
        for number in range(threads)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    return log


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_item_is_computed_once_after_all_of_the_phase_before(threads):
    log = run(threads, delay=1000)
    assert (log[1:, :ITEMS] == 1).all()


def test_no_phase_needs_a_second_thread():
    assert (run(1)[1:, ITEMS] == ITEMS).all()


def test_a_waiting_thread_gives_up_its_core():
    counters = new_counters(1)

    @compiled()
    def wait(address):
        finish(address, 0, 1, 0)

    @compiled()
    def end(address):
        finish(address, 0, 1, 1)

    other = new_counters(1)
    end(other.ctypes.data)
    waiter = threading.Thread(target=wait, args=(counters.ctypes.data,))
    waiter.start()
    time.sleep(1.0)  # compiles
    start = time.process_time()
    time.sleep(0.3)
    used = time.process_time() - start
    end(counters.ctypes.data)
    waiter.join()
    # a loop without sleep would use all of it
    assert used < 0.15
