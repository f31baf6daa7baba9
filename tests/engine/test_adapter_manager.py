"""More adapters than fit: everyone is served in bounded time, whatever the others need."""

import random

import pytest
from adapter_manager_helpers import ModelFree, numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.engine.adapter_slots import RankSlots
from adapterhub.engine.host_cache import HostCache
from adapterhub.engine.prepared_adapter import LoraFactors
from adapterhub.errors import EngineError

SLOTS, RANK, TOKENS = 8, 4, 6


def bytes_of(rank):
    """Bytes of an adapter of ``ModelFree``, two matrices of one column in float32."""
    return 8 * rank


def assert_bound(engine, overtakes, steps):
    """Require the bound that ``scheduler`` states, for every sequence."""
    for sequence, started in engine.started.items():
        ahead = [each for each in engine.started if each.number < sequence.number]
        ready = max([engine.ready[sequence], *(engine.ready[each] for each in ahead)])
        bound = (engine.before[sequence] + overtakes + 1) * steps
        assert started - ready <= bound, (sequence.number, started - ready, bound)
        assert sequence.overtaken <= overtakes


@pytest.mark.parametrize("pattern", ["uniform", "zipf"])
@pytest.mark.parametrize("times", [2, 8, 32])
def test_more_adapters_than_slots_cost_few_extra_steps_without_starvation(times, pattern):
    draw = random.Random(times)
    chosen = numbers(pattern, SLOTS * times, 200, draw)
    steps = {}
    for rank_slots in (SLOTS * RANK, SLOTS * RANK * times):
        engine = ModelFree([RANK] * SLOTS * times, rank_slots=rank_slots, max_num_seqs=SLOTS)
        for number in chosen:
            engine.add(f"a{number}", tokens=TOKENS)
        steps[rank_slots] = engine.run()
        assert len(engine.ended) == len(chosen)
        assert_bound(engine, 8, TOKENS)
    few, all_resident = steps.values()
    assert few <= 1.25 * all_resident, steps


@pytest.mark.parametrize("pattern", ["uniform", "zipf"])
def test_fewer_slots_than_sequences_reduce_throughput_only_in_proportion(pattern):
    """Half the slots: not all adapters fit at once, but no step is lost."""
    draw = random.Random(5)
    chosen = numbers(pattern, 64, 200, draw)
    engine = ModelFree([RANK] * 64, rank_slots=SLOTS * RANK, max_num_seqs=2 * SLOTS)
    for number in chosen:
        engine.add(f"a{number}", tokens=TOKENS)
    # at least one sequence runs in each slot
    assert engine.run() <= 1.25 * len(chosen) / SLOTS * TOKENS
    assert_bound(engine, 8, TOKENS)


def test_host_memory_smaller_than_the_demand_costs_few_extra_steps():
    steps = {}
    for host in (bytes_of(RANK) * (SLOTS + 4), 1 << 20):
        engine = ModelFree(
            [RANK] * 64, rank_slots=SLOTS * RANK, max_num_seqs=SLOTS, host=host, delay=1
        )
        for number in numbers("uniform", 64, 150, random.Random(2)):
            engine.add(f"a{number}", tokens=TOKENS)
        steps[host] = engine.run()
    assert engine.host.evictions == 0
    few, plenty = steps.values()
    assert few <= 1.5 * plenty, steps


@pytest.mark.parametrize(("overtakes", "served"), [(8, True), (10**9, False)])
def test_a_stream_of_small_adapters_does_not_starve_a_large_one(overtakes, served):
    """The large one needs all slots; without a bound on overtaking it would wait for ever."""
    engine = ModelFree([4, 4, 16], rank_slots=16, max_num_seqs=8, max_overtakes=overtakes)
    for _ in range(2):
        engine.add("a0")
        engine.add("a1")
    for _ in range(4):
        engine.step()
    large = engine.add("a2")
    for _ in range(300):
        engine.add(f"a{engine.steps % 2}")
        engine.step()
        if large in engine.started:
            break
    assert (large in engine.started) == served
    if served:
        assert_bound(engine, overtakes, 4)


def test_sequences_with_cached_adapters_overtake_one_that_waits_for_a_fetch():
    engine = ModelFree([4, 4], rank_slots=8, max_num_seqs=4, delay=50)
    slow = engine.add("a0")
    plain = engine.add()
    engine.run()
    assert engine.ended[plain] < engine.started[slow]
    assert slow.overtaken == 0


def test_fragments_of_free_slots_are_joined_by_evicting_and_pinned_adapters_go_last():
    engine = ModelFree([4, 4, 4, 4, 12], rank_slots=16, max_num_seqs=4)
    for name in ("a0", "a1", "a2", "a3"):
        engine.add(name)
    engine.run()
    engine.adapter_manager.pin("a0")
    engine.adapter_manager.pin("a2")
    # 8 slots are evictable, in two fragments; the pinned ones lie between them
    engine.add("a4")
    engine.run()
    assert "a4" in engine.slots.resident
    assert {"a0", "a2"} & set(engine.slots.resident)


