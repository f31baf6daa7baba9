"""How fast does an 8-billion-parameter backbone in NF4 decode on one GPU, with many adapters?

Physics: a decoding step reads every weight once for all rows. The linear layers of Llama 3 8B
hold 7.0 billion weights, 3.5 GB of codes and 0.44 GB of scales in NF4, and the output layer
1.05 GB in bfloat16; an adapter of rank 16 on all of them holds 42 million values, 84 MB.
Divided by a GPU's bandwidth that is the least that a step takes. What is above it is launches,
which CUDA graphs save, and products that write expanded weights to memory, which the fused
product saves.

The backbone has the shape of Llama 3 8B and random weights, made in place; nothing is
downloaded. Decoding steps of the engine are timed as they are computed and as CUDA graphs
replay them; then each kernel alone, against plain torch and against bitsandbytes' own product.
Rounds go in turns; medians are printed. Without a GPU the script says so and ends.

    python benchmarks/gpu_decode.py [--rows 1 8 32] [--adapters 0 1 8 32] [--tokens 64]
                                    [--rounds 3] [--tiny]

``--tiny`` takes a small shape, and the CPU where there is no GPU, to try the script itself.
The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import Backbone
from adapterhub.backbones.quantize import default_compute_dtype, quantize_linears, torch_dtype
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.kernels.choice import choose_lora_kernel, has_triton
from adapterhub.kernels.lora.plan import RankSlice, build_plan
from adapterhub.kernels.lora.reference import ReferenceLoraKernel
from adapterhub.specs import LoraSpec, QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Callable

RANK = 16
PROMPT = 32
LLAMA_3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
TINY = {
    **LLAMA_3_8B,
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def random_backbone(shape: dict[str, Any], device: torch.device) -> Backbone:
    """Return a backbone of random weights in NF4, made on the device."""
    config = LlamaConfig(**shape, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)
    spec = QuantizationSpec("nf4", default_compute_dtype(device))
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch_dtype(spec.compute_dtype))
    try:
        with torch.device(device):
            whole = LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    quantize_linears(whole.model, spec, device)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    return Backbone(
        name="random weights",
        hub_id=None,
        revision=None,
        license=None,
        path=Path(),
        kind="decoder",
        quantization=spec,
        fingerprint="random",
        config=config,
        preprocessor=PreTrainedTokenizerFast(tokenizer_object=words),
        body=whole.model,
        lm_head=whole.lm_head,
        device=device,
    )


def random_adapter(engine: Engine, seed: int) -> AdapterWeights:
    """Return an adapter of rank 16 on all linear layers."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, site in engine._sites.linear.items():
        key = f"base_model.model.model.{path}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, site.in_features, generator=draw) * 0.02
        tensors[f"{key}.lora_B.weight"] = (
            torch.randn(site.out_features, RANK, generator=draw) * 0.02
        )
    return AdapterWeights(LoraSpec(rank=RANK, alpha=float(RANK)), tensors)


def wait(device: torch.device) -> None:
    """Wait until a device has done all of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Decoding:
    """The engine, with every adapter loaded."""

    def __init__(self, backbone: Backbone, adapters: int, rows: int) -> None:
        settings = EngineConfig(
            max_num_seqs=rows,
            max_num_batched_tokens=max(512, rows),
            rank_slots=RANK * max(1, adapters),
        )
        self.engine = Engine(backbone, settings)
        self.graphs = self.engine._forward.graphs
        for number in range(adapters):
            weights = random_adapter(self.engine, number)
            self.engine.load_weights(weights, key=f"adapter-{number}", name=str(number))

    def rate(self, rows: int, adapters: int, tokens: int, seed: int, *, graphs: bool) -> float:
        """Return tokens a second over the steps in which every row has one token."""
        engine, draw = self.engine, random.Random(seed)
        engine._forward.graphs = self.graphs if graphs else None
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        most = engine.backbone.config.vocab_size
        for row in range(rows):
            prompt = [draw.randrange(2, most) for _ in range(PROMPT)]
            engine.add(prompt, str(row % adapters) if adapters else None, params)
        while engine.busy and len(engine.step()) < rows:
            pass
        wait(engine.backbone.device)
        began, made = time.perf_counter(), 0
        while engine.busy:
            made += len(engine.step())
        wait(engine.backbone.device)
        return made / (time.perf_counter() - began)


def decoding(backbone: Backbone, asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return tokens a second of every number of rows and adapters, computed and replayed."""
    side = Decoding(backbone, max(asked.adapters), max(asked.rows))
    kinds = {"eager": False} | ({"graphs": True} if side.graphs is not None else {})
    results: dict[str, dict[str, float]] = {}
    for rows in asked.rows:
        for adapters in (count for count in asked.adapters if count <= rows):
            speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
            for turn in range(asked.rounds + 1):
                for kind, graphs in kinds.items():
                    speed = side.rate(rows, adapters, asked.tokens, turn, graphs=graphs)
                    if turn:  # the first one compiles and captures
                        speeds[kind].append(speed)
            name = f"{rows} rows, {adapters} adapters"
            results[name] = {kind: round(statistics.median(s), 1) for kind, s in speeds.items()}
            print(f"tokens/s, {name}: {results[name]}", flush=True)
    side.engine.close()
    return results


