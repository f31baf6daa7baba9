"""Small artifacts of one layer, and what the child processes of the tests do.

Imported by spawned processes, so it must stay light.
"""

import json
import os
import sys
from dataclasses import replace
from hashlib import sha256
from math import prod
from pathlib import Path

from adapterhub.adapters.manifest import BackboneRef, FileEntry, Manifest, Metrics
from adapterhub.errors import NotFoundError
from adapterhub.registry import Registry
from adapterhub.registry.archive.export import export_version
from adapterhub.registry.archive.intake import import_version
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

WEIGHTS = "adapter_model.safetensors"
PROMPT = "prompt_embeddings"
MANIFEST = Manifest(
    task="text-classification",
    labels=("fruit", "stone"),
    backbone=BackboneRef(name="tiny", fingerprint="sha256:ab"),
    quantization=QuantizationSpec("none", "float32"),
    adapter=LoraSpec(rank=2, alpha=4.0, target_modules=("query",)),
    trained_parameters=74,
    backbone_parameters=1000,
    recipe={"epochs": 1},
    data={},
    metrics=Metrics(before={"accuracy": 0.5}, after={"accuracy": 0.75}),
    seed=0,
    libraries={},
)


def weights_file(text, *, rank=2, **more):
    """Return the safetensors file of LoRA on one layer, with a text that tells it from others."""
    shapes = {
        "base_model.model.query.lora_A.weight": [rank, 4],
        "base_model.model.query.lora_B.weight": [4, rank],
    }
    return safetensors_file(text, {**shapes, **more})


def safetensors_file(text, shapes):
    """Return a safetensors file of tensors of ones, with a text in its metadata."""
    header, start = {"__metadata__": {"text": text}}, 0
    for name, shape in shapes.items():
        size = 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, start + size]}
        start += size
    document = json.dumps(header).encode()
    # ones, since an adapter of zeros changes nothing
    return len(document).to_bytes(8, "little") + document + b"\0\0\x80?" * (start // 4)


def text_of(path):
    """Return the text in a file of ``weights_file``."""
    content = path.read_bytes()
    stop = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:stop])["__metadata__"]["text"]


def lora_config(**changes):
    """Return the configuration of the artifacts, as peft writes it."""
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "target_modules": ["query"]}
    return json.dumps(plain | changes).encode()


def make_artifact(folder, weights, *, files=None, **changes):
    """Write an artifact folder; equal arguments give equal bytes."""
    spec = changes.get("adapter", MANIFEST.adapter)
    if isinstance(spec, PrefixSpec):
        length = spec.num_virtual_tokens
        config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": length}
        made = json.dumps(config).encode(), safetensors_file(weights, {PROMPT: [length, 4]})
    else:
        made = (
            lora_config(r=spec.rank, lora_alpha=spec.alpha),
            weights_file(weights, rank=spec.rank),
        )
    contents = {
        "adapter_config.json": made[0],
        WEIGHTS: made[1],
        "README.md": b"# A card\n",
        **(files or {}),
    }
    entries = {
        name: FileEntry(sha256=sha256(content).hexdigest(), size=len(content))
        for name, content in contents.items()
    }
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(replace(MANIFEST, files=entries, **changes).to_json())
    return folder


def bundle(name):
    """Return what has the form of a signature, by a key of its own for each name."""
    hint = sha256(name.encode()).hexdigest()
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": hint}},
            "dsseEnvelope": {},
        }
    ).encode()


def write_five(root, folders, barrier):
    """Put each folder under the name that all writers share."""
    registry = Registry(root)
    barrier.wait()
    for folder in folders:
        registry.put(folder, "shared")


def churn(root, folder, name, barrier):
    """Put, remove and collect, under a name of its own, contents that others put too."""
    registry = Registry(root)
    barrier.wait()
    for _ in range(8):
        version = registry.put(folder, name)
        (registry.materialize(version) / WEIGHTS).read_bytes()
        registry.add_signature(version.ref, bundle(name))
        if not any(bundle(name) == each.content for each in registry.signatures(version)):
            raise AssertionError(f"the signature of {name} is lost")
        registry.remove(version.ref)
        registry.collect(grace=0)


def read_all(root, done, barrier, failures):
    """Check until stopped that every version seen is complete, and that none is lost."""
    registry = Registry(root)
    barrier.wait()
    seen = {}
    rounds = 0
    while not done.is_set() or rounds == 0:
        rounds += 1
        now = {version.version: version.digest for version in registry.versions("shared")}
        if not seen.items() <= now.items():
            failures.put(f"lost {seen.items() - now.items()}")
        seen = now
        for version in registry.list():
            try:
                path = registry.materialize(version)
                (path / WEIGHTS).read_bytes()
            except (NotFoundError, FileNotFoundError):
                if not version.name.startswith("churn"):
                    failures.put(f"{version.ref} could not be read")


def killed_at(step):
    """Return a hook that ends the process at a step, as a kill does."""

    def hook(name):
        if name == step:
            os._exit(77)

    return hook


def main(action, root, step, argument):
    """Run one operation in this process and be killed at ``step``."""
    registry = Registry(Path(root), on_step=killed_at(step))
    if action == "put":
        registry.put(Path(argument), "topics")
    elif action == "remove":
        registry.remove(argument)
    elif action == "sign":
        registry.add_signature("topics", Path(argument).read_bytes())
    elif action == "import":
        import_version(registry, Path(argument), on_step=killed_at(step))
    elif action == "export":
        export_version(registry, "topics", Path(argument), on_step=killed_at(step))
    elif action == "collect":
        registry.collect(grace=float(argument))
    else:
        registry.materialize(registry.resolve(argument))


if __name__ == "__main__":
    main(*sys.argv[1:])
