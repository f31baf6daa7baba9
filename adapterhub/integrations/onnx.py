"""Export to ONNX: an encoder with the head of its task, by transformers' own exporter."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.backbones.architecture import quiet_transformers, reason_of
from adapterhub.backbones.loading import probe_inputs
from adapterhub.errors import ArtifactError, MissingExtraError
from adapterhub.third_party import without_warnings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from adapterhub.backbones.backbone import Backbone

MODEL = "model.onnx"
#: Packages of the extra.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
#: Largest difference of two float32 computations of one function, in the largest output.
_TOLERANCE = 1e-3
#: Words of the texts that a model is traced with, and checked with in another shape.
_TRACED, _CHECKED = (3, 7), (2, 9, 5)


def check_exportable(backbone: Backbone, place: str) -> None:
    """Require an encoder of texts or images, and the packages of the extra.

    Raises:
        ArtifactError: For another backbone.
        MissingExtraError: If a package is missing.
    """
    hints = {
        "decoder": "Export it with --format gguf, or merge it with adapterhub merge",
        "encoder-decoder": "Merge it with adapterhub merge",
        "audio": "Merge it with adapterhub merge",
    }
    if backbone.kind in hints:
        raise ArtifactError(
            f"its backbone is of the kind {backbone.kind!r}; encoders of texts and images with a "
            "head are exported to ONNX",
            place=place,
            hint=hints[backbone.kind],
        )
    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package, "onnx")


def write_onnx(folder: Path, model: PreTrainedModel, backbone: Backbone, place: str) -> float:
    """Write a model as ONNX with dynamic shapes, and compare it in ONNX Runtime.

    Args:
        folder: Existing folder; gets ``model.onnx``, its weights and ``config.json``.
        model: transformers' class for the task in float32, with the adapter merged in.
        backbone: Backbone of the adapter.
        place: Name of the adapter, for messages.

    Returns:
        Largest difference of the outputs from transformers', on inputs of another shape.

    Raises:
        ArtifactError: If it can't be exported, or computes something else.
    """
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    try:
        # torch prints its progress to standard output, which holds the result of the command
        with quiet_transformers(), without_warnings(), redirect_stdout(sys.stderr):
            exported = OnnxExporter().export(
                model, _inputs(model, backbone, _TRACED), config=OnnxConfig(dynamic=True)
            )
            exported.save_pretrained(folder)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ArtifactError(
            f"transformers can't export it to ONNX: {reason_of(error)}",
            place=place,
            hint="Merge it with adapterhub merge",
        ) from error
    return _difference(folder / MODEL, model, _inputs(model, backbone, _CHECKED), place)


def _inputs(model: Any, backbone: Backbone, lengths: tuple[int, ...]) -> dict[str, Tensor]:
    """Return a padded batch of texts with some numbers of words, or as many images."""
    if backbone.kind != "encoder":
        (name, one) = next(iter(probe_inputs(model).items()))
        generator = torch.Generator().manual_seed(len(lengths))
        return {name: torch.randn(len(lengths), *one.shape[1:], generator=generator)}
    texts = [" ".join(["word"] * length) for length in lengths]
    found: dict[str, Tensor] = dict(backbone.tokenizer(texts, padding=True, return_tensors="pt"))
    return found


def _difference(path: Path, model: Any, inputs: Mapping[str, Tensor], place: str) -> float:
    """Return the largest difference of ONNX Runtime's outputs from transformers'."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    given = {each.name for each in session.get_inputs()}
    with torch.no_grad():
        output = model(**inputs)
    own = session.run(None, {key: value.numpy() for key, value in inputs.items() if key in given})
    differences = [0.0]
    for name, array in zip(names, own, strict=True):
        expected = output[name]
        scale = float(expected.abs().max()) or 1.0
        found = float((torch.from_numpy(array) - expected).abs().max())
        # also where it is no number
        if not found <= _TOLERANCE * scale:
            raise ArtifactError(
                f"ONNX Runtime's {name} differ from transformers' by {found:.2g} where the "
                f"largest is {scale:.2g}",
                place=place,
                hint="Merge it with adapterhub merge",
            )
        differences.append(found)
    return max(differences)
