"""Waiting for a turn on an event loop: limits, clients that leave, and a flood over HTTP."""

import asyncio
import gc
import time

import pytest

from adapterhub.access import Caller, open_keys
from adapterhub.errors import QueueFull
from adapterhub.registry import Registry
from adapterhub.server.access import Access
from adapterhub.server.fair_queue import FairQueue

ANYONE = Caller(None, "use")


class Clock:
    """Seconds that pass when told."""

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
        queue = FairQueue(places, waiting, clock)
        return Access(keys, queue, queue_timeout=queue_timeout, clock=clock)

    return access


class Guest:
    """A request that stays until told to go."""

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


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def test_one_at_a_time_and_the_next_when_it_goes(make):
    async def scene():
        access = make()
        first, second = Guest(access), Guest(access)
        await settle()
        assert first.inside.is_set()
        assert not second.inside.is_set()
        assert (access.running, access.queued) == (1, 1)
        await first.leave()
        await settle()
        assert second.inside.is_set()
        await second.leave()
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


def test_a_block_that_fails_gives_its_place_back(make):
    async def scene():
        access = make()
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with access.admit(ANYONE, "a", 1):
                    raise ZeroDivisionError
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


def test_who_goes_away_while_it_waits_makes_room(make):
    async def scene():
        access = make()
        first, gone, last = Guest(access), Guest(access), Guest(access)
        await settle()
        gone.task.cancel()
        await settle()
        assert access.queued == 1
        await first.leave()
        await settle()
        assert last.inside.is_set()
        await last.leave()

    asyncio.run(scene())


def test_who_goes_away_as_its_turn_comes_loses_no_place(make):
    async def scene():
        access = make()
        first, gone, last = Guest(access), Guest(access), Guest(access)
        await settle()
        # both happen before the waiting task runs again
        first.go.set()
        await asyncio.sleep(0)
        gone.task.cancel()
        await settle()
        assert gone.task.cancelled()
        assert last.inside.is_set()
        await last.leave()
        # and the other way round
        first, gone, last = Guest(access), Guest(access), Guest(access)
        await settle()
        gone.task.cancel()
        first.go.set()
        await settle()
        assert last.inside.is_set()
        await last.leave()
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


def test_who_waits_too_long_is_told_when_to_come_again(make):
    async def scene():
        access = make(queue_timeout=0.05)
        first = Guest(access)
        await settle()
        with pytest.raises(QueueFull, match=r"waited in the queue for 0\.05 seconds") as caught:
            async with access.admit(ANYONE, "a", 1):
                pass
        assert caught.value.retry_after >= 1
        assert access.queued == 0
        await first.leave()

    asyncio.run(scene())


def test_the_newest_of_a_flood_is_told_that_others_go_first(make):
    async def scene():
        access = make(waiting=3)
        guests = [Guest(access) for _ in range(4)]
        await settle()
        late = Guest(access, adapter="b")
        await settle()
        with pytest.raises(QueueFull, match="the queue is full"):
            await guests[-1].task
        with pytest.raises(QueueFull, match="full with 3 requests"):
            async with access.admit(ANYONE, "a", 1):
                pass
        for guest in (guests[0], late, *guests[1:3]):
            await settle()
            assert guest.inside.is_set()
            await guest.leave()
        assert (access.running, access.queued) == (0, 0)

    asyncio.run(scene())


def test_a_key_has_so_many_requests_at_once_and_others_are_not_touched(make):
    async def scene():
        access = make(places=8)
        few = Caller("few", "use", concurrency=2)
        guests = [Guest(access, few) for _ in range(2)]
        await settle()
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


def test_a_list_in_one_request_counts_once_and_waits_for_many_turns(make):
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


def test_in_any_minute_a_key_begins_so_many_requests(make, clock):
    access = make()
    slow = Caller("slow", "use", rate=3)
    begun, told = [], []
    for _ in range(2000):
        clock.now += 0.25
        try:
            with access.counted(slow):
                begun.append(clock.now)
        except QueueFull as full:
            told.append((clock.now + full.retry_after, begun[-3] + 60))
    # who waits as long as told is let in
    assert all(when == pytest.approx(free) for when, free in told)
    assert len(begun) == 3 * 9
    assert all(later - first >= 60 for first, later in zip(begun, begun[3:], strict=False))


def test_nothing_is_left_of_ten_thousand_requests(make, clock):
    async def scene():
        access = make(places=4)
        callers = [Caller(f"key{n}", "use", rate=1_000_000, concurrency=100) for n in range(5)]

        async def ask(number):
            caller = callers[number % 5]
            with access.counted(caller):
                async with access.admit(caller, f"adapter{number % 7}", 1):
                    await asyncio.sleep(0)

        async def many(count):
            for start in range(0, count, 50):
                await asyncio.gather(*(ask(start + n) for n in range(50)))
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
    """As the engine is: rows in a batch, whose step takes longer the more rows there are."""

    def __init__(self, rows=8, step=0.002):
        self.rows = rows
        self.step = step
        self.busy = 0

    async def answer(self, tokens, first):
        assert self.busy < self.rows, "a request waits inside, where turns are not fair"
        self.busy += 1
        try:
            for _ in range(tokens):
                await asyncio.sleep(self.step * (1 + self.busy / (2 * self.rows)))
                first()
        finally:
            self.busy -= 1


@pytest.mark.alone
@pytest.mark.parametrize("keyed", [False, True])
def test_a_flood_of_200_raises_the_median_time_to_first_token_of_another_less_than_twice(
    keys, keyed
):
    """The same over the real server is ``test_access_flood.py``."""

    async def scene():
        machine = Machine()
        access = Access(
            keys,
            FairQueue(machine.rows, 1000, time.monotonic),
            queue_timeout=60,
            clock=time.monotonic,
        )
        flooder, other = (Caller("f", "use"), Caller("o", "use")) if keyed else (ANYONE, ANYONE)

        async def ask(caller, adapter):
            began, first = time.monotonic(), []
            async with access.admit(caller, adapter, 20):
                await machine.answer(20, lambda: first or first.append(time.monotonic()))
            return first[0] - began

        async def median():
            found = sorted([await ask(other, "b") for _ in range(15)])
            return found[7]

        alone = await median()
        flood = [asyncio.create_task(ask(flooder, "a")) for _ in range(200)]
        await asyncio.sleep(0.01)
        beside = await median()
        assert not all(task.done() for task in flood), "the flood was over too early"
        await asyncio.gather(*flood)
        return alone, beside

    alone, beside = asyncio.run(scene())
    assert beside < 2 * alone, f"{alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside"
