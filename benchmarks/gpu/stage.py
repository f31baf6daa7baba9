"""What the stages of the GPU run share: options, records, timing and random backbones."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adapterhub.backbones.backbone import Backbone
from adapterhub.backbones.quantize import default_compute_dtype, quantize_linears, torch_dtype
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Callable

RANK = 16
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
#: Adapters for dialogue are refused on a backbone without a chat template.
TEMPLATE = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"


@dataclass
class StageOptions:
    """Options of a stage, and the file that its records go to.

    Args:
        device: Device that is proved or measured.
        tiny: Whether small shapes stand in for the real ones.
        deadline: Value of ``time.monotonic()`` at which the stage should have ended.
    """

    device: torch.device
    tiny: bool
    deadline: float
    _records: Path

    def record(self, name: str, **values: Any) -> None:
        """Append a record; what is written stays even if the stage is killed.

        Args:
            name: Name of the record, unique in its stage.
            values: JSON values; ``passed=False`` makes the stage fail.
        """
        line = {"name": name, **values}
        with self._records.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    @property
    def shape(self) -> dict[str, Any]:
        """Configuration of the backbone that is measured."""
        return TINY if self.tiny else LLAMA_3_8B

    def has_time(self, seconds: float) -> bool:
        """Return whether so many seconds are left."""
        return time.monotonic() + seconds < self.deadline


def stage_options() -> StageOptions:
    """Return the options on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=600.0)
    given = parser.parse_args()
    deadline = time.monotonic() + given.seconds
    return StageOptions(torch.device(given.device), given.tiny, deadline, given.records)


def random_backbone(shape: dict[str, Any], scheme: str, device: torch.device) -> Backbone:
    """Return a Llama-shaped backbone of random weights, made on the device.

    Args:
        shape: Fields of ``LlamaConfig``.
        scheme: Quantization scheme of its linear layers.
        device: Device of its weights.
    """
    config = LlamaConfig(**shape, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)
    spec = QuantizationSpec(scheme, default_compute_dtype(device))
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
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = TEMPLATE
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
        preprocessor=tokenizer,
        base_model=whole.model,
        lm_head=whole.lm_head,
        device=device,
        attn_implementation=config._attn_implementation,
    )


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(
    call: Callable[[], object], device: torch.device, *, calls: int = 20, rounds: int = 5
) -> float:
    """Return the median over rounds of the mean duration of calls in a row, in seconds."""
    for _ in range(3):
        call()
    durations = []
    for _ in range(rounds):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(device)
        durations.append((time.perf_counter() - began) / calls)
    return statistics.median(durations)
