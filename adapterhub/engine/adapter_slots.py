"""Adapters on the device: ranges of rank rows in the tables of every linear layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol

from adapterhub.errors import EngineError
from adapterhub.kernels.lora.plan import RankSlice

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import torch
    from torch import Tensor

    from adapterhub.engine.adapted_norm import AdaptedNorm
    from adapterhub.engine.heads import TaskHead


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A resident adapter.

    Args:
        key: digest of the artifact, or any name that means these tensors and no others.
        row: first rank row, the same at every site.
        rank: of its matrices.
        sites: numbers of the layers that it adapts.
        norms: whether it replaces norm layers.
    """

    key: str
    row: int
    rank: int
    sites: frozenset[int]
    norms: bool = False


class AdaptedLayer(Protocol):
    """A layer that low-rank pairs are added to."""

    def make_tables(self, rows: int, device: torch.device) -> None:
        """Get ready to hold ``rows`` rank rows."""

    def write_rows(self, row: int, a: Tensor, b: Tensor, gain: Tensor | None = None) -> None:
        """Copy an adapter in; ``a`` is ``[rank, in]``, ``b`` ``[rank, out]``."""

    def forget_rows(self, row: int) -> None:
        """Drop what is known of the adapter whose first rank row this was."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Adapters that a row uses, each with a weight; none of them is the bare backbone.

    Args:
        slots: resident adapters and their weights, in canonical order.
    """

    slots: tuple[tuple[Slot, float], ...] = ()

    def parts(self, site: int) -> tuple[RankSlice, ...]:
        """Return the rank rows that it uses at a site."""
        return tuple(
            RankSlice(slot.row, slot.rank, weight)
            for slot, weight in self.slots
            if site in slot.sites
        )


#: The bare backbone.
BARE = Blend()


class RankSlots:
    """Which rank rows are taken; ranges are given out first fit.

    Args:
        count: of all rows.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free: list[tuple[int, int]] = [(0, count)] if count else []

    def take(self, rank: int) -> int | None:
        """Return the first of ``rank`` free rows in a row, now taken, or ``None``."""
        for index, (start, length) in enumerate(self._free):
            if length >= rank:
                rest = [(start + rank, length - rank)] if length > rank else []
                self._free[index : index + 1] = rest
                return start
        return None

    def give_back(self, row: int, rank: int) -> None:
        """Free a range; neighbours that are free join."""
        merged: list[tuple[int, int]] = []
        for start, length in sorted([*self._free, (row, rank)]):
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self._free = merged

    def largest(self, freed: Sequence[tuple[int, int]] = ()) -> int:
        """Return the most free rows in a row, were these ranges free too."""
        best = length = end = 0
        for start, count in sorted([*self._free, *freed]):
            length = length + count if start == end else count
            end = start + count
            best = max(best, length)
        return best

    @property
    def free(self) -> int:
        """Number of rows that are free, in however many pieces."""
        return sum(length for _, length in self._free)


@dataclass(frozen=True, slots=True, eq=False)
class LoraFactors:
    """The matrices of an adapter at the sites that it has, ready to be copied into rows.

    Args:
        rank: of all of them.
        pairs: site to ``A`` ``[rank, in]`` and ``B`` ``[rank, out]``, the scale in ``B``.
        gains: of DoRA, site to what the layer's own output is multiplied by, ``[out]``.
        norms: site to the parameters of a norm layer that the adapter holds in full, by name.
        reader: how it labels texts, where it does.
    """

    rank: int
    pairs: Mapping[int, tuple[Tensor, Tensor]]
    gains: Mapping[int, Tensor] = field(default_factory=dict)
    norms: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    reader: TaskHead | None = None


@dataclass(slots=True, eq=False)
class SlotCopy:
    """An adapter on its way into the tables.

    Args:
        slot: where it will be.
        factors: what is copied.
        left: sites that it is not copied to yet.
    """

    slot: Slot
    factors: LoraFactors
    left: list[int]


class AdapterSlots:
    """The tables of all sites, and the adapters that lie in them.

    Args:
        sites: by number.
        rows: rank rows of every table.
        device: of the backbone.
        norms: whose numbers go on where those of ``sites`` end.
    """

    def __init__(
        self,
        sites: Sequence[AdaptedLayer],
        rows: int,
        device: torch.device,
        norms: Sequence[AdaptedNorm] = (),
    ) -> None:
        self._sites = tuple(sites)
        self._norms = dict(enumerate(norms, start=len(self._sites)))
        self._rows = RankSlots(rows)
        self._resident: dict[str, Slot] = {}
        for site in self._sites:
            site.make_tables(rows, device)

    @property
    def resident(self) -> Mapping[str, Slot]:
        """Adapters by key."""
        return dict(self._resident)

    @property
    def free_rows(self) -> int:
        """Rank rows that no adapter has."""
        return self._rows.free

    def find(self, key: str) -> Slot | None:
        """Return an adapter if it is resident."""
        return self._resident.get(key)

    def fits(self, rank: int, without: Collection[str] = ()) -> bool:
        """Return whether so many rows in a row are free, or would be without some adapters."""
        gone = [self._resident[key] for key in without]
        return self._rows.largest([(slot.row, slot.rank) for slot in gone]) >= rank

    def put(self, key: str, factors: LoraFactors) -> Slot | None:
        """Copy an adapter into free rows; ``None`` where there are not enough in a row.

        Raises:
            EngineError: when its rank is larger than all tables.
        """
        if key in self._resident:
            return self._resident[key]
        copying = self.begin(key, factors)
        if copying is None:
            return None
        self.go_on(copying)
        return copying.slot

    def begin(self, key: str, factors: LoraFactors) -> SlotCopy | None:
        """Take the rows for an adapter, which ``go_on`` copies; ``None`` as in ``put``.

        Raises:
            EngineError: when its rank is larger than all tables.
        """
        self.check_rank(factors.rank, key)
        row = self._rows.take(factors.rank)
        if row is None:
            return None
        sites = frozenset((*factors.pairs, *factors.norms))
        slot = Slot(key, row, factors.rank, sites, norms=bool(factors.norms))
        return SlotCopy(slot, factors, list(factors.pairs))

    def go_on(self, copying: SlotCopy, most: float = inf) -> int:
        """Copy layers of an adapter until at least ``most`` bytes are; return how many are.

        It is resident once nothing is ``left``.
        """
        done = 0
        slot, factors = copying.slot, copying.factors
        while copying.left and done < most:
            site = copying.left.pop()
            a, b = factors.pairs[site]
            self._sites[site].write_rows(slot.row, a, b, factors.gains.get(site))
            done += a.nbytes + b.nbytes
        if not copying.left:
            for site, parameters in factors.norms.items():
                self._norms[site].hold(slot.row, parameters)
            self._resident[slot.key] = slot
        return done

    def check_rank(self, rank: int, key: str) -> None:
        """Require that a rank, or those of a blend together, is not larger than all tables.

        Raises:
            EngineError: when it is.
        """
        if rank > self._rows.count:
            raise EngineError(
                f"has rank {rank}, the tables have {self._rows.count} rows",
                place=key,
                hint="Start the engine with more rank rows",
            )

    def drop(self, key: str) -> None:
        """Give an adapter's rows back."""
        slot = self._resident.pop(key)
        for site in slot.sites:
            place = self._norms[site] if site in self._norms else self._sites[site]
            place.forget_rows(slot.row)
        self._rows.give_back(slot.row, slot.rank)
