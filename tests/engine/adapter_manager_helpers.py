"""Adapters in a registry, sources that fail or take their time, and an engine without a model."""

from concurrent.futures import Future
from types import SimpleNamespace

import torch

from adapterhub.adapters.artifact import write_artifact
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.adapters.peft_format import config_document, peft_config
from adapterhub.engine.adapter_fetcher import FetchResults
from adapterhub.engine.adapter_manager import AdapterManager
from adapterhub.engine.adapter_slots import AdapterSlots, LoraFactors
from adapterhub.engine.block_pool import BlockPool
from adapterhub.engine.host_cache import HostCache, prepared_bytes
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
    """A source whose futures a test completes by hand; every name is its own digest."""

    def __init__(self):
        self.asked = []
        self.futures = {}

    def resolve(self, ref):
        return ref

    def fetch(self, digest):
        self.asked.append(digest)
        self.futures[digest] = Future()
        return self.futures[digest]


class SlowArrivals:
    """Adapters that are in host memory so many steps after they were asked for."""

    def __init__(self, host, adapters, steps):
        self.host, self.adapters, self.steps = host, adapters, steps
        self.under_way = {}
        self.fetches = 0

    def is_reference(self, key):
        return False

    def want(self, key, number):
        if key not in self.under_way:
            if len(self.under_way) >= 4:
                return False
            self.under_way[key] = [self.steps, number]
            self.fetches += 1
        self.under_way[key][1] = min(number, self.under_way[key][1])
        return True

    def drop_unwanted(self, wanted):
        pass

    def take(self):
        for key, (left, number) in list(self.under_way.items()):
            if left > 0:
                self.under_way[key][0] -= 1
            elif self.host.reserve(key, prepared_bytes(self.adapters[key]), number):
                self.host.put(key, self.adapters[key])
                del self.under_way[key]
        return FetchResults()


class Site:
    """Takes rows and forgets them."""

    def make_tables(self, rows, device):
        pass

    def write_rows(self, row, a, b, gain=None):
        pass

    def forget_rows(self, row):
        pass


class ModelFree:
    """The engine's queues, caches and slots, and steps that compute nothing."""

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
        self.host = HostCache(host)
        self.slots = AdapterSlots([Site()], rank_slots, torch.device("cpu"))
        self.arrivals = SlowArrivals(self.host, factors, delay)
        self.adapter_manager = AdapterManager(
            self.slots,
            self.host,
            self.arrivals,
            lambda row, adapters: None,
            prefetch_lookahead=64,
            max_copy_bytes=max_copy_bytes,
        )
        self.scheduler = Scheduler(
            BlockPool(4096, 16),
            self.adapter_manager,
            None,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=512,
            prefetch_lookahead=64,
            max_overtakes=max_overtakes,
        )
        self.steps = 0
        self.arrived = 0
        self.came = {}
        self.started = {}
        self.ended = {}
        self.before = {}
        self.ready = {}
        self.tokens = {}

    def add(self, *names, tokens=4):
        row = Sequence(
            self.arrived, (1, 2, 3), SimpleNamespace(tokens=[]), tuple((n, 1.0) for n in names)
        )
        self.arrived += 1
        self.came[row], self.tokens[row] = self.steps, tokens
        self.before[row] = len(self.scheduler.waiting)
        self.adapter_manager.join(row)
        self.scheduler.add(row)
        return row

    def step(self):
        lost = self.adapter_manager.look_after(
            self.scheduler.waiting, idle=not self.scheduler.running
        )
        assert not lost
        for row in self.scheduler.waiting:
            if self.adapter_manager.ready(row):
                self.ready.setdefault(row, self.steps)
        self.steps += 1
        for piece in self.scheduler.plan():
            row = piece.sequence
            self.started.setdefault(row, self.steps)
            self.ready.setdefault(row, self.steps)
            self.scheduler.computed(piece)
            row.output.append(0)
            if len(row.output) == self.tokens[row]:
                row.finished = "length"
                self.ended[row] = self.steps
                self.scheduler.finish(row)
        taken = sum(slot.rank for slot in self.slots.resident.values())
        assert taken + self.slots.free_rows <= self.slots._rows.count
        assert self.host.nbytes <= self.host.limit

    def run(self, most=20_000):
        while self.scheduler.waiting or self.scheduler.running:
            self.step()
            assert self.steps < most, "rows wait for ever"
        return self.steps


def numbers(pattern, adapters, rows, draw):
    """Return which adapter each row uses: each as often, or the first ones far more often."""
    if pattern == "uniform":
        return [draw.randrange(adapters) for _ in range(rows)]
    weights = [1 / (place + 1) for place in range(adapters)]
    return draw.choices(range(adapters), weights, k=rows)


__all__ = ["HandSource", "ModelFree", "numbers", "put"]
