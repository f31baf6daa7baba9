"""Train, store, compose and serve many small task adapters on one frozen, quantized backbone.

    import adapterhub as ah

    run = ah.train("desk.yaml", register=True)
    model = ah.load("desk")
    model.predict("Please refund the invoice")

Names are imported when they are first used, so importing the package takes milliseconds and
loads no torch. What is listed here is the stable public API; everything else is internal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    BackboneError,
    ComputeError,
    DataError,
    EngineClosedError,
    EngineError,
    FingerprintMismatch,
    Forbidden,
    IntegrityError,
    MissingExtraError,
    NoEffectError,
    NonFiniteLossError,
    NotFoundError,
    QueueFull,
    RecipeError,
    RefError,
    RegistryError,
    RequestError,
    SettingsError,
    SignatureError,
    StrictLoadError,
    TrainingError,
    TrainingInterrupted,
    TransferError,
    Unauthorized,
)
from adapterhub.third_party import drop_known_messages

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone, load_backbone
    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.outputs import RequestOutput
    from adapterhub.engine.sampling.params import SamplingParams
    from adapterhub.hub.import_peft import ImportOptions
    from adapterhub.registry.query import Query
    from adapterhub.registry.version import Version
    from adapterhub.specs import QuantizationSpec
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainResult
    from adapterhub.workflows.connected_registry import ConnectedRegistry as Registry
    from adapterhub.workflows.connected_registry import pull, push
    from adapterhub.workflows.model import Model, load
    from adapterhub.workflows.registry_engine import RegistryEngine as Engine
    from adapterhub.workflows.train_run import train_run as train

#: Public name to ``module:name`` of its definition, as in the imports for type checkers above.
_LAZY = {
    "Backbone": "adapterhub.backbones.backbone:Backbone",
    "Engine": "adapterhub.workflows.registry_engine:RegistryEngine",
    "EngineConfig": "adapterhub.engine.config:EngineConfig",
    "ImportOptions": "adapterhub.hub.import_peft:ImportOptions",
    "Model": "adapterhub.workflows.model:Model",
    "QuantizationSpec": "adapterhub.specs:QuantizationSpec",
    "Query": "adapterhub.registry.query:Query",
    "Recipe": "adapterhub.training.recipe:Recipe",
    "Registry": "adapterhub.workflows.connected_registry:ConnectedRegistry",
    "RequestOutput": "adapterhub.engine.outputs:RequestOutput",
    "SamplingParams": "adapterhub.engine.sampling.params:SamplingParams",
    "TrainResult": "adapterhub.training.result:TrainResult",
    "Version": "adapterhub.registry.version:Version",
    "load": "adapterhub.workflows.model:load",
    "load_backbone": "adapterhub.backbones.backbone:load_backbone",
    "pull": "adapterhub.workflows.connected_registry:pull",
    "push": "adapterhub.workflows.connected_registry:push",
    "train": "adapterhub.workflows.train_run:train_run",
}

__all__ = [
    "AdapterHubError",
    "ArtifactError",
    "Backbone",
    "BackboneError",
    "ComputeError",
    "DataError",
    "Engine",
    "EngineClosedError",
    "EngineConfig",
    "EngineError",
    "FingerprintMismatch",
    "Forbidden",
    "ImportOptions",
    "IntegrityError",
    "MissingExtraError",
    "Model",
    "NoEffectError",
    "NonFiniteLossError",
    "NotFoundError",
    "QuantizationSpec",
    "Query",
    "QueueFull",
    "Recipe",
    "RecipeError",
    "RefError",
    "Registry",
    "RegistryError",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "SettingsError",
    "SignatureError",
    "StrictLoadError",
    "TrainResult",
    "TrainingError",
    "TrainingInterrupted",
    "TransferError",
    "Unauthorized",
    "Version",
    "load",
    "load_backbone",
    "pull",
    "push",
    "train",
]

drop_known_messages()


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
