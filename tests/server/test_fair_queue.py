"""The fair queue without an event loop, with a clock that tests set."""

from collections import Counter

import pytest

from adapterhub.errors import QueueFull
from adapterhub.server.fair_queue import FairQueue, Ticket

LINGER = 30.0


class Clock:
    """Clock whose seconds the test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def make(clock, places, waiting=10_000, **spare):
    return FairQueue(places, waiting, clock, **spare)


def push(queue, key, adapter, count=1, **options):
    tickets = [Ticket(key, adapter, **options) for _ in range(count)]
    for ticket in tickets:
        queue.push(ticket)
    return tickets


def started(queue):
    found = []
    while (ticket := queue.start()) is not None:
        found.append(ticket)
    return found


def by(tickets, field):
    return Counter(getattr(ticket, field) for ticket in tickets)


def test_a_single_group_gets_all_places(clock):
    queue = make(clock, 8)
    push(queue, "a", "x", 20)
    assert len(started(queue)) == 8
    assert (queue.occupied, queue.waiting) == (8, 12)


def test_requests_of_one_adapter_start_in_order(clock):
    queue = make(clock, 3)
    tickets = push(queue, "a", "x", 3)
    assert started(queue) == tickets


def test_a_new_group_gets_the_next_free_place_during_a_flood(clock):
    queue = make(clock, 4)
    push(queue, "flood", "x", 200)
    running = started(queue)
    (late,) = push(queue, "other", "y")
    assert started(queue) == []
    queue.finish(running[0])
    assert started(queue) == [late]


@pytest.mark.parametrize("other", [("flood", "y"), ("other", "x")])
@pytest.mark.parametrize(("share", "left"), [(0.5, 4), (0.25, 2), (0.3, 3)])
def test_a_flood_leaves_the_reserved_share_to_a_recent_group(clock, other, share, left):
    queue = make(clock, 8, reserved_share=share, reserved_seconds=LINGER)
    for ticket in push(queue, *other):
        assert started(queue) == [ticket]
        queue.finish(ticket)
    push(queue, "flood", "x", 200)
    assert len(started(queue)) == 8 - left
    for _ in range(10):
        # the other comes and goes, and never waits for the flood
        clock.now += 1
        (again,) = push(queue, *other)
        assert started(queue) == [again]
        queue.finish(again)
        assert started(queue) == []
    clock.now += LINGER
    assert len(started(queue)) == left


def test_a_reserved_share_of_zero_leaves_nothing_free(clock):
    queue = make(clock, 8, reserved_share=0.0)
    for ticket in push(queue, "other", "x"):
        assert started(queue) == [ticket]
        queue.finish(ticket)
    push(queue, "flood", "x", 200)
    assert len(started(queue)) == 8


def test_two_groups_share_two_places(clock):
    queue = make(clock, 2)
    push(queue, "a", "x", 9)
    first = started(queue)
    push(queue, "b", "x")
    queue.finish(first[0])
    (late,) = started(queue)
    queue.finish(late)
    assert late.key == "b"
    assert started(queue) == []


def test_two_floods_share_the_places_evenly_in_the_end(clock):
    queue = make(clock, 8)
    push(queue, "a", "x", 500)
    running = started(queue)
    push(queue, "b", "x", 500)
    for _ in range(200):
        queue.finish(running.pop(0))
        running += started(queue)
    assert by(running, "key") == {"a": 4, "b": 4}


def test_keys_share_first_and_then_the_adapters_of_each_key(clock):
    queue = make(clock, 8)
    for adapter in ("x", "y", "z", "w"):
        push(queue, "many", adapter, 500)
    push(queue, "one", "x", 500)
    running = started(queue)
    turns = []
    for _ in range(200):
        queue.finish(running.pop(0))
        new = started(queue)
        turns += new
        running += new
    assert by(running, "key") == {"many": 4, "one": 4}
    each = by([ticket for ticket in turns if ticket.key == "many"], "adapter")
    assert max(each.values()) - min(each.values()) <= 2


def test_groups_with_costlier_requests_start_fewer(clock):
    queue = make(clock, 1)
    push(queue, "large", "x", 100, cost=300)
    push(queue, "small", "x", 400, cost=100)
    turns = []
    for _ in range(200):
        (ticket,) = started(queue)
        turns.append(ticket)
        queue.finish(ticket)
    assert by(turns, "key") == {"large": 50, "small": 150}


def test_time_without_requests_gives_no_credit(clock):
    queue = make(clock, 1)
    push(queue, "steady", "x", 300)
    for _ in range(100):
        (ticket,) = started(queue)
        queue.finish(ticket)
    push(queue, "late", "x", 100)
    turns = []
    for _ in range(20):
        (ticket,) = started(queue)
        turns.append(ticket)
        queue.finish(ticket)
    assert by(turns, "key") == {"steady": 10, "late": 10}


def test_a_request_occupies_its_places_up_to_its_fair_share(clock):
    queue = make(clock, 8)
    push(queue, "a", "x", requested_places=6)
    assert [ticket.places for ticket in started(queue)] == [6]
    push(queue, "b", "x", requested_places=100)
    assert started(queue) == []


def test_small_requests_do_not_starve_a_large_one(clock):
    queue = make(clock, 8)
    push(queue, "small", "x", 500)
    running = started(queue)
    (large,) = push(queue, "large", "x", requested_places=4)
    for _ in range(8):
        queue.finish(running.pop(0))
        running += started(queue)
        if large in running:
            break
    assert large.started
    assert large.places == 4


def test_a_full_queue_drops_the_newest_request_of_the_flood(clock):
    queue = make(clock, 1, waiting=4)
    flood = push(queue, "flood", "x", 4)
    late = Ticket("other", "y")
    assert queue.push(late) is flood[-1]
    assert queue.waiting == 4
    assert not flood[-1].waits
    assert late.waits


def test_a_full_queue_rejects_the_flood_itself(clock):
    queue = make(clock, 1, waiting=4)
    push(queue, "flood", "x", 4)
    with pytest.raises(QueueFull, match="full with 4 requests") as caught:
        queue.push(Ticket("flood", "x"))
    assert caught.value.retry_after == 1.0
    assert queue.push(Ticket("flood", "another")) is not None


def test_the_retry_time_follows_the_throughput(clock):
    queue = make(clock, 1, waiting=5)
    push(queue, "a", "x", 5)
    for _ in range(3):
        (ticket,) = started(queue)
        clock.now += 2
        queue.finish(ticket)
    assert queue.retry_after("a") == pytest.approx(3 * 2)
    clock.now += 100
    queue.finish(*started(queue))
    assert queue.retry_after("a") == 60.0


def test_a_request_that_left_does_not_start_and_idle_groups_are_removed(clock):
    queue = make(clock, 2)
    first, second = push(queue, "a", "x", 2)
    queue.leave(first)
    queue.leave(first)
    assert started(queue) == [second]
    queue.finish(second)
    clock.now += LINGER
    assert started(queue) == []
    assert (queue.occupied, queue.waiting) == (0, 0)
    assert not queue._all.groups


def test_every_waiting_request_starts_once(clock):
    import random

    draw = random.Random(7)
    queue = make(clock, 6)
    pushed, running, done, left = [], [], [], []
    for _ in range(5000):
        clock.now += draw.random()
        choice = draw.random()
        if choice < 0.5:
            key, adapter = draw.choice("abc"), draw.choice("xyz")
            pushed += push(
                queue, key, adapter, cost=draw.randint(1, 9), requested_places=draw.randint(1, 8)
            )
        elif choice < 0.9 and running:
            ticket = running.pop(draw.randrange(len(running)))
            queue.finish(ticket)
            done.append(ticket)
        else:
            waiting = [ticket for ticket in pushed if ticket.waits]
            if waiting:
                left.append(draw.choice(waiting))
                queue.leave(left[-1])
        running += started(queue)
        assert 0 <= queue.occupied <= 6
        assert queue.occupied == sum(ticket.places for ticket in running)
        assert running or not queue.waiting
    while running:
        for ticket in running:
            queue.finish(ticket)
        done += running
        running = started(queue)
    assert not queue.waiting
    assert len(done) + len(left) == len(pushed)
