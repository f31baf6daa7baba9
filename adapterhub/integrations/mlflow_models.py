"""An adapter as a model of MLflow, in its transformers flavour, with our digest in its registry."""

from __future__ import annotations

from importlib.metadata import version as version_of
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from adapterhub.errors import ArtifactError, MissingExtraError, first_sentence
from adapterhub.third_party import without_warnings

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.tasks.base import HeadKind, Preprocessor

#: Head of a task to transformers' pipeline.
PIPELINES: dict[HeadKind, str] = {
    "causal_lm": "text-generation",
    "sequence": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "image": "image-classification",
}
#: Tag of a registered version, and key of a model's metadata, with the digest of the adapter.
DIGEST_TAG = "adapterhub.digest"
_PACKAGES = ("transformers", "torch", "peft", "accelerate")


def check_loggable(head: HeadKind, place: str) -> None:
    """Require mlflow, and a head that transformers has a pipeline for.

    Raises:
        MissingExtraError: Without mlflow.
        ArtifactError: For another head.
    """
    if find_spec("mlflow") is None:
        raise MissingExtraError("mlflow", "mlflow")
    if head not in PIPELINES:
        raise ArtifactError(
            f"MLflow's transformers flavour has no pipeline for its head ({head})",
            place=place,
            hint="Merge it with adapterhub merge, and log the folder as an artifact",
        )


def log_model(
    model: PreTrainedModel,
    preprocessor: Preprocessor,
    *,
    head: HeadKind,
    name: str,
    ref: str,
    digest: str,
) -> tuple[str, str]:
    """Log and register a merged model; see ``log_adapter``.

    Args:
        model: transformers' class for the task with the adapter in its weights.
        name: Name of the registered model.
        ref: Reference of the version.
        digest: Its digest.
    """
    return _log(model, preprocessor, head, name, ref, digest)


def log_adapter(
    artifact: Artifact,
    base: PreTrainedModel,
    preprocessor: Preprocessor,
    *,
    head: HeadKind,
    name: str,
    ref: str,
    backbone: Path,
) -> tuple[str, str]:
    """Log and register an adapter beside its backbone, which stays where it is.

    Args:
        base: transformers' class with the unquantized weights of the backbone.
        name: Name of the registered model.
        ref: Reference of the version.
        backbone: Folder that MLflow loads the backbone from.

    Returns:
        Address of the model and number of its registered version.

    Raises:
        ArtifactError: If MLflow can't log it.
    """
    import peft

    with without_warnings():
        adapted = peft.PeftModel.from_pretrained(base, str(artifact.path)).eval()
    return _log(
        adapted,
        preprocessor,
        head,
        name,
        ref,
        artifact.digest,
        base_model_path=str(backbone),
    )


def _log(
    model: Any,
    preprocessor: Any,
    head: HeadKind,
    name: str,
    ref: str,
    digest: str,
    **options: Any,
) -> tuple[str, str]:
    import mlflow
    from mlflow.exceptions import MlflowException

    component = "image_processor" if head == "image" else "tokenizer"
    try:
        with without_warnings():
            info = mlflow.transformers.log_model(
                {"model": model, component: preprocessor},
                name=name,
                task=PIPELINES[head],
                registered_model_name=name,
                metadata={DIGEST_TAG: digest, "adapterhub.ref": ref},
                pip_requirements=[f"{each}=={version_of(each)}" for each in _PACKAGES],
                **options,
            )
            number = str(info.registered_model_version)
            mlflow.MlflowClient().set_model_version_tag(name, number, DIGEST_TAG, digest)
    except (MlflowException, ValueError, OSError, ImportError) as error:
        raise ArtifactError(
            f"MLflow can't log it: {first_sentence(error)}",
            place=ref,
            hint="Check MLFLOW_TRACKING_URI",
        ) from error
    return str(info.model_uri), number
