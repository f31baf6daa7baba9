"""One vLLM engine in a process of its own, asked over standard input.

Run by the Python of vLLM's environment, which has neither adapterhub nor its versions of torch
and transformers; ``vllm_side.py`` starts it. The first line of output says that the model is
loaded. Then each line of input is a request and each line of output its answer:

    {"prompts": [[1, 2], [3, 4]], "adapters": ["/folder/of/peft", null], "tokens": 32}
    {"seconds": 0.8, "tokens": [[5, 6, ...], [7, 8, ...]]}

Generation is greedy and never stops early. The seconds are those of ``generate`` alone. What
vLLM prints goes to standard error.
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
    parser.add_argument("--rows", type=int, required=True, help="most rows of a request")
    parser.add_argument("--length", type=int, required=True, help="most tokens of a row")
    parser.add_argument("--adapters", type=int, default=0, help="most at once; 0: LoRA is off")
    parser.add_argument("--rank", type=int, default=16, help="highest rank of an adapter")
    asked = parser.parse_args()
    answers = take_standard_output()
    llm = load(asked)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    numbers: dict[str, int] = {}
    for line in sys.stdin:
        print(json.dumps(answer(llm, json.loads(line), numbers)), file=answers, flush=True)


def take_standard_output() -> TextIOWrapper:
    """Return standard output for answers alone; whatever prints from now on prints to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def load(asked: argparse.Namespace) -> Any:
    """Return the engine; no prefix is cached, so every prompt is computed."""
    from vllm import LLM

    options: dict[str, Any] = {}
    if asked.adapters:
        options = {
            "enable_lora": True,
            "max_loras": asked.adapters,
            "max_cpu_loras": asked.adapters,
            "max_lora_rank": asked.rank,
        }
    return LLM(
        asked.model,
        dtype=asked.dtype,
        max_model_len=asked.length,
        max_num_seqs=asked.rows,
        enable_prefix_caching=False,
        disable_log_stats=True,
        **options,
    )


def answer(llm: Any, request: dict[str, Any], numbers: dict[str, int]) -> dict[str, Any]:
    """Generate for one request.

    Args:
        llm: the engine.
        request: ``prompts``, ``adapters`` and ``tokens`` as the module says.
        numbers: vLLM's number of each adapter's folder; new folders are added.
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
    began = time.perf_counter()
    outputs = llm.generate(prompts, sampling, use_tqdm=False, **options)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": [list(each.outputs[0].token_ids) for each in outputs]}


if __name__ == "__main__":
    main()
