"""Adapters on the device: ranges of rank slots in the tables of every adapted layer."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol

from adapterhub.engine.parameter_overrides import ParameterOverrides
from adapterhub.errors import EngineError
from adapterhub.kernels.lora.plan import RankSlice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import torch
    from torch import nn

    from adapterhub.engine.prepared_adapter import LoraFactors


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A resident adapter.

    Args:
        key: Digest of the artifact, or another name that is unique to these tensors.
        start: First rank slot, the same in every layer.
        rank: Number of rank slots.
        layers: Numbers of the layers that the adapter changes.
        norms: Whether the adapter replaces norm layers.
        changes: Whether it changes layers by more than LoRA pairs.
        overrides: Parameters of the base model that it replaces, on the device.
        vocab_size: Number of outputs of its own output layer; ``None`` for the backbone's.
    """

    key: str
    start: int
    rank: int
    layers: frozenset[int]
    norms: bool = False
    changes: bool = False
    overrides: ParameterOverrides = field(default_factory=ParameterOverrides)
    vocab_size: int | None = None


@dataclass(frozen=True, slots=True)
class Blend:
    """Weighted combination of resident adapters; an empty one is the base model.

    Args:
        slots: Resident adapters and their weights, in canonical order.
    """

    slots: tuple[tuple[Slot, float], ...] = ()

    def slices(self, layer: int) -> tuple[RankSlice, ...]:
        """Return the rank slots that the blend uses in a layer."""
        return tuple(
            RankSlice(slot.start, slot.rank, weight)
            for slot, weight in self.slots
            if layer in slot.layers
        )

    @property
    def exclusive(self) -> bool:
        """Whether a sequence with this blend can be computed only beside those with the same one.

        It needs the padded path, with ``override`` around the forward pass.
        """
        return any(slot.overrides for slot, _ in self.slots)

    @property
    def changes(self) -> bool:
        """Whether layers are changed by more than LoRA pairs."""
        return any(slot.changes or slot.overrides for slot, _ in self.slots)

    @property
    def vocab_size(self) -> int | None:
        """Number of outputs of its own output layer; ``None`` for the backbone's."""
        return next((slot.vocab_size for slot, _ in self.slots if slot.vocab_size), None)

    @contextmanager
    def override(self, base_model: nn.Module) -> Iterator[None]:
        """Replace the parameters of a base model that the blend overrides, if any."""
        overrides = next((slot.overrides for slot, _ in self.slots if slot.overrides), None)
        if overrides is None:
            yield
            return
        with overrides.apply(base_model):
            yield


#: The base model, without adapter.
BASE_MODEL = Blend()


#: First position of a sequence at which an adapter that was not invoked is active.
NEVER = 2**62


def blend_runs(blend: Blend, start: int, end: int, active_from: int = 0) -> list[tuple[int, Blend]]:
    """Return the runs of tokens from ``start`` to ``end`` of a sequence, and their blends.

    Args:
        blend: Blend of the sequence.
        start: First position.
        end: One past the last position.
        active_from: Position from which the blend is active; the base model computes the tokens
            before it.
    """
    inactive = min(max(active_from - start, 0), end - start)
    runs = [(inactive, BASE_MODEL), (end - start - inactive, blend)]
    return [(count, used) for count, used in runs if count]


class AdaptedLayer(Protocol):
    """A layer of the backbone that computes with the tensors of resident adapters."""

    def allocate(self, rank_slots: int, device: torch.device) -> None:
        """Set memory aside for a number of rank slots."""

    def load(self, start: int, factors: LoraFactors) -> None:
        """Copy the layer's tensors of an adapter to the rank slots from ``start`` on."""

    def unload(self, start: int) -> None:
        """Remove the adapter whose rank slots begin at ``start``."""


