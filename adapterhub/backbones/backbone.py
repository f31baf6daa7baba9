"""A loaded backbone: frozen, quantized, with a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from bitsandbytes.nn import Linear8bitLt
from torch import Tensor, nn

from adapterhub.backbones.catalog import BackboneKind, find_entry
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.quantize import default_compute_dtype, quantize_linears, torch_dtype
from adapterhub.backbones.sources import Source, fetch_backbone
from adapterhub.errors import BackboneError
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A pretrained model without a task.

    Args:
        name: in the catalog, or as given.
        hub_id: ``owner/name`` on the Hub, if known.
        revision: on the Hub, if known.
        license: the Hub's identifier, if known.
        path: folder that it was loaded from.
        kind: ``decoder`` or ``encoder``.
        quantization: how its linear layers are held.
        fingerprint: digest of what it is, with the quantization scheme.
        config: transformers' configuration.
        tokenizer: transformers' tokenizer.
        body: the model up to its last hidden states, frozen.
        lm_head: maps hidden states to the vocabulary; ``None`` for encoders.
        device: where it is.
    """

    name: str
    hub_id: str | None
    revision: str | None
    license: str | None
    path: Path
    kind: BackboneKind
    quantization: QuantizationSpec
    fingerprint: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    body: nn.Module
    lm_head: nn.Module | None
    device: torch.device

    @property
    def parameters(self) -> int:
        """Number of parameters before quantization, shared ones counted once."""
        return sum(_elements(p) for p in _unique(self._modules()))

    @property
    def memory_bytes(self) -> int:
        """Bytes held by weights, scales and buffers, shared ones counted once."""
        return sum(t.numel() * t.element_size() for t in _held(self._modules()))

    def _modules(self) -> list[nn.Module]:
        return [self.body] if self.lm_head is None else [self.body, self.lm_head]


def load_backbone(
    name: str,
    quantization: QuantizationSpec | None = None,
    *,
    revision: str | None = None,
    source: Source = "auto",
    device: str | torch.device | None = None,
    cache: Path | None = None,
) -> Backbone:
    """Fetch a backbone if need be, quantize it and freeze it.

    Args:
        name: in the catalog, a Hub id, or a local folder.
        quantization: nf4 in the device's best compute type where not given.
        revision: of a Hub id.
        source: where to take a backbone of the catalog from.
        device: the first GPU where there is one, else the CPU.
        cache: root of the cache.

    Raises:
        BackboneError: when it can't be found, fetched, checked or loaded.
    """
    from transformers import AutoTokenizer

    place = choose_device(device)
    spec = quantization or QuantizationSpec("nf4", default_compute_dtype(place))
    path = fetch_backbone(name, revision=revision, source=source, cache=cache)
    entry = find_entry(name)
    fingerprint = full_fingerprint(weights_fingerprint(path, cache=cache), spec)
    body, lm_head = _load_modules(path, spec, place)
    return Backbone(
        name=entry.name if entry else name,
        hub_id=entry.hub_id if entry else _hub_id(name),
        revision=revision or (entry.revision if entry else None),
        license=entry.license if entry else None,
        path=path,
        kind="encoder" if lm_head is None else "decoder",
        quantization=spec,
        fingerprint=fingerprint,
        config=body.config,
        tokenizer=AutoTokenizer.from_pretrained(path),
        body=body,
        lm_head=lm_head,
        device=place,
    )


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the best one there is."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _hub_id(name: str) -> str | None:
    return None if Path(name).is_dir() else name


def state_digest(module: nn.Module) -> str:
    """Return one sha256 over every byte that a module holds, quantization scales included."""
    digest = sha256()
    for tensor in _held([module]):
        digest.update(
            memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        )
    return digest.hexdigest()


def _load_modules(
    path: Path, spec: QuantizationSpec, device: torch.device
) -> tuple[Any, nn.Module | None]:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    dtype = torch_dtype(spec.compute_dtype)
    decoder = is_decoder(config)
    try:
        whole = (AutoModelForCausalLM if decoder else AutoModel).from_pretrained(
            path, dtype=dtype, attn_implementation="sdpa", use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise BackboneError(f"can't be loaded: {error}", place=str(path)) from error
    body = whole.base_model if decoder else whole
    lm_head = whole.get_output_embeddings() if decoder else None
    quantize_linears(body, spec, device)
    for module in (body, lm_head):
        if module is not None:
            module.to(device).requires_grad_(False).eval()
    return body, lm_head


def is_decoder(config: Any) -> bool:
    """Tell decoders from encoders, also those that could run as decoders, such as BERT."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    if type(config) not in AutoModelForCausalLM._model_mapping:
        return False
    masked = type(config) in AutoModelForMaskedLM._model_mapping
    return not masked or bool(getattr(config, "is_decoder", False))


def _unique(modules: list[nn.Module]) -> Iterator[nn.Parameter]:
    seen: set[int] = set()
    for module in modules:
        for parameter in module.parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter


def _elements(parameter: nn.Parameter) -> int:
    """Return the number of weights that a parameter stands for."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _held(modules: list[nn.Module]) -> Iterator[Tensor]:
    """Yield each tensor held, once: parameters, their scales, buffers."""
    for parameter in _unique(modules):
        yield parameter.data
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield state.absmax
    for module in modules:
        yield from module.buffers()
        for layer in module.modules():
            if isinstance(layer, Linear8bitLt):
                # the row scales move from the weight to the layer at the first forward pass
                scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
                yield scales
