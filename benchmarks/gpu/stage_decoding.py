"""Decoding with many adapters on one GPU: rates, cold adapters, and Zipf traffic.

A decoding step reads every weight once for all sequences, each adapter that is used once, and
the keys and values of every sequence. Those bytes over the measured bandwidth are the least
that a step takes; the records hold both, and ``read.py`` their ratio.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from stage import RANK, StageOptions, random_backbone, seconds_of, stage_options, synchronize

from adapterhub.adapters.artifact import Artifact, read_artifact, write_artifact
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.adapters.peft_format import config_document, peft_config
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.specs import LoraSpec

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.sequences import Request

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROMPT = 32
#: Sequences and distinct adapters that are registered, in the order of interest.
MIXES = [
    (32, 0), (32, 64), (128, 0), (128, 64), (1, 0), (1, 1), (8, 0), (8, 8),
    (32, 1), (32, 8), (8, 1), (128, 1), (128, 8),
]  # fmt: skip
#: Adapters on disk that stand behind all registered names of the Zipf traffic.
TEMPLATES = 4


def main() -> None:
    """Measure NF4 with everything, then bfloat16 rates."""
    options = stage_options()
    sequences = 8 if options.tiny else 128
    adapters = 8 if options.tiny else 64
    mixes = [(min(s, sequences), min(a, adapters)) for s, a in MIXES]
    mixes = list(dict.fromkeys(mixes))
    backbone = random_backbone(options.shape, "nf4", options.device)
    measure_rates(options, backbone, "nf4", mixes)
    measure_prefill(options, backbone)
    with tempfile.TemporaryDirectory() as folder:
        source = FolderSource(Path(folder), backbone, TEMPLATES)
        measure_cold(options, backbone, source)
        measure_traffic(options, backbone, source, registered=50 if options.tiny else 2000)
        source.close()
    del backbone
    if options.device.type == "cuda":
        torch.cuda.empty_cache()
    if options.has_time(25):
        backbone = random_backbone(options.shape, "none", options.device)
        measure_rates(options, backbone, "none", mixes[:8])


class Decoder:
    """An engine whose adapters are registered and resident."""

    def __init__(self, backbone: Backbone, sequences: int, adapters: int) -> None:
        config = EngineConfig(
            max_num_seqs=sequences,
            max_num_batched_tokens=max(1024, sequences),
            kv_cache_tokens=sequences * 256,
            rank_slots=RANK * max(1, adapters),
            host_cache_bytes=32 * 1024**3,
        )
        self.backbone = backbone
        self.engine = Engine(backbone, config)
        self.graphs = self.engine.core.model_runner.graphs
        self.draw = random.Random(0)
        for number in range(adapters):
            weights = random_adapter(backbone, number)
            self.engine.load_weights(weights, key=f"adapter-{number}", name=str(number))

    def add(self, adapter: str | None, tokens: int, prompt: int = PROMPT) -> Request:
        """Add a request with a random prompt."""
        most = self.backbone.config.vocab_size
        ids = [self.draw.randrange(2, most) for _ in range(prompt)]
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        return self.engine.add(ids, adapter, params)

    def rate(self, sequences: int, adapters: int, tokens: int, *, graphs: bool) -> float:
        """Return decoded tokens a second over the steps in which every sequence takes part."""
        engine = self.engine
        engine.core.model_runner.graphs = self.graphs if graphs else None
        for number in range(sequences):
            self.add(str(number % adapters) if adapters else None, tokens)
        while engine.busy and len(engine.step()) < sequences:
            pass
        synchronize(self.backbone.device)
        began, made = time.perf_counter(), 0
        while engine.busy:
            made += len(engine.step())
        synchronize(self.backbone.device)
        return made / (time.perf_counter() - began)


def random_adapter(backbone: Backbone, seed: int) -> AdapterWeights:
    """Return an adapter of rank 16 on all linear layers of a backbone."""
    return AdapterWeights(LoraSpec(rank=RANK, alpha=float(RANK)), adapter_tensors(backbone, seed))


def adapter_tensors(backbone: Backbone, seed: int) -> dict[str, torch.Tensor]:
    """Return random factors by peft's keys, made on the device."""
    device = backbone.device
    draw = torch.Generator(device).manual_seed(seed)
    tensors = {}
    for path, module in backbone.base_model.named_modules():
        if path.endswith(LINEARS) and hasattr(module, "in_features"):
            key = f"base_model.model.model.{path}"
            for name, shape in (
                ("lora_A", (RANK, module.in_features)),
                ("lora_B", (module.out_features, RANK)),
            ):
                values = torch.randn(shape, generator=draw, device=device) * 0.02
                tensors[f"{key}.{name}.weight"] = values.to(torch.bfloat16).cpu()
    return tensors


