"""Conversion of a Whisper model in CTranslate2's format to a backbone folder.

The file is a list of named tensors; nothing in it is code. Sources: ``Model.save`` in
``python/ctranslate2/specs/model_spec.py`` and ``converters/transformers.py`` of CTranslate2 4.8.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]

#: Version of the conversion; cached folders of older versions are not used.
CONVERSION = 1
_FORMAT_VERSION = 6
_SPEC = "WhisperSpec"
#: NumPy type of each code of a tensor's type; 5 is bfloat16, which NumPy lacks.
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_MAX_TENSORS, _MAX_DIMENSIONS = 10_000, 4


def convert_whisper(model: Path, companion: Path, tokenizer: Path, folder: Path) -> None:
    """Write a Whisper model to a backbone folder, in float16 as stored.

    Args:
        model: Tensors in CTranslate2's format.
        companion: CTranslate2's ``config.json``, with suppressed tokens and alignment heads.
        tokenizer: ``tokenizer.json`` of the model.
        folder: Receives weights, configurations and tokenizer.

    Raises:
        BackboneError: If a file has another format.
    """
    from safetensors.numpy import save_file

    tensors = read_tensors(model)
    settings = json.loads(companion.read_text(encoding="utf-8"))
    save_file(whisper_tensors(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    tokens = _token_ids(tokenizer)
    documents = {
        "config.json": _config(tensors, tokens),
        "generation_config.json": _generation_config(settings, tokens, tensors),
        "preprocessor_config.json": _FEATURES | {"feature_size": _mel_bins(tensors)},
        "tokenizer_config.json": _TOKENIZER,
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=2, sort_keys=True)
        (folder / name).write_text(f"{text}\n", encoding="utf-8")


def read_tensors(path: Path) -> Tensors:
    """Return the tensors of a file in CTranslate2's format by name, aliases included.

    Raises:
        BackboneError: If the file is not of that format, version or kind of model, or is cut off.
    """
    try:
        with path.open("rb") as file:
            version, spec, _ = _number(file, "I"), _string(file), _number(file, "I")
            if (version, spec) != (_FORMAT_VERSION, _SPEC):
                raise BackboneError(
                    f"holds {spec!r} in version {version}", place=path.name, hint=_EXPECTED
                )
            tensors = dict(_tensor(file) for _ in range(_count(file)))
            aliases = [(_string(file), _string(file)) for _ in range(_count(file))]
            return tensors | {name: tensors[target] for name, target in aliases}
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise BackboneError(
            f"is not a model of CTranslate2: {error}", place=path.name, hint=_EXPECTED
        ) from error


_EXPECTED = f"Expected {_SPEC!r} in version {_FORMAT_VERSION}"


def _number(file: BinaryIO, code: str) -> int:
    size = struct.calcsize(code)
    (value,) = struct.unpack(f"<{code}", file.read(size))
    return int(value)


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode("utf-8")


def _count(file: BinaryIO) -> int:
    count = _number(file, "I")
    if count > _MAX_TENSORS:
        raise ValueError(f"{count} tensors")
    return count


def _tensor(file: BinaryIO) -> tuple[str, NDArray[Any]]:
    name, dimensions = _string(file), _number(file, "B")
    if dimensions > _MAX_DIMENSIONS:
        raise ValueError(f"{name} has {dimensions} dimensions")
    shape = tuple(_number(file, "I") for _ in range(dimensions))
    dtype, size = np.dtype(_TYPES[_number(file, "B")]), _number(file, "I")
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name} of shape {shape} has {size} bytes")
    return name, np.frombuffer(file.read(size), dtype).reshape(shape)


def whisper_tensors(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Return the tensors by transformers' names."""
    found: Tensors = {}
    for side in ("encoder", "decoder"):
        positions = tensors[f"{side}/position_encodings/encodings"]
        found[f"model.{side}.embed_positions.weight"] = positions
        for layer in range(_num_layers(tensors, side)):
            source, target = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
            found |= {f"{target}.{name}": each for name, each in _layer(tensors, source)}
        found |= _norm(tensors, f"{side}/layer_norm", f"model.{side}.layer_norm")
    found["model.decoder.embed_tokens.weight"] = tensors["decoder/embeddings/weight"]
    for name in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            found[f"model.encoder.{name}.{part}"] = tensors[f"encoder/{name}/{part}"]
    return {name: np.ascontiguousarray(each) for name, each in found.items()}


