"""How much resident memory does a frozen backbone take in each quantization scheme and dtype?

Physics: 4 bits per weight and one float32 scale per 64 weights make 0.56 bytes per weight in the
linear layers, compared to 2 in bfloat16 and 4 in float32; embeddings and norms stay in the compute
dtype. Each variant is loaded from the cache in a process of its own; the memory of Python and its
libraries is measured before loading and subtracted.

    python benchmarks/backbone_memory.py [smollm2-135m-instruct]

The last line of output is JSON.
"""

from __future__ import annotations

import gc
import json
import sys

from bench_common import MEGABYTE, resident_memory, run_script

#: Name to quantization scheme and compute dtype.
VARIANTS = {
    "nf4": ("nf4", "bfloat16"),
    "fp4": ("fp4", "bfloat16"),
    "int8": ("int8", "bfloat16"),
    "bfloat16": ("none", "bfloat16"),
    "float32": ("none", "float32"),
}


def measure(name: str, variant: str) -> dict[str, float]:
    """Return the memory of one variant after loading and after a forward pass, in MB."""
    import torch

    from adapterhub.backbones.backbone import load_backbone
    from adapterhub.backbones.task_model import build_task_model
    from adapterhub.data.packing import EncodedExample, pack
    from adapterhub.specs import LoraSpec, QuantizationSpec

    torch.ones(8, 8) @ torch.ones(8, 8)
    before = resident_memory().anonymous
    backbone = load_backbone(name, QuantizationSpec(*VARIANTS[variant]))
    gc.collect()
    loaded = resident_memory().anonymous - before
    head = "causal_lm" if backbone.kind == "decoder" else "token"
    model = build_task_model(
        backbone,
        head=head,
        task_type="TOKEN_CLS" if head == "token" else "CAUSAL_LM",
        labels=("a", "b"),
        adapter=LoraSpec(rank=1),
    )
    model.eval()
    ids = list(range(5, 133))
    with torch.no_grad():
        model.hidden(pack([EncodedExample(1, ids, (0,))]))
    gc.collect()
    return {
        "resident_mb": round(loaded, 1),
        "resident_after_use_mb": round(resident_memory().anonymous - before, 1),
        "weights_mb": round(backbone.memory_bytes / MEGABYTE, 1),
    }


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    if len(sys.argv) > 2:
        print(json.dumps(measure(name, sys.argv[2])))
        return
    results = {}
    for variant in VARIANTS:
        results[variant] = run_script(__file__, name, variant)
        print(f"{variant:9} {results[variant]}", flush=True)
    print(json.dumps({"backbone": name, **results}))


if __name__ == "__main__":
    main()