def measure_rates(
    options: StageOptions, backbone: Backbone, scheme: str, mixes: list[tuple[int, int]]
) -> None:
    """Record tokens a second of every mix, with CUDA graphs and without."""
    decoder = Decoder(backbone, max(s for s, _ in mixes), max(a for _, a in mixes))
    tokens, rounds = (4, 1) if options.tiny else (48, 2)
    sizes = step_bytes(backbone)
    for sequences, adapters in mixes:
        if not options.has_time(6):
            break
        kinds = {"eager": False} | ({"graphs": True} if decoder.graphs is not None else {})
        rates: dict[str, float] = {}
        for kind, graphs in kinds.items():
            if kind == "eager" and len(kinds) > 1 and adapters not in (0, 64):
                continue
            # the first round compiles and captures
            found = [
                decoder.rate(sequences, adapters, tokens, graphs=graphs) for _ in range(rounds + 1)
            ]
            rates[kind] = statistics.median(found[1:])
        used = min(sequences, adapters)
        context = PROMPT + tokens / 2
        options.record(
            f"{scheme}, {sequences} sequences, {adapters} adapters",
            kind="rate",
            scheme=scheme,
            sequences=sequences,
            adapters=adapters,
            tokens_per_second=rates,
            step_bytes=round(
                sizes["weights"] + used * sizes["adapter"] + sequences * context * sizes["kv"]
            ),
            graph_seconds=graph_seconds(decoder, sequences, adapters),
        )
    decoder.engine.close()


def step_bytes(backbone: Backbone) -> dict[str, float]:
    """Return the bytes of all weights, of one adapter, and of a token's keys and values."""
    config = backbone.config
    value = 2 if backbone.quantization.compute_dtype == "bfloat16" else 4
    embeddings = config.vocab_size * config.hidden_size * value
    adapter = sum(t.numel() for t in adapter_tensors(backbone, 0).values()) * value
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    return {
        "weights": backbone.memory_bytes - embeddings,
        "adapter": adapter,
        "kv": 2 * config.num_hidden_layers * width * value,
    }


def graph_seconds(decoder: Decoder, sequences: int, adapters: int) -> float | None:
    """Return how long the device takes for a step's graph; the rest of a step is overhead."""
    graphs = decoder.graphs
    replay = graphs.captured(sequences, adapted=adapters > 0) if graphs else None
    return None if replay is None else seconds_of(replay, decoder.backbone.device)


def measure_prefill(options: StageOptions, backbone: Backbone) -> None:
    """Record prompt tokens a second at prompts of 2,048 tokens."""
    length = 64 if options.tiny else 2048
    config = EngineConfig(
        max_num_seqs=4,
        max_num_batched_tokens=length,
        kv_cache_tokens=8 * length,
        rank_slots=RANK,
        host_cache_bytes=1024**3,
    )
    engine = Engine(backbone, config)
    engine.load_weights(random_adapter(backbone, 0), key="adapter-0", name="0")
    draw, most = random.Random(5), backbone.config.vocab_size
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    for adapter in (None, "0"):
        durations = []
        for _ in range(4):
            engine.add([draw.randrange(2, most) for _ in range(length)], adapter, params)
            began = time.perf_counter()
            while engine.busy:
                engine.step()
            synchronize(backbone.device)
            durations.append(time.perf_counter() - began)
        options.record(
            f"prefill of {length} tokens, {'one adapter' if adapter else 'no adapter'}",
            kind="prefill",
            tokens_per_second=length / statistics.median(durations[1:]),
        )
    engine.close()


class FolderSource:
    """Adapters on disk: a few artifacts that stand behind any number of names."""

    def __init__(self, root: Path, backbone: Backbone, count: int) -> None:
        self.folders = [root / str(number) for number in range(count)]
        for number, folder in enumerate(self.folders):
            write_random_artifact(folder, backbone, number)
        self._pool = ThreadPoolExecutor(2)

    def resolve(self, ref: str) -> str:
        """Return the digest of a name, which is the name."""
        return ref

    def fetch(self, digest: str) -> Future[Artifact]:
        """Return the future of the artifact behind a name, verified."""
        return self._pool.submit(read_artifact, self.folders[int(digest) % len(self.folders)])

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


