"""How much memory does a frozen backbone take, resident, in each way of holding it?

Physics: 4 bits a weight and one float32 scale for 64 weights make 0.56 bytes a weight in
the linear layers, against 2 in bfloat16 and 4 in float32; embeddings and norms stay in the
compute type. Each way is loaded in a process of its own, from the cache; what that process
holds before loading (Python and its libraries) is measured and taken off.

    python benchmarks/backbone_memory.py [smollm2-135m-instruct]

The last line of output is JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys

WAYS = {
    "nf4": ("nf4", "bfloat16"),
    "fp4": ("fp4", "bfloat16"),
    "int8": ("int8", "bfloat16"),
    "bfloat16": ("none", "bfloat16"),
    "float32": ("none", "float32"),
}


def resident_bytes() -> int:
    """Return the process's resident memory, without file pages that can be dropped."""
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return int(fields["Anonymous"].split()[0]) * 1024


def measure(name: str, way: str) -> dict[str, float]:
    import gc

    import torch

    import adapterhub.backbones.task_model as models
    from adapterhub.backbones.backbone import load_backbone
    from adapterhub.data.packing import EncodedExample, pack
    from adapterhub.specs import LoraSpec, QuantizationSpec

    torch.ones(8, 8) @ torch.ones(8, 8)
    before = resident_bytes()
    backbone = load_backbone(name, QuantizationSpec(*WAYS[way]))
    gc.collect()
    loaded = resident_bytes() - before
    head = "causal_lm" if backbone.kind == "decoder" else "token"
    model = models.build_task_model(
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
        "resident_mb": round(loaded / 1e6, 1),
        "resident_after_use_mb": round((resident_bytes() - before) / 1e6, 1),
        "weights_mb": round(backbone.memory_bytes / 1e6, 1),
    }


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    if len(sys.argv) > 2:
        print(json.dumps(measure(name, sys.argv[2])))
        return
    results = {}
    for way in WAYS:
        command = [sys.executable, __file__, name, way]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        results[way] = json.loads(output.strip().splitlines()[-1])
        print(f"{way:9} {results[way]}", flush=True)
    print(json.dumps({"backbone": name, **results}))


if __name__ == "__main__":
    main()