def test_pinned_adapters_stay_while_others_are_loaded_and_evicted():
    engine = ModelFree([4] * 12, rank_slots=16, max_num_seqs=4)
    engine.add("a0")
    engine.run()
    engine.adapter_manager.pin("a0")
    for number in range(1, 12):
        engine.add(f"a{number}")
    engine.run()
    assert engine.adapter_manager.device.loads == 12
    assert "a0" in engine.slots.resident


def test_copies_continue_over_steps_and_a_blend_waits_for_all_its_adapters():
    engine = ModelFree([4, 4, 4, 4], rank_slots=12, max_num_seqs=4, max_copy_bytes=1)
    engine.add("a0", tokens=30)
    engine.run()
    engine.add("a0", tokens=30)
    engine.add("a1", "a2", tokens=30)
    engine.add("a2", "a3", tokens=3)
    engine.add("a3", "a1", tokens=3)
    engine.run()
    assert len(engine.ended) == 5


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 16), min_size=2, max_size=12),
    sequences=st.lists(
        st.tuples(st.lists(st.integers(0, 11), max_size=2), st.integers(1, 8), st.integers(0, 5)),
        max_size=40,
    ),
    host=st.integers(2, 12),
    pinned=st.integers(0, 2),
)
def test_any_mix_of_ranks_and_blends_finishes(ranks, sequences, host, pinned):
    room = bytes_of(16) * max(host, 2 + pinned)
    engine = ModelFree(ranks, rank_slots=32, max_num_seqs=4, host=room)
    for number in range(min(pinned, len(ranks))):
        engine.adapter_manager.pin(f"a{number}")
    for names, tokens, pause in sequences:
        engine.add(*dict.fromkeys(f"a{number % len(ranks)}" for number in names), tokens=tokens)
        for _ in range(pause):
            engine.step()
    engine.run()
    assert len(engine.ended) == len(sequences)
    assert not engine.adapter_manager.device._users
    assert not engine.host._users


def test_a_blend_starts_although_its_own_adapters_fragment_the_free_slots():
    """a1 lies behind a0; once a0 goes, 12 slots are free on each side, and a2 needs 14."""
    engine = ModelFree([12, 8, 14], rank_slots=32, max_num_seqs=4)
    for name in ("a0", "a1"):
        engine.add(name)
        engine.run()
    sequence = engine.add("a1", "a2")
    engine.run(most=100)
    assert sequence in engine.ended
    slots = engine.slots.resident
    assert {slots["a1"].start, slots["a2"].start} == {0, 8}


def test_a_blend_with_more_ranks_than_rank_slots_is_rejected():
    engine = ModelFree([20, 20], rank_slots=32, max_num_seqs=4, delay=0)
    for name in ("a0", "a1"):
        engine.add(name)
    engine.run()
    with pytest.raises(EngineError, match="has rank 40, the engine has 32"):
        engine.add("a0", "a1")


def test_a_blend_larger_than_host_memory_is_rejected():
    host = HostCache(40)
    host.claim({"a": 3, "b": 3, "other": 4})
    for key in ("a", "other"):
        assert host.reserve(key, 16, 3)
        host.put(key, adapter_of(4))
    with pytest.raises(EngineError, match="16 are of adapters that it is blended with"):
        host.reserve("b", 32, 3)
    assert host.reserve("b", 24, 3)
    assert "other" not in host


def test_host_cache_keeps_explicitly_loaded_adapters_and_reports_when_it_is_full():
    host = HostCache(100)
    host.keep("mine", adapter_of(15))
    assert host.reserve("a", 25, 0)
    host.put("a", adapter_of(6))
    assert not host.reserve("b", 40, 0) or "a" not in host
    host.cancel_reservation("b")
    with pytest.raises(EngineError, match="takes 80 bytes"):
        host.reserve("c", 80, 0)
    with pytest.raises(EngineError, match="more host_cache_bytes"):
        host.keep("more", adapter_of(30))
    assert "mine" in host


def test_host_cache_evicts_adapters_of_later_requests_first():
    host = HostCache(24)
    for key in ("old", "young", "none"):
        assert host.reserve(key, 8, 9)
        host.put(key, adapter_of(2))
    host.claim({"old": 1, "young": 7})
    gone = []
    for number, key in ((5, "x"), (5, "y")):
        before = host.keys
        assert host.reserve(key, 8, number)
        host.put(key, adapter_of(2))
        host.claim({"old": 1, "young": 7, "x": 5, "y": 5})
        gone += before - host.keys
    assert gone == ["none", "young"]
    assert not host.reserve("z", 8, 6)
    assert host.reserve("z", 8, 0)


def adapter_of(values):
    """An adapter of 4 bytes a value."""
    import torch

    half = torch.zeros(1, values // 2)
    return LoraFactors(1, {0: (half, torch.zeros(1, values - values // 2))})


def test_largest_free_range_includes_ranges_that_would_be_freed():
    slots = RankSlots(16)
    starts = [slots.take(4) for _ in range(4)]
    assert slots.largest() == 0
    slots.give_back(starts[1], 4)
    assert slots.largest() == 4
    assert slots.largest([(starts[3], 4)]) == 4
    assert slots.largest([(starts[2], 4)]) == 8
    assert slots.largest([(starts[0], 4), (starts[2], 4), (starts[3], 4)]) == 16