def write_random_artifact(folder: Path, backbone: Backbone, seed: int) -> None:
    """Write an adapter of random factors, as training would."""
    spec = LoraSpec(rank=RANK, alpha=float(RANK), target_modules=LINEARS)
    tensors = adapter_tensors(backbone, seed)
    config = peft_config(
        spec,
        task_type="CAUSAL_LM",
        target_modules=LINEARS,
        base_model=backbone.name,
        modules_to_save=None,
        revision=None,
    )
    manifest = Manifest(
        task="dialogue",
        labels=(),
        backbone=BackboneRef(name=backbone.name, fingerprint=backbone.fingerprint),
        quantization=backbone.quantization,
        adapter=spec,
        trained_parameters=sum(t.numel() for t in tensors.values()),
        backbone_parameters=backbone.parameters,
        recipe={"task": {"max_length": 512, "max_new_tokens": 64, "system_prompt": ""}},
        data={},
        metrics=Metrics(),
        seed=seed,
        libraries={},
    )
    write_artifact(
        folder,
        tensors=tensors,
        adapter_config=config_document(config),
        manifest=manifest,
        card="# Random\n",
    )


def first_token(engine: Engine, request: Request) -> float:
    """Return milliseconds until a request that was just added has its first token."""
    began = time.perf_counter()
    while not request.finished:
        engine.step()
    took = (time.perf_counter() - began) * 1e3
    error = request.output().error
    if error is not None:
        raise error
    return took


def measure_cold(options: StageOptions, backbone: Backbone, source: FolderSource) -> None:
    """Record what a cold adapter adds to the first token, from host memory and from disk."""
    one = Decoder.__new__(Decoder)
    one.backbone, one.draw = backbone, random.Random(3)
    from_host: list[float] = []
    from_disk: list[float] = []
    resident: list[float] = []
    room = 16 * 1024**3
    # one slot: every change of adapter is a copy; host memory for all, then for one
    for host_bytes, cold in ((room, from_host), (host_room(backbone), from_disk)):
        config = EngineConfig(
            max_num_seqs=2, kv_cache_tokens=1024, rank_slots=RANK, host_cache_bytes=host_bytes
        )
        one.engine = Engine(backbone, config, source=source)
        for turn in range(2 if options.tiny else 4):
            for number in range(TEMPLATES):
                took = first_token(one.engine, one.add(str(number), 1))
                if turn:  # the first turn brings them into host memory
                    cold.append(took)
                resident.append(first_token(one.engine, one.add(str(number), 1)))
        one.engine.close()
    base = statistics.median(resident)
    options.record(
        "cold adapter to first token",
        kind="cold",
        resident_ms=base,
        added_from_host_ms=statistics.median(from_host) - base,
        added_from_disk_ms=statistics.median(from_disk) - base,
        adapter_bytes=step_bytes(backbone)["adapter"],
    )


def host_room(backbone: Backbone) -> int:
    """Return bytes of host memory for one adapter and a half."""
    return int(1.5 * step_bytes(backbone)["adapter"])


def measure_traffic(
    options: StageOptions, backbone: Backbone, source: FolderSource, *, registered: int
) -> None:
    """Record time to first token of Zipf traffic over many registered adapters."""
    side = Decoder.__new__(Decoder)
    side.backbone, side.draw = backbone, random.Random(4)
    parallel, duration = (4, 2.0) if options.tiny else (32, 15.0)
    config = EngineConfig(
        max_num_seqs=parallel,
        kv_cache_tokens=parallel * 256,
        rank_slots=RANK * parallel,
        host_cache_bytes=int(400 * step_bytes(backbone)["adapter"]),
        max_copy_bytes=64 * 1024**2,
    )
    side.engine = engine = Engine(backbone, config, source=source)
    weights = list(accumulate(1 / (place + 1) for place in range(registered)))
    names = [str(number) for number in range(registered)]
    waiting: dict[Any, float] = {}
    first: list[float] = []
    tokens, under_way = 0, 0
    began = time.perf_counter()
    while engine.busy or time.perf_counter() - began < duration:
        open_ = time.perf_counter() - began < duration
        under_way = engine.stats().running + engine.stats().waiting
        for _ in range(parallel - under_way if open_ else 0):
            (name,) = side.draw.choices(names, cum_weights=weights)
            now = time.perf_counter()
            waiting[sequence_of(side.add(name, 16))] = now
        for sequence, _ in engine.step():
            tokens += 1
            if sequence in waiting:
                first.append((time.perf_counter() - waiting.pop(sequence)) * 1e3)
    seconds = time.perf_counter() - began
    stats = engine.stats()
    engine.close()
    first.sort()
    options.record(
        f"Zipf traffic over {registered} adapters",
        kind="traffic",
        tokens_per_second=tokens / seconds,
        first_token_p50_ms=statistics.median(first),
        first_token_p99_ms=first[int(0.99 * len(first))],
        requests=len(first),
        loads=stats.loads,
    )


def sequence_of(request: Request) -> Any:
    """Return the one sequence of a request."""
    (sequence,) = request.sequences
    return sequence


if __name__ == "__main__":
    main()
