"""Adapters in a registry, sources that fail or take their time, and an engine without a model."""

from concurrent.futures import Future
from types import SimpleNamespace

import torch

from adapterhub.adapters.artifact import write_artifact
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.adapters.peft_format import config_document, peft_config
from adapterhub.engine.adapter_fetcher import FetchResults
from adapterhub.engine.adapter_manager import AdapterManager
from adapterhub.engine.adapter_slots import AdapterSlots
from adapterhub.engine.block_pool import BlockPool
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.host_cache import HostCache
from adapterhub.engine.prepared_adapter import LoraFactors
from adapterhub.engine.scheduler import Scheduler
from adapterhub.engine.sequences import Sequence
from adapterhub.specs import QuantizationSpec

TASK_TYPES = {
    "dialogue": "CAUSAL_LM",
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
}


def put(registry, folder, name, weights, fingerprint, *, task="dialogue", labels=()):
    """Store an adapter in a registry; return its version."""
    targets = getattr(weights.spec, "target_modules", ())
    config = peft_config(
        weights.spec,
        task_type=TASK_TYPES[task],
        target_modules=targets,
        base_model="tiny",
        modules_to_save=None,
        revision=None,
    )
    manifest = Manifest(
        task=task,
        labels=tuple(labels),
        backbone=BackboneRef(name="tiny", fingerprint=fingerprint),
        quantization=QuantizationSpec("none", "float32"),
        adapter=weights.spec,
        trained_parameters=weights.num_parameters,
        backbone_parameters=1000,
        recipe={"task": {"max_length": 64, "max_new_tokens": 8, "system_prompt": ""}},
        data={},
        metrics=Metrics(),
        seed=0,
        libraries={},
    )
    write_artifact(
        folder,
        tensors=weights.tensors,
        adapter_config=config_document(config),
        manifest=manifest,
        card="# A card\n",
    )
    return registry.put(folder, name)


class HandSource:
    """A source whose futures a test completes; every name is its own digest."""

    def __init__(self):
        self.fetched = []
        self.futures = {}

    def resolve(self, ref):
        return ref

    def fetch(self, digest):
        self.fetched.append(digest)
        self.futures[digest] = Future()
        return self.futures[digest]


class SlowFetcher:
    """Puts adapters into host memory a number of steps after they were requested."""

    def __init__(self, host, adapters, steps):
        self.host, self.adapters, self.steps = host, adapters, steps
        self.in_flight = {}
        self.fetches = 0

    def is_unresolved(self, key):
        return False

    def fetch(self, key, number):
        if key not in self.in_flight:
            if len(self.in_flight) >= 4:
                return False
            self.in_flight[key] = [self.steps, number]
            self.fetches += 1
        self.in_flight[key][1] = min(number, self.in_flight[key][1])
        return True

    def drop_unwanted(self, wanted):
        pass

    def poll(self):
        for key, (left, number) in list(self.in_flight.items()):
            if left > 0:
                self.in_flight[key][0] -= 1
            elif self.host.reserve(key, self.adapters[key].nbytes, number):
                self.host.put(key, self.adapters[key])
                del self.in_flight[key]
        return FetchResults()


class FakeLayer:
    """An adapted layer that stores nothing."""

    def allocate(self, rank_slots, device):
        pass

    def load(self, start, factors):
        pass

    def unload(self, start):
        pass


class ModelFree:
    """The engine's queue, caches and slots, with steps that compute nothing."""

    def __init__(
        self,
        ranks,
        *,
        rank_slots,
        max_num_seqs,
        host=1 << 30,
        delay=2,
        max_overtakes=8,
        max_copy_bytes=1 << 30,
    ):
        factors = {
            f"a{i}": LoraFactors(rank, {0: (torch.zeros(rank, 1), torch.zeros(rank, 1))})
            for i, rank in enumerate(ranks)
        }
        config = EngineConfig(
            max_num_seqs=max_num_seqs,
            rank_slots=rank_slots,
            max_overtakes=max_overtakes,
            max_copy_bytes=max_copy_bytes,
        )
        self.host = HostCache(host)
        self.slots = AdapterSlots([FakeLayer()], rank_slots, torch.device("cpu"))
        self.fetcher = SlowFetcher(self.host, factors, delay)
        self.adapter_manager = AdapterManager(
            config, self.slots, self.host, self.fetcher, lambda sequence, adapters: True
        )
        self.scheduler = Scheduler(config, BlockPool(4096, 16), self.adapter_manager, None)
        self.steps = 0
        self.added = 0
        self.before = {}
        self.ready = {}
        self.started = {}
        self.ended = {}
        self.num_tokens = {}

    def add(self, *names, tokens=4):
        adapters = tuple((name, 1.0) for name in names)
        sequence = Sequence(self.added, (1, 2, 3), SimpleNamespace(tokens=[]), adapters)
        self.added += 1
        self.num_tokens[sequence] = tokens
        self.before[sequence] = len(self.scheduler.waiting)
        self.adapter_manager.admit(sequence)
        self.scheduler.waiting.add(sequence)
        return sequence

    def step(self):
        waiting, idle = self.scheduler.waiting, not self.scheduler.running
        assert not self.adapter_manager.poll(waiting.needing_adapters(), idle=idle)
        for sequence in waiting:
            if self.adapter_manager.is_ready(sequence):
                self.ready.setdefault(sequence, self.steps)
        self.steps += 1
        for chunk in self.scheduler.schedule():
            sequence = chunk.sequence
            self.started.setdefault(sequence, self.steps)
            self.ready.setdefault(sequence, self.steps)
            self.scheduler.computed(chunk)
            sequence.output_tokens.append(0)
            if len(sequence.output_tokens) == self.num_tokens[sequence]:
                sequence.finish_reason = "length"
                self.ended[sequence] = self.steps
                self.scheduler.finish(sequence)
        taken = sum(slot.rank for slot in self.slots.resident.values())
        assert taken + self.slots.free <= self.slots._ranks.count
        assert self.host.nbytes <= self.host.limit

    def run(self, most=20_000):
        while self.scheduler.waiting or self.scheduler.running:
            self.step()
            assert self.steps < most, "sequences wait for ever"
        return self.steps


def numbers(pattern, adapters, count, draw):
    """Return the adapter of each request: all equally often, or the first ones far more often."""
    if pattern == "uniform":
        return [draw.randrange(adapters) for _ in range(count)]
    weights = [1 / (place + 1) for place in range(adapters)]
    return draw.choices(range(adapters), weights, k=count)


__all__ = ["HandSource", "ModelFree", "numbers", "put"]
