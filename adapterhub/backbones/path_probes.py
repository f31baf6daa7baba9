"""Probe inputs of the forward-path check, and a random adapter that tells sequences apart."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import torch
from torch import nn

from adapterhub.adapters.target_modules import is_linear_layer
from adapterhub.backbones.media_inputs import audio_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

#: Returns the adapter strength of each vector that a layer receives, shaped as its input without
#: features; ``None`` where the sequences of the batch can't be distinguished.
StrengthOf: TypeAlias = "Callable[[Tensor], Tensor | float | None]"


class AnyProbe(Protocol):
    """A text or an image of the check."""

    def without_adapter(self) -> Self:
        """Return the same input with the base model alone."""


#: Lengths in tokens of the probes; two are equal, so that a batch without padding exists.
LENGTHS = (6, 13, 13)
#: Length in tokens of the last probe, where no window needs more.
LONG = 21
#: Windows up to this number of tokens are passed by a longer probe, wider ones are narrowed.
WIDEST_WINDOW = 256
#: Window in tokens that wider ones are narrowed to while the check runs.
NARROW_WINDOW = 16
#: Samples of the recordings that models of waveforms are checked with.
SAMPLES = (4000, 6400, 6400)
#: Strength of the random adapter on each probe; 0 is the base model.
STRENGTHS = (0.0, 0.3, -0.3, 0.2)

_WINDOW_NAMES = ("window", "local_attention", "attention_chunk")


@dataclass(frozen=True, slots=True)
class Probe:
    """One sequence of the check.

    Args:
        strength: Factor of the random adapter.
    """

    # int64 [length]
    ids: Tensor
    # int64 [length], or None where the architecture has none
    segments: Tensor | None
    strength: float

    def __len__(self) -> int:
        return len(self.ids)

    def without_adapter(self) -> Self:
        """Return the same sequence with the base model alone."""
        return replace(self, strength=0.0)


def make_probes(base_model: Any, device: torch.device, *, segments: bool) -> list[Probe]:
    """Return sequences of random ordinary tokens."""
    config = base_model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or 2**31
    ordinary = _ordinary_tokens(base_model)
    generator = torch.Generator().manual_seed(0)
    probes = []
    for length, strength in zip((*LENGTHS, _long(base_model)), STRENGTHS, strict=True):
        count = min(length, max(2, longest - 4))
        choice = torch.randint(len(ordinary), (count,), generator=generator)
        second = (torch.arange(count) >= count // 2).long().to(device) if segments else None
        probes.append(Probe(ordinary[choice].to(device), second, strength))
    return probes


@dataclass(frozen=True, slots=True)
class MediaProbe:
    """One image or recording of the check; see ``Probe``."""

    # float [channels, height, width], [samples], or a spectrogram
    media: Tensor
    strength: float

    def without_adapter(self) -> Self:
        """Return the same image with the base model alone."""
        return replace(self, strength=0.0)


def make_recordings(base_model: Any, device: torch.device) -> list[MediaProbe]:
    """Return noise of different lengths where an audio model reads those; two are equal."""
    generator = torch.Generator().manual_seed(0)
    shapes = [audio_shape(base_model, samples) for samples in SAMPLES]
    return [
        MediaProbe(torch.randn(shape, generator=generator).to(device, base_model.dtype), strength)
        for shape, strength in zip(shapes, STRENGTHS, strict=False)
    ]


def make_images(base_model: Any, device: torch.device) -> list[MediaProbe]:
    """Return images of random pixels in the size of an image model."""
    config = getattr(base_model.config, "vision_config", base_model.config)
    size = getattr(config, "image_size", None) or 224
    sides = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    shape = (getattr(config, "num_channels", 3), *sides)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(shape, generator=generator) for _ in STRENGTHS[:3]]
    return [
        MediaProbe(image.to(device, base_model.dtype), strength)
        for image, strength in zip(images, STRENGTHS, strict=False)
    ]


def _ordinary_tokens(base_model: Any) -> Tensor:
    """Return the ids of tokens that no setting of the configuration names."""
    special = set(_token_ids(base_model.config.to_dict()))
    # architectures that read bytes or characters name no vocabulary
    size = getattr(base_model.config.get_text_config(), "vocab_size", None) or 256
    # some rows of real tables are unused; the first and the last thousandth are the usual place
    edge = size // 1000
    return torch.tensor([i for i in range(edge, size - edge) if i not in special])


def _token_ids(settings: dict[Any, Any]) -> Iterator[int]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _token_ids(value)
        elif str(name).endswith(("token_id", "token_index")):
            yield from (value if isinstance(value, list) else [value])


def most_positions(base_model: Any) -> int:
    """Return the largest number of positions that a setting of the configuration names."""
    return max([2**14, *_positions(base_model.config.to_dict())])


def _positions(settings: dict[Any, Any]) -> Iterator[int]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _positions(value)
        elif "position" in str(name) and type(value) is int:
            yield value


def _windows(settings: dict[str, Any]) -> dict[str, int]:
    """Return the settings that limit how far a position sees, in tokens."""
    return {
        name: value
        for name, value in settings.items()
        if any(word in name for word in _WINDOW_NAMES) and type(value) is int and value > 0
    }


def _long(base_model: Any) -> int:
    sizes = _windows(vars(base_model.config.get_text_config())).values()
    return max([LONG, *(size + 8 for size in sizes if size <= WIDEST_WINDOW)])


@contextmanager
def narrow_windows(base_model: Any) -> Iterator[None]:
    """Narrow wide sliding windows inside the block, so that short probes pass them.

    Both the configuration, from which masks are made, and the modules, which pass the window to
    attention, are changed. An architecture that derives another value from it then differs from
    its own forward and counts as not equal, which is safe.
    """
    config = base_model.config.get_text_config()
    wide = {n: size for n, size in _windows(vars(config)).items() if size > WIDEST_WINDOW}
    changed: list[tuple[Any, str, int]] = [(config, name, size) for name, size in wide.items()]
    for module in base_model.modules() if wide else ():
        found = _windows(vars(module))
        changed += [(module, n, size) for n, size in found.items() if size in wide.values()]
    try:
        for owner, name, _ in changed:
            setattr(owner, name, NARROW_WINDOW)
        yield
    finally:
        for owner, name, size in changed:
            setattr(owner, name, size)


class ProbeAdapter:
    """Random update of every linear layer, of another strength for each sequence of a batch.

        y = W x + s (u · x) v

    It shows layers in which the tokens of a batch lie in another order than expected. With
    ``noise`` it also multiplies the output by random factors about 1, as rounding does. ``u`` and
    ``v`` are numbers of bfloat16, so that they are the same in every type.

    Args:
        base_model: Base model.
        layers: Layers to change; all linear ones of transformers if empty.
    """

    def __init__(self, base_model: nn.Module, layers: Sequence[nn.Module] = ()) -> None:
        self._layers = list(layers) or [m for m in base_model.modules() if is_linear_layer(m)]
        self._vectors: dict[int, tuple[Tensor, Tensor]] = {}
        self._strength_of: StrengthOf | None = None
        self._noise = 0.0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hook the layers inside the block."""
        handles = [
            layer.register_forward_hook(lambda _m, x, y, i=index: self._change(i, x, y))
            for index, layer in enumerate(self._layers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def active(self, strength_of: StrengthOf, noise: float = 0.0) -> Iterator[None]:
        """Change the outputs inside the block.

        Args:
            noise: Largest relative rounding error.
        """
        self._strength_of, self._noise = strength_of, noise
        try:
            yield
        finally:
            self._strength_of, self._noise = None, 0.0

    def strengths(self, leading: tuple[int, ...]) -> Tensor:
        """Return the strength of each vector of a layer's input of some leading sizes."""
        if self._strength_of is None:
            raise ValueError("strengths are known while the adapter is active")
        found = self._strength_of(torch.empty(*leading, 1))
        return torch.as_tensor(found).expand(leading)

    def vectors(self, index: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        """Return ``u`` and ``v`` of a layer, float32 ``[inputs]`` and ``[outputs]``.

        Args:
            index: Number of the layer.
            inputs: Number of its inputs.
            outputs: Number of its outputs.
        """
        if index not in self._vectors:
            generator = torch.Generator().manual_seed(index)
            u = torch.randn(inputs, generator=generator) / inputs**0.5
            v = torch.randn(outputs, generator=generator)
            self._vectors[index] = (u.bfloat16().float(), v.bfloat16().float())
        return self._vectors[index]

    def _change(self, index: int, inputs: tuple[Any, ...], output: Any) -> Any:
        if self._strength_of is None or not inputs or not isinstance(output, torch.Tensor):
            return None
        x: Tensor = inputs[0]
        strength = self._strength_of(x)
        changed = output
        if isinstance(strength, torch.Tensor) or strength:
            u, v = self.vectors(index, x.shape[-1], output.shape[-1])
            u, v = u.to(x.device), v.to(x.device)
            update = (x.to(u.dtype) @ u * strength).unsqueeze(-1) * v
            changed = output + update.to(output.dtype)
        if self._noise:
            factors = torch.empty_like(changed, dtype=torch.float32).uniform_(-1, 1)
            # a narrow type would round half of its step away again
            noise = self._noise if output.dtype == torch.float32 else 2 * self._noise
            changed = (changed.float() * (1 + noise * factors)).to(output.dtype)
        return changed


def of_packed(probes: list[Probe]) -> StrengthOf:
    """Return the strengths of sequences laid end to end."""
    device = probes[0].ids.device
    each = torch.cat([torch.full((len(p),), p.strength, device=device) for p in probes])
    return of_tokens(each)


def of_tokens(each: Tensor) -> StrengthOf:
    """Return the strengths of packed tokens ``[num_tokens]``."""

    def strength_of(x: Tensor) -> Tensor | None:
        leading = x.shape[:-1]
        return each.view(leading) if leading.numel() == len(each) else None

    return strength_of


def of_rows(strengths: list[float], length: int, device: torch.device) -> StrengthOf:
    """Return the strengths of a padded batch, by the rules of ``PaddedForwardContext``."""
    each, count = torch.tensor(strengths, device=device), len(strengths)

    def strength_of(x: Tensor) -> Tensor | None:
        leading = tuple(x.shape[:-1])
        if not leading:
            return None
        if leading[0] == count:
            return each.view(-1, *[1] * (len(leading) - 1)).expand(leading)
        if leading[0] == count * length:
            tokens = each.repeat_interleave(length)
            return tokens.view(-1, *[1] * (len(leading) - 1)).expand(leading)
        return None

    return strength_of


def of_media(strengths: list[float], device: torch.device) -> StrengthOf:
    """Return the strengths of a batch of images or recordings, whose tokens lie together."""
    each, count = torch.tensor(strengths, device=device), len(strengths)

    def strength_of(x: Tensor) -> Tensor | None:
        leading = x.shape[:-1]
        if not leading or leading[0] % count:
            return None
        return each.repeat_interleave(leading.numel() // count).view(leading)

    return strength_of
