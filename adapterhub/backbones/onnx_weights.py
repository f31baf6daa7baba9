"""Conversion of a vision transformer exported to ONNX by torch to a backbone folder.

Only tensors are read; the graph is searched for their names and is not run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapterhub.errors import BackboneError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

#: Version of the conversion; cached folders of older versions are not used.
CONVERSION = 1
_POSITIONS = "embeddings.position_embeddings"


def convert_onnx(
    onnx_file: Path,
    folder: Path,
    *,
    prefix: str,
    config: Mapping[str, Any],
    processor: Mapping[str, Any],
) -> None:
    """Write the tensors of an exported vision transformer to a backbone folder.

    torch's exporter keeps the names of most parameters. It transposes the weights of linear
    layers, names them after the node of their product, and splits the position embeddings.

    Args:
        prefix: Name of the backbone within the exported model, e.g. ``backbone``.
    """
    from safetensors.torch import save_file

    graph = _graph(onnx_file)
    constants = _constants(graph)
    tensors = {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in constants.items()
        if name.startswith(f"{prefix}.")
    }
    tensors |= _linear_weights(graph, constants, prefix)
    tensors[_POSITIONS] = _position_embeddings(graph, constants, prefix, onnx_file.name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, document in (("config.json", config), ("preprocessor_config.json", processor)):
        text = json.dumps(document, indent=2, sort_keys=True)
        (folder / name).write_text(f"{text}\n", encoding="utf-8")


def _graph(path: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "vision") from error
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, OSError, ValueError) as error:
        raise BackboneError(f"is not ONNX: {error}", place=path.name) from error


def _constants(graph: Any) -> dict[str, Tensor]:
    import torch
    from onnx import numpy_helper

    return {
        constant.name: torch.from_numpy(numpy_helper.to_array(constant).copy())
        for constant in graph.initializer
    }


def _linear_weights(graph: Any, constants: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weight ``[out, in]`` of each linear layer by its parameter name."""
    start, end = f"/{prefix}/", "/MatMul"
    found = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith(start) and node.name.endswith(end):
            weight = constants.get(node.input[1])
            if weight is not None:
                layer = node.name.removeprefix(start).removesuffix(end).replace("/", ".")
                found[f"{layer}.weight"] = weight.T.contiguous()
    return found


def _position_embeddings(
    graph: Any, constants: Mapping[str, Tensor], prefix: str, place: str
) -> Tensor:
    """Return ``[1, 1 + num_patches, hidden]``, joined from class token and patches."""
    import torch

    parts = [
        constants[name]
        for node in graph.node
        if node.name.startswith(f"/{prefix}/embeddings/") and node.op_type in ("Reshape", "Concat")
        for name in node.input
        if name in constants and not name.startswith(prefix) and constants[name].dim() == 3
    ]
    parts.sort(key=lambda part: part.shape[1])
    if len(parts) != 2 or parts[0].shape[1] != 1:
        shapes = [tuple(part.shape) for part in parts]
        raise BackboneError(f"the position embeddings are not found: {shapes}", place=place)
    return torch.cat(parts, dim=1)
