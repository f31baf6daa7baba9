"""The engine, transformers with peft, and vLLM as sides of ``serving.py``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import peft
import torch
from bench_common import LINEARS, RANK, random_adapter
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from vllm_side import VllmSide

from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.specs import ComputeDtype

    Prompts = list[list[int]]
    #: Generates for all prompts; returns seconds where another process measured them.
    Run = Callable[[], float | None]

BACKBONE = "smollm2-135m-instruct"


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
        max_model_len: Tokens of a prompt and its answer.
    """

    def __init__(
        self,
        python: str,
        compute: ComputeDtype,
        folders: list[Path],
        max_num_seqs: int,
        max_model_len: int,
    ) -> None:
        self._folders = [str(folder) for folder in folders]
        self._stack = ExitStack()

        def start(max_loras: int) -> VllmSide:
            side = VllmSide(
                python,
                str(fetch_backbone(BACKBONE)),
                dtype=compute,
                max_num_seqs=max_num_seqs,
                max_model_len=max_model_len,
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
    folder.mkdir(parents=True)
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
