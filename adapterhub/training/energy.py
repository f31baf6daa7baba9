"""How much energy a run takes, as codecarbon estimates it, where that is installed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

#: Seconds between two looks at the power; codecarbon's thread sleeps in between.
_EVERY = 15
#: Any country: it decides emissions, which are not read, and energy does not depend on it.
_COUNTRY = "USA"


@dataclass(frozen=True, slots=True)
class Energy:
    """An estimate of what a run took from the socket of the machine.

    Args:
        kwh: in all.
        cpu_kwh: of it the processors.
        gpu_kwh: of it the GPUs.
        ram_kwh: of it the memory.
        source: who estimated it.
    """

    kwh: float
    cpu_kwh: float
    gpu_kwh: float
    ram_kwh: float
    source: str


class EnergyMeter:
    """Estimates the energy of the whole machine while it is entered, offline.

    ``energy`` is ``None`` before the end, without codecarbon, and where it fails: a run never
    stops for want of an estimate.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        """Make a meter.

        Args:
            wanted: else it does nothing.
        """
        self.energy: Energy | None = None
        self._wanted = wanted
        self._tracker: Any = None

    def __enter__(self) -> EnergyMeter:
        """Start, if there is anything to start."""
        if self._wanted:
            self._tracker = _start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop and keep the estimate."""
        if self._tracker is None:
            return
        try:
            self._tracker.stop()
            self.energy = _read(self._tracker)
        except Exception:
            logger.exception("the energy could not be estimated")


def _start() -> Any:
    """Return codecarbon's tracker, started; ``None`` where there is none."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        return None
    # it talks before it has read how loud it may be
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    try:
        # it may read settings of the user's; nothing of them may send or write anything
        tracker = OfflineEmissionsTracker(
            country_iso_code=_COUNTRY,
            measure_power_secs=_EVERY,
            save_to_file=False,
            save_to_api=False,
            save_to_logger=False,
            save_to_prometheus=False,
            save_to_logfire=False,
            output_methods=[],
            output_handlers=[],
            emissions_endpoint=None,
            electricitymaps_api_token=None,
            allow_multiple_runs=True,
            log_level="critical",
        )
        tracker.start()
    except Exception:
        logger.exception("the energy can't be estimated")
        return None
    return tracker


def _read(tracker: Any) -> Energy:
    from importlib.metadata import version

    found = tracker.final_emissions_data
    return Energy(
        kwh=float(found.energy_consumed),
        cpu_kwh=float(found.cpu_energy),
        gpu_kwh=float(found.gpu_energy),
        ram_kwh=float(found.ram_energy),
        source=f"codecarbon {version('codecarbon')}",
    )