def _layer(tensors: Mapping[str, NDArray[Any]], source: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the tensors of a layer; projections that share their input are stored as one."""
    names: dict[str, tuple[str, tuple[str, ...]]] = {}
    names["self_attention"] = ("self_attn", ("q_proj k_proj v_proj", "out_proj"))
    if f"{source}/attention/linear_0/weight" in tensors:
        names["attention"] = ("encoder_attn", ("q_proj", "k_proj v_proj", "out_proj"))
    names["ffn"] = ("", ("fc1", "fc2"))
    for block, (prefix, linears) in names.items():
        norm = f"{prefix}_layer_norm" if prefix else "final_layer_norm"
        yield from _norm(tensors, f"{source}/{block}/layer_norm", norm).items()
        for number, joined in enumerate(linears):
            for part in ("weight", "bias"):
                whole = tensors[f"{source}/{block}/linear_{number}/{part}"]
                parts = np.split(whole, len(joined.split()))
                for name, each in zip(joined.split(), parts, strict=True):
                    # Whisper's keys have no bias; CTranslate2 stores zeros
                    if (name, part) != ("k_proj", "bias"):
                        yield f"{prefix}.{name}.{part}".lstrip("."), each


def _norm(tensors: Mapping[str, NDArray[Any]], source: str, target: str) -> Tensors:
    return {
        f"{target}.weight": tensors[f"{source}/gamma"],
        f"{target}.bias": tensors[f"{source}/beta"],
    }


def _num_layers(tensors: Mapping[str, NDArray[Any]], side: str) -> int:
    return len(
        {name.split("/")[1] for name in tensors if name.startswith(f"{side}/layer_")}
        - {"layer_norm"}
    )


def _mel_bins(tensors: Mapping[str, NDArray[Any]]) -> int:
    return int(tensors["encoder/conv1/weight"].shape[1])


def _token_ids(tokenizer: Path) -> dict[str, int]:
    """Return the ids of Whisper's special tokens."""
    document = json.loads(tokenizer.read_text(encoding="utf-8"))
    return {token["content"]: int(token["id"]) for token in document["added_tokens"]}


def _config(tensors: Mapping[str, NDArray[Any]], tokens: Mapping[str, int]) -> dict[str, Any]:
    vocabulary, width = tensors["decoder/embeddings/weight"].shape
    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "layers": _num_layers(tensors, side),
            "attention_heads": int(tensors[f"{side}/num_heads"]),
            "ffn_dim": len(tensors[f"{side}/layer_0/ffn/linear_0/bias"]),
        }.items()
    }
    end = tokens["<|endoftext|>"]
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": _mel_bins(tensors),
        "max_source_positions": len(tensors["encoder/position_encodings/encodings"]),
        "max_target_positions": len(tensors["decoder/position_encodings/encodings"]),
        "decoder_start_token_id": tokens["<|startoftranscript|>"],
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "torch_dtype": "float16",
        **sides,
    }


def _generation_config(
    settings: Mapping[str, Any],
    tokens: Mapping[str, int],
    tensors: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    """Return transformers' generation settings of a multilingual Whisper."""
    end = tokens["<|endoftext|>"]
    languages = {name: number for name, number in tokens.items() if number in settings["lang_ids"]}
    return {
        "alignment_heads": settings["alignment_heads"],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
        "suppress_tokens": settings["suppress_ids"],
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": tokens["<|startoftranscript|>"],
        "is_multilingual": True,
        "lang_to_id": languages,
        "task_to_id": {name: tokens[f"<|{name}|>"] for name in ("transcribe", "translate")},
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "prev_sot_token_id": tokens["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "max_length": len(tensors["decoder/position_encodings/encodings"]),
        "return_timestamps": False,
    }


#: transformers' defaults of ``WhisperFeatureExtractor``.
_FEATURES: dict[str, Any] = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "sampling_rate": 16000,
    "hop_length": 160,
    "chunk_length": 30,
    "n_fft": 400,
    "padding_value": 0.0,
}
_TOKENIZER: dict[str, Any] = {
    "tokenizer_class": "WhisperTokenizer",
    "processor_class": "WhisperProcessor",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "model_max_length": 1024,
    "add_prefix_space": False,
    "errors": "replace",
}
