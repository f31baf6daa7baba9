"""Energy of a training run, estimated by codecarbon where it is installed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from subprocess import SubprocessError
from typing import Any

logger = logging.getLogger(__name__)

#: Seconds between two measurements of the power.
_EVERY = 15
#: Any country: it affects emissions, which are not used, but not energy.
_COUNTRY = "USA"
#: What codecarbon raises where a sensor, a tool of the operating system or their output is not as
#: it expects. Other errors, such as a setting that a version does not have, are faults of a
#: program.
_SENSOR_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SubprocessError,
    SystemError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Energy:
    """Estimated energy of the whole machine during a run, in kWh."""

    kwh: float
    cpu_kwh: float
    gpu_kwh: float
    ram_kwh: float
    source: str


class EnergyMeter:
    """Context manager that estimates the energy of the whole machine, offline.

    ``energy`` is ``None`` before the end, without codecarbon, and where the machine's sensors
    can't be read, which does not stop a run.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        """Create a meter; it does nothing unless ``enabled``."""
        self.energy: Energy | None = None
        self._enabled = enabled
        self._tracker: Any = None

    def __enter__(self) -> EnergyMeter:
        """Start measuring, where enabled and codecarbon is installed."""
        if self._enabled:
            self._tracker = _start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop measuring and store the estimate."""
        if self._tracker is None:
            return
        try:
            self._tracker.stop()
            self.energy = _read(self._tracker)
        except _SENSOR_ERRORS:
            logger.exception("the energy could not be estimated")


def _start() -> Any:
    """Return a started codecarbon tracker; ``None`` where there is none."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        return None
    # it logs before it has read its log level
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    try:
        # override the user's codecarbon settings: nothing may be sent or written
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
    except _SENSOR_ERRORS:
        logger.exception("the energy can't be estimated")
        return None
    return tracker


def _read(tracker: Any) -> Energy:
    from importlib.metadata import version

    data = tracker.final_emissions_data
    parts = (data.energy_consumed, data.cpu_energy, data.gpu_energy, data.ram_energy)
    total, cpu, gpu, ram = map(float, parts)
    return Energy(total, cpu, gpu, ram, f"codecarbon {version('codecarbon')}")
