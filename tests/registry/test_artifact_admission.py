"""Artifacts that cannot be loaded are refused before they are stored, by every door."""

import io
import json
import pickle
import struct
import zipfile

import pytest
from archive_helpers import entry, pack
from registry_helpers import (
    WEIGHTS,
    lora_config,
    make_artifact,
    weights_file,
)

from adapterhub.adapters.safetensors_header import MAX_HEADER
from adapterhub.adapters.strict_json import MAX_JSON
from adapterhub.errors import ArtifactError
from adapterhub.registry.archive.intake import import_version

CONFIG = "adapter_config.json"


def zipped():
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("a", "b")
    return target.getvalue()


def with_header(document):
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return len(content).to_bytes(8, "little") + content


def with_nan():
    content = bytearray(weights_file("x"))
    content[-4:] = struct.pack("<f", float("nan"))
    return bytes(content)


A = "base_model.model.query.lora_A.weight"
HUGE = {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 4]}
REFUSED = [
    (WEIGHTS, pickle.dumps({"a": 1}), "holds a pickle"),
    (WEIGHTS, zipped(), "is an archive"),
    (WEIGHTS, b"", "is not a safetensors file"),
    (WEIGHTS, b"weights", "is not a safetensors file"),
    (WEIGHTS, weights_file("x")[:-1], "is not a safetensors file"),
    (WEIGHTS, weights_file("x") + b"\0", "is not a safetensors file"),
    (WEIGHTS, b"\xff" * 7 + b"\0{", "is not a safetensors file"),
    (WEIGHTS, (1 << 40).to_bytes(8, "little") + b"{", "is not a safetensors file"),
    (WEIGHTS, with_header(b"{" + b" " * MAX_HEADER + b"}"), "is larger than the limit"),
    (WEIGHTS, with_header(rb'{"__metadata__": {"a": "\ud800"}}'), "lone surrogate"),
    (WEIGHTS, with_header({"__metadata__": {"a": 1}}), "must hold texts"),
    (WEIGHTS, with_header({A: HUGE}), "is not"),
    (WEIGHTS, with_header({A: 3}), "is not a safetensors file"),
    (WEIGHTS, with_header({}), "no tensor for the target module 'query'"),
    (WEIGHTS, with_nan(), "1 of 8 values are NaN or infinite"),
    (WEIGHTS, weights_file("x", rank=3), "the configuration says rank 2"),
    (WEIGHTS, weights_file("x", other=[2]), "does not belong to an adapter"),
    (CONFIG, b"no JSON", "is not valid JSON"),
    (CONFIG, pickle.dumps({}), "holds a pickle"),
    (CONFIG, b"{}", "peft_type"),
    (CONFIG, lora_config(r=4), "says lora: rank=4"),
    (CONFIG, lora_config(r=1 << 63), "64 bits"),
    (CONFIG, lora_config(lora_alpha=10**400), "64 bits"),
    (CONFIG, b'{"a": "' + b"x" * MAX_JSON + b'"}', "larger than the limit"),
    ("notes.txt", pickle.dumps("x"), "holds a pickle"),
    ("README.md", zipped(), "is an archive"),
    ("plot.png", b"\x1f\x8b\x08" + b"x" * 9, "is an archive"),
    ("data.json", b"\x93NUMPY\x01\0", "holds a pickle"),
    ("more.safetensors", b"x" * 99, "is not a safetensors file"),
]


@pytest.mark.parametrize(("name", "content", "said"), REFUSED)
def test_what_cannot_be_loaded_is_refused(registry, tmp_path, name, content, said):
    folder = make_artifact(tmp_path / "made", "first", files={name: content})
    with pytest.raises(ArtifactError) as caught:
        registry.put(folder, "desk")
    text = str(caught.value)
    assert said in text
    assert name in text
    assert len(text.splitlines()) == 1
    assert len(text) < 400
    archive = pack(
        tmp_path / "made.tar", [entry(path.name, path.read_bytes()) for path in folder.iterdir()]
    )
    with pytest.raises(ArtifactError):
        import_version(registry, archive, name="desk")
    assert registry.list() == ()
    assert not any(path.is_file() for path in (registry.folder / "blobs").rglob("*"))


def test_a_manifest_without_the_files_of_an_adapter_is_refused(registry, tmp_path):
    folder = make_artifact(tmp_path / "made", "first")
    (folder / "README.md").unlink()
    document = json.loads((folder / "manifest.json").read_text())
    del document["files"]["README.md"]
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"does not list 'README.md'"):
        registry.put(folder, "desk")


def test_a_length_that_looks_like_a_pickle_is_one_of_a_header(registry, tmp_path):
    padded = 0x0480
    content = weights_file("x" * 900)
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].ljust(padded)
    weights = padded.to_bytes(8, "little") + header + content[8 + length :]
    assert weights.startswith(b"\x80\x04")
    folder = make_artifact(tmp_path / "made", "first", files={WEIGHTS: weights})
    assert registry.put(folder, "desk").version == 1