def microseconds(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median over rounds of the mean time of 20 calls in a row."""
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        wait(device)
        began = time.perf_counter()
        for _ in range(20):
            call()
        wait(device)
        times.append((time.perf_counter() - began) / 20 * 1e6)
    return round(statistics.median(times), 1)


def products(backbone: Backbone, asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the time of 4-bit products, by bitsandbytes and, where it runs, by Triton."""
    results: dict[str, dict[str, float]] = {}
    device, layer = backbone.device, backbone.base_model.layers[0]
    for path in ("self_attn.k_proj", "self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"):
        linear = layer.get_submodule(path)
        dtype = torch_dtype(backbone.quantization.compute_dtype)
        for rows in asked.rows:
            x = torch.randn(rows, linear.in_features, device=device, dtype=dtype)
            with torch.no_grad():
                sides = {"bitsandbytes": lambda x=x, linear=linear: linear(x)}
                if has_triton(device.type):
                    from adapterhub.kernels.linear.triton_four_bit import TritonLinear4bit

                    fused = TritonLinear4bit(linear)
                    sides["triton"] = lambda x=x, fused=fused: fused(x)
                name = f"{path}, {rows} rows"
                results[name] = {k: microseconds(f, device, asked.rounds) for k, f in sides.items()}
            print(f"us, 4-bit product, {name}: {results[name]}", flush=True)
    return results


def adapters_alone(backbone: Backbone, asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the time of adding adapters to one layer, by the chosen kernel and plain torch."""
    results: dict[str, dict[str, float]] = {}
    device = backbone.device
    dtype = torch_dtype(backbone.quantization.compute_dtype)
    width, out = backbone.config.hidden_size, backbone.config.intermediate_size
    for rows in asked.rows:
        for adapters in (count for count in asked.adapters if 0 < count <= rows):
            shapes = ((rows, out), (rows, width), (RANK * adapters, width), (RANK * adapters, out))
            y, x, a, b = (torch.randn(shape, device=device, dtype=dtype) for shape in shapes)
            plan = build_plan(
                [(1, (RankSlice(RANK * (row % adapters), RANK, 1.0),)) for row in range(rows)]
            )
            if plan is None:
                continue
            kernels = {"chosen": choose_lora_kernel(device.type), "plain": ReferenceLoraKernel()}
            name = f"{width} by {out}, {rows} rows, {adapters} adapters"
            results[name] = {}
            for kind, kernel in kernels.items():

                def add(kernel: Any = kernel, given: Any = (y, x, a, b, plan)) -> None:
                    kernel.add_(*given)

                results[name][kind] = microseconds(add, device, asked.rounds)
            print(f"us, adapters, {name}: {results[name]}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--adapters", type=int, nargs="+", default=[0, 1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="try the script; no figures to keep")
    asked = parser.parse_args()
    if not torch.cuda.is_available() and not asked.tiny:
        print("There is no GPU here: nothing was measured.")
        print(json.dumps({"gpu": None}))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else None
    backbone = random_backbone(TINY if asked.tiny else LLAMA_3_8B, device)
    print(f"{name or 'no GPU, the CPU'}: {backbone.parameters / 1e9:.2f} billion weights")
    found = {
        "four_bit_us": products(backbone, asked),
        "adapters_us": adapters_alone(backbone, asked),
        "tokens_per_second": decoding(backbone, asked),
    }
    shape = "tiny" if asked.tiny else "Llama 3 8B"
    print(json.dumps({"gpu": name, "torch": torch.__version__, "shape": shape, **found}))


if __name__ == "__main__":
    main()
