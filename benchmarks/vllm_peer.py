"""A vLLM engine in a process of its own, controlled over standard input.

Run by the Python of vLLM's environment, which has neither adapterhub nor its versions of torch
and transformers; ``vllm_side.py`` starts it. The first line of output reports that the model is
loaded. Then each line of input is a batch of prompts and each line of output its answer:

    {"prompts": [[1, 2], [3, 4]], "adapters": ["/folder/of/peft", null], "tokens": 32}
    {"seconds": 0.8, "tokens": [[5, 6, ...], [7, 8, ...]]}

Generation is greedy and never stops early. The seconds are those of ``generate`` alone. The
output of vLLM itself goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from io import TextIOWrapper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of the backbone")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--max-loras", type=int, default=0, help="0 disables LoRA")
    parser.add_argument("--max-lora-rank", type=int, default=16)
    options = parser.parse_args()
    answers = take_standard_output()
    llm = load(options)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    numbers: dict[str, int] = {}
    for line in sys.stdin:
        print(json.dumps(answer(llm, json.loads(line), numbers)), file=answers, flush=True)


def take_standard_output() -> TextIOWrapper:
    """Reserve standard output for answers; all other prints go to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def load(options: argparse.Namespace) -> Any:
    """Return the engine, without prefix caching, so that every prompt is computed."""
    from vllm import LLM

    lora: dict[str, Any] = {}
    if options.max_loras:
        lora = {
            "enable_lora": True,
            "max_loras": options.max_loras,
            "max_cpu_loras": options.max_loras,
            "max_lora_rank": options.max_lora_rank,
        }
    return LLM(
        options.model,
        dtype=options.dtype,
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        enable_prefix_caching=False,
        disable_log_stats=True,
        **lora,
    )


def answer(llm: Any, request: dict[str, Any], numbers: dict[str, int]) -> dict[str, Any]:
    """Generate for one batch of prompts.

    Args:
        llm: Engine.
        request: Object with ``prompts``, ``adapters`` and ``tokens``.
        numbers: Folder of an adapter to its number in vLLM; new folders are added.
    """
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    sampling = SamplingParams(
        temperature=0.0, max_tokens=request["tokens"], ignore_eos=True, detokenize=False
    )
    loras = []
    for folder in request["adapters"]:
        number = numbers.setdefault(folder, len(numbers) + 1) if folder else 0
        loras.append(LoRARequest(str(number), number, folder) if folder else None)
    prompts = [{"prompt_token_ids": prompt} for prompt in request["prompts"]]
    options = {"lora_request": loras} if any(loras) else {}
    started = time.perf_counter()
    outputs = llm.generate(prompts, sampling, use_tqdm=False, **options)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": [list(each.outputs[0].token_ids) for each in outputs]}


if __name__ == "__main__":
    main()
