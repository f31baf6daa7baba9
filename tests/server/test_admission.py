"""Waiting for a turn on an event loop: limits, clients that leave, and a flood over HTTP."""

import asyncio
import gc
import time

import pytest

from adapterhub.access import Caller, open_keys
from adapterhub.errors import QueueFull
from adapterhub.registry import Registry
from adapterhub.server.access import Access
from adapterhub.server.settings import ServerSettings

ANYONE = Caller(None, "use")


class Clock:
    """Clock whose seconds the test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys(tmp_path):
    return open_keys(Registry(tmp_path))


@pytest.fixture
def make(keys, clock):
    def access(places=1, waiting=100, queue_timeout=60.0):
        settings = ServerSettings(
            max_inflight=places, max_queue=waiting, queue_timeout=queue_timeout
        )
        return Access(keys, settings, clock=clock)

    return access


class Guest:
    """Request that runs until the test ends it."""

    def __init__(self, access, caller=ANYONE, adapter="a"):
        self.inside = asyncio.Event()
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._stay(access, caller, adapter))

    async def _stay(self, access, caller, adapter):
        with access.counted(caller):
            async with access.admit(caller, adapter, 10):
                self.inside.set()
                await self.go.wait()

    async def leave(self):
        self.go.set()
        await self.task


async def run_pending():
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_next_request_starts_when_the_first_finishes(make):
    async def scene():
        access = make()
        first, second = Guest(access), Guest(access)
        await run_pending()
        assert first.inside.is_set()
        assert not second.inside.is_set()
        assert (access.running, access.queued) == (1, 1)
        await first.leave()
        await run_pending()
        assert second.inside.is_set()
        await second.leave()
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


def test_a_failed_request_frees_its_place(make):
    async def scene():
        access = make()
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with access.admit(ANYONE, "a", 1):
                    raise ZeroDivisionError
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


def test_a_cancelled_waiting_request_leaves_the_queue(make):
    async def scene():
        access = make()
        first, gone, last = Guest(access), Guest(access), Guest(access)
        await run_pending()
        gone.task.cancel()
        await run_pending()
        assert access.queued == 1
        await first.leave()
        await run_pending()
        assert last.inside.is_set()
        await last.leave()

    asyncio.run(scene())


def test_a_request_cancelled_at_its_start_frees_its_place(make):
    async def scene():
        access = make()
        first, gone, last = Guest(access), Guest(access), Guest(access)
        await run_pending()
        # both happen before the waiting task runs again
        first.go.set()
        await asyncio.sleep(0)
        gone.task.cancel()
        await run_pending()
        assert gone.task.cancelled()
        assert last.inside.is_set()
        await last.leave()
        # and the other way round
        first, gone, last = Guest(access), Guest(access), Guest(access)
        await run_pending()
        gone.task.cancel()
        first.go.set()
        await run_pending()
        assert last.inside.is_set()
        await last.leave()
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


def test_a_wait_that_times_out_says_when_to_retry(make):
    async def scene():
        access = make(queue_timeout=0.05)
        first = Guest(access)
        await run_pending()
        with pytest.raises(QueueFull, match=r"waited in the queue for 0\.05 seconds") as caught:
            async with access.admit(ANYONE, "a", 1):
                pass
        assert caught.value.retry_after >= 1
        assert access.queued == 0
        await first.leave()

    asyncio.run(scene())


def test_the_newest_request_of_a_flood_is_dropped_for_others(make):
    async def scene():
        access = make(waiting=3)
        guests = [Guest(access) for _ in range(4)]
        await run_pending()
        late = Guest(access, adapter="b")
        await run_pending()
        with pytest.raises(QueueFull, match="the queue is full"):
            await guests[-1].task
        with pytest.raises(QueueFull, match="full with 3 requests"):
            async with access.admit(ANYONE, "a", 1):
                pass
        for guest in (guests[0], late, *guests[1:3]):
            await run_pending()
            assert guest.inside.is_set()
            await guest.leave()
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


def test_the_concurrency_limit_of_a_key_does_not_affect_others(make):
    async def scene():
        access = make(places=8)
        few = Caller("few", "use", concurrency=2)
        guests = [Guest(access, few) for _ in range(2)]
        await run_pending()
        with (
            pytest.raises(QueueFull, match="has 2 running requests; its limit is 2") as caught,
            access.counted(few),
        ):
            pass
        assert caught.value.retry_after > 0
        with access.counted(Caller("other", "use", concurrency=2)):
            pass
        await guests[0].leave()
        with access.counted(few):
            pass
        await guests[1].leave()

    asyncio.run(scene())


def test_a_request_with_a_list_counts_once_and_waits_for_each_input(make):
    async def scene():
        access = make(places=2)
        single = Caller("single", "use", concurrency=1, rate=1)

        async def entry():
            async with access.admit(single, "a", 1):
                await asyncio.sleep(0)

        with access.counted(single):
            await asyncio.gather(*(entry() for _ in range(50)))
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


def test_the_rate_limit_holds_in_every_minute(make, clock):
    access = make()
    slow = Caller("slow", "use", rate=3)
    starts, rejections = [], []
    for _ in range(2000):
        clock.now += 0.25
        try:
            with access.counted(slow):
                starts.append(clock.now)
        except QueueFull as full:
            rejections.append((clock.now + full.retry_after, starts[-3] + 60))
    # after the suggested wait, a request is admitted
    assert all(when == pytest.approx(free) for when, free in rejections)
    assert len(starts) == 3 * 9
    assert all(later - first >= 60 for first, later in zip(starts, starts[3:], strict=False))


def test_ten_thousand_requests_leave_no_state(make, clock):
    async def scene():
        access = make(places=4)
        callers = [Caller(f"key{n}", "use", rate=1_000_000, concurrency=100) for n in range(5)]

        async def send(number):
            caller = callers[number % 5]
            with access.counted(caller):
                async with access.admit(caller, f"adapter{number % 7}", 1):
                    await asyncio.sleep(0)

        async def many(count):
            for start in range(0, count, 50):
                await asyncio.gather(*(send(start + n) for n in range(50)))
                clock.now += 1

        await many(3000)
        gc.collect()
        before = len(gc.get_objects())
        await many(10_000)
        gc.collect()
        assert len(gc.get_objects()) - before < 500
        clock.now += 1000
        async with access.admit(ANYONE, "a", 1):
            pass
        assert access._limits._usage.keys() <= {f"key{n}" for n in range(5)}
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


class Machine:
    """Stand-in for the engine, whose step takes longer the more sequences run."""

    def __init__(self, max_num_seqs=8, step=0.002):
        self.max_num_seqs = max_num_seqs
        self.step = step
        self.busy = 0

    async def answer(self, tokens, first):
        assert self.busy < self.max_num_seqs, "a request waits in the engine, out of order"
        self.busy += 1
        try:
            for _ in range(tokens):
                await asyncio.sleep(self.step * (1 + self.busy / (2 * self.max_num_seqs)))
                first()
        finally:
            self.busy -= 1


@pytest.mark.alone
@pytest.mark.parametrize("keyed", [False, True])
def test_a_flood_of_200_raises_the_median_time_to_first_token_of_another_less_than_twice(
    keys, keyed
):
    """The same over the real server is ``test_flood.py``."""

    async def scene():
        machine = Machine()
        access = Access(keys, ServerSettings(max_inflight=machine.max_num_seqs, max_queue=1000))
        flooder, other = (Caller("f", "use"), Caller("o", "use")) if keyed else (ANYONE, ANYONE)

        async def send(caller, adapter):
            began, first = time.monotonic(), []
            async with access.admit(caller, adapter, 20):
                await machine.answer(20, lambda: first or first.append(time.monotonic()))
            return first[0] - began

        async def median():
            found = sorted([await send(other, "b") for _ in range(15)])
            return found[7]

        alone = await median()
        flood = [asyncio.create_task(send(flooder, "a")) for _ in range(200)]
        await asyncio.sleep(0.01)
        beside = await median()
        assert not all(task.done() for task in flood), "the flood was over too early"
        await asyncio.gather(*flood)
        return alone, beside

    alone, beside = asyncio.run(scene())
    assert beside < 2 * alone, f"{alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside"
