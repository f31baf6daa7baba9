"""The Optuna study of a sweep: storage, sampler and pruner."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from adapterhub.errors import MissingExtraError, RecipeError, TrainingError
from adapterhub.training.sweep.space import Choices, as_choice, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import optuna

    from adapterhub.training.recipe import Recipe
    from adapterhub.training.sweep.space import Space

SamplerName: TypeAlias = Literal["tpe", "random"]
PrunerName: TypeAlias = Literal["median", "halving", "hyperband", "none"]

STORAGE_NAME = "study.sqlite3"
#: Seconds that a process waits for another one's write.
_STORAGE_TIMEOUT = 60.0
#: Random trials before TPE uses their results.
_STARTUP_TRIALS = 8
#: Attribute of a study with the digest of recipe, space and metric.
_IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """Settings of a sweep.

    Args:
        trials: Total number of trials in the study, including those of earlier calls and other
            processes, and pruned and failed ones.
        sampler: Sampler; ``tpe`` uses the results so far.
        pruner: Early stopping of poor trials.
        seed: Seed of the sampler; a sample depends on it, on the trial's number and on the
            earlier trials.
        keep_all: Whether to keep the artifact of every trial instead of the best one's alone.
    """

    trials: int
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "median"
    seed: int = 0
    keep_all: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """Validation metric that a study optimizes, and its direction."""

    metric: str
    greater_is_better: bool


def import_optuna() -> Any:
    """Import Optuna, with its log limited to warnings.

    Raises:
        MissingExtraError: when it isn't installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "sweep") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def open_study(
    folder: Path,
    *,
    recipe: Recipe,
    space: Space,
    goal: Goal,
    options: SweepOptions,
    storage: str | None = None,
) -> optuna.Study:
    """Open or create the study of a sweep.

    The recipe's own values are the first trial where the space contains them, so that the best
    trial is not worse than the recipe.

    Raises:
        MissingExtraError: when Optuna isn't installed.
        RecipeError: when the database can't be opened.
        TrainingError: when the study is of another recipe, space or metric.
    """
    library = import_optuna()
    folder.mkdir(parents=True, exist_ok=True)
    database = _open_storage(storage or f"sqlite:///{(folder / STORAGE_NAME).absolute()}")
    study: optuna.Study = library.create_study(
        study_name=recipe.name,
        storage=database,
        direction="maximize" if goal.greater_is_better else "minimize",
        sampler=build_sampler(options, 0),
        pruner=build_pruner(options.pruner),
        load_if_exists=True,
    )
    identity = _identity(recipe, space, goal)
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, identity)
        own = values_of(recipe, space)
        if own is not None:
            study.enqueue_trial(own)
    elif known != identity:
        raise TrainingError(
            "holds a study of another recipe, space or metric",
            place=f"the study {recipe.name!r} of the storage" if storage else str(folder),
            hint="Use the recipe and space it was started with, or "
            + (
                "give the recipe another name" if storage else "choose another folder with --output"
            ),
        )
    return study


def _open_storage(url: str) -> Any:
    """Return the database of a study; its URL may contain a password and is never shown."""
    library = import_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    connect = {"timeout": _STORAGE_TIMEOUT} if url.startswith("sqlite") else {}
    hint = "Write a SQLAlchemy URL, such as sqlite:////folder/study.sqlite3"
    try:
        return library.storages.RDBStorage(url, engine_kwargs={"connect_args": connect})
    except ImportError:
        raise RecipeError(
            "the Python driver of this database is not installed",
            place="--storage",
            hint="Install it, such as psycopg2-binary for postgresql://",
        ) from None
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise RecipeError(
            f"the database can't be opened: {reason}", place="--storage", hint=hint
        ) from None


def build_sampler(options: SweepOptions, number: int) -> Any:
    """Return the sampler of one trial.

    Each trial has its own, so that samples do not depend on the state of an interrupted process,
    and parallel processes sample differently.
    """
    samplers = import_optuna().samplers
    seed = int.from_bytes(sha256(f"{options.seed}/{number}".encode()).digest()[:4], "big")
    if options.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(
        seed=seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, constant_liar=True
    )


def build_pruner(name: PrunerName) -> Any:
    """Return the pruner; it sees the progress of trials in percent of their steps."""
    pruners = import_optuna().pruners
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=15, n_min_trials=2)
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=10, reduction_factor=3)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=10, max_resource=100, reduction_factor=3)
    return pruners.NopPruner()


def distributions(space: Space) -> dict[str, Any]:
    """Return the space as Optuna's distributions."""
    kinds = import_optuna().distributions
    found: dict[str, Any] = {}
    for key, parameter in space.parameters.items():
        if isinstance(parameter, Choices):
            values = [as_choice(value) for value in parameter.values]
            found[key] = kinds.CategoricalDistribution(values)
        elif parameter.is_integer:
            found[key] = kinds.IntDistribution(
                int(parameter.low),
                int(parameter.high),
                log=parameter.log,
                step=int(parameter.step or 1),
            )
        else:
            found[key] = kinds.FloatDistribution(
                parameter.low, parameter.high, log=parameter.log, step=parameter.step
            )
    return found


def recipe_values(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters as recipe values."""
    values: dict[str, Any] = {}
    for key, value in params.items():
        parameter = space.parameters[key]
        if isinstance(parameter, Choices):
            values[key] = next(v for v in parameter.values if _same(as_choice(v), value))
        else:
            values[key] = value
    return values


def _same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(first == second)


def _identity(recipe: Recipe, space: Space, goal: Goal) -> str:
    document = {
        "recipe": recipe.model_dump(mode="json"),
        "space": space.document(),
        "metric": [goal.metric, goal.greater_is_better],
    }
    return sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()