class RankSlots:
    """First-fit allocator of ranges of rank slots."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free: list[tuple[int, int]] = [(0, count)] if count else []

    @property
    def free(self) -> int:
        """Number of free rank slots, contiguous or not."""
        return sum(length for _, length in self._free)

    def take(self, rank: int) -> int | None:
        """Take ``rank`` contiguous slots; return the first, or ``None`` where there are none."""
        for index, (start, length) in enumerate(self._free):
            if length >= rank:
                rest = [(start + rank, length - rank)] if length > rank else []
                self._free[index : index + 1] = rest
                return start
        return None

    def give_back(self, start: int, rank: int) -> None:
        """Free a range and merge it with its free neighbours."""
        merged: list[tuple[int, int]] = []
        for first, length in sorted([*self._free, (start, rank)]):
            if merged and sum(merged[-1]) == first:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((first, length))
        self._free = merged

    def largest(self, freed: Sequence[tuple[int, int]] = ()) -> int:
        """Return the length of the longest free range if the ranges ``freed`` were free too."""
        best = length = end = 0
        for start, count in sorted([*self._free, *freed]):
            length = length + count if start == end else count
            end = start + count
            best = max(best, length)
        return best


@dataclass(slots=True, eq=False)
class SlotCopy:
    """An adapter that is being copied to the device."""

    slot: Slot
    factors: LoraFactors
    left: list[int]


class AdapterSlots:
    """Tables of all adapted layers and the adapters in them."""

    def __init__(
        self, layers: Sequence[AdaptedLayer], rank_slots: int, device: torch.device
    ) -> None:
        self._layers = tuple(layers)
        self._device = device
        self._ranks = RankSlots(rank_slots)
        self._resident: dict[str, Slot] = {}
        for layer in self._layers:
            layer.allocate(rank_slots, device)

    @property
    def resident(self) -> Mapping[str, Slot]:
        """Resident adapters by key."""
        return dict(self._resident)

    @property
    def free(self) -> int:
        """Number of free rank slots."""
        return self._ranks.free

    def find(self, key: str) -> Slot | None:
        """Return the slot of an adapter if it is resident."""
        return self._resident.get(key)

    def fits(self, rank: int, without: Collection[str] = ()) -> bool:
        """Return whether ``rank`` contiguous slots are free, or would be without some adapters."""
        gone = [self._resident[key] for key in without]
        return self._ranks.largest([(slot.start, slot.rank) for slot in gone]) >= rank

    def begin_copy(self, key: str, factors: LoraFactors) -> SlotCopy | None:
        """Take the rank slots of an adapter; ``None`` where too few are contiguous."""
        self.check_rank(factors.rank, key)
        start = self._ranks.take(factors.rank)
        if start is None:
            return None
        slot = Slot(
            key,
            start,
            factors.rank,
            factors.layers,
            norms=bool(factors.norms),
            changes=bool(factors.changed),
            overrides=factors.overrides.to(self._device),
            vocab_size=factors.vocab_size,
        )
        return SlotCopy(slot, factors, list(factors.layers))

    def continue_copy(self, copy: SlotCopy, max_bytes: float = inf) -> int:
        """Copy layer by layer until ``max_bytes`` are reached; return the bytes copied.

        The adapter is resident once no layer is left.
        """
        done = 0
        while copy.left and done < max_bytes:
            layer = copy.left.pop()
            self._layers[layer].load(copy.slot.start, copy.factors)
            done += copy.factors.layer_bytes(layer)
        if not copy.left:
            self._resident[copy.slot.key] = copy.slot
        return done

    def check_rank(self, rank: int, key: str) -> None:
        """Require that a rank, or the sum of the ranks of a blend, fits into the tables."""
        if rank > self._ranks.count:
            raise EngineError(
                f"has rank {rank}, the engine has {self._ranks.count} rank slots",
                place=key,
                hint="Start the engine with more rank_slots",
            )

    def drop(self, key: str) -> None:
        """Remove an adapter from the device."""
        slot = self._resident.pop(key)
        for layer in slot.layers:
            self._layers[layer].unload(slot.start)
        self._ranks.give_back(slot.start, slot.rank)
