"""Small artifacts without tensors, and what the child processes of the tests do.

Imported by spawned processes, so it must stay light.
"""

import json
import os
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from adapterhub.adapters.manifest import BackboneRef, FileEntry, Manifest, Metrics
from adapterhub.errors import NotFoundError
from adapterhub.registry import Registry
from adapterhub.registry.archive.export import export_version
from adapterhub.registry.archive.intake import import_version
from adapterhub.specs import LoraSpec, QuantizationSpec

WEIGHTS = "adapter_model.safetensors"
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


def make_artifact(folder, weights, *, files=None, **changes):
    """Write an artifact folder; equal arguments give equal bytes."""
    contents = {
        WEIGHTS: weights.encode(),
        "adapter_config.json": b'{"peft_type": "LORA"}',
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
