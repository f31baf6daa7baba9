"""Model card of an artifact (``README.md``), rendered from its manifest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

if TYPE_CHECKING:
    from jinja2 import Template

    from adapterhub.adapters.manifest import Manifest

#: Prefix of ``DataSource.origin`` for a data set of the Hub.
HUB_ORIGIN = "hub:"
_VALIDATION = "validation"
#: Names of tasks on the Hub, where they differ.
_PIPELINE_TAGS = {"dialogue": "text-generation", "instruction": "text-generation"}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MODEL_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
    "audio-classification": "AutoModelForAudioClassification",
}
_IMAGES, _RECORDINGS = "image-classification", "audio-classification"
_READERS = {_IMAGES: "AutoImageProcessor", _RECORDINGS: "AutoFeatureExtractor"}
_GENERATES, _PAIRS = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
_SPEECH = "automatic-speech-recognition"
#: Classes that write transcripts as tokens, and as a character per frame.
_WRITES_TOKENS, _WRITES_FRAMES = "AutoModelForSpeechSeq2Seq", "AutoModelForCTC"


def render_card(
    manifest: Manifest,
    *,
    name: str,
    plot: str | None,
    pipeline_tag: str | None = None,
    license: str | None = None,
    continues: bool = False,
    task_type: str = "",
) -> str:
    """Render the card; equal arguments give equal text.

    Args:
        manifest: Manifest of the artifact; its ``files`` are not used.
        pipeline_tag: The Hub's name of the task; derived from the task's name where ``None``.
        license: The Hub's identifier of the backbone's license, if known. It is named in the text;
            the license of the adapter is for its owner to choose.
        continues: Whether training continued from another adapter, which the metrics before are of.
        task_type: peft's ``TaskType``, which tells the model of an encoder-decoder from others.
    """
    tag = pipeline_tag or _PIPELINE_TAGS.get(manifest.task, manifest.task)
    written = _PAIRS if task_type == "SEQ_2_SEQ_LM" else _GENERATES
    model_class = _MODEL_CLASSES.get(tag, written)
    reader = _READERS.get(tag, "AutoTokenizer")
    if tag == _SPEECH:
        # a head of characters has labels
        model_class = _WRITES_FRAMES if manifest.labels else _WRITES_TOKENS
        reader = "AutoFeatureExtractor"
    second = {"AutoTokenizer"} if model_class == _WRITES_TOKENS else set()
    quantized = {"BitsAndBytesConfig"} if manifest.quantization.scheme != "none" else set()
    revision = manifest.backbone.revision
    section = manifest.recipe.get("task")
    task = section if isinstance(section, dict) else {}
    temperature = task.get("temperature", 1.0)
    return _template().render(
        manifest=manifest,
        backbone=manifest.backbone,
        quantization=manifest.quantization,
        name=name,
        plot=plot,
        license=license,
        metadata=_metadata(manifest, name, tag).to_yaml(),
        trained_share=manifest.trained_parameters / max(manifest.backbone_parameters, 1),
        before=_before(model_class, continues=continues),
        words=tag == "token-classification",
        metrics=sorted(manifest.metrics.before.keys() | manifest.metrics.after.keys()),
        validation=manifest.data.get(_VALIDATION),
        generates=manifest.task in _PIPELINE_TAGS,
        answers=tag == "question-answering",
        reads_images=tag == _IMAGES,
        reads_audio=tag in (_RECORDINGS, _SPEECH),
        writes_tokens=model_class == _WRITES_TOKENS,
        writes_frames=model_class == _WRITES_FRAMES,
        imports=sorted({reader, model_class, *second} | quantized, key=str.lower),
        reader=reader,
        model_class=model_class,
        revision=f", revision={revision!r}" if revision else "",
        task=task,
        temperature=float(temperature) if isinstance(temperature, int | float) else 1.0,
        recipe=yaml.safe_dump(dict(manifest.recipe), sort_keys=True, allow_unicode=True),
    )


def _metadata(manifest: Manifest, name: str, tag: str) -> ModelCardData:
    return ModelCardData(
        base_model=manifest.backbone.hub_id,
        base_model_relation="adapter" if manifest.backbone.hub_id else None,
        library_name="peft",
        pipeline_tag=tag,
        datasets=_hub_datasets(manifest) or None,
        tags=["adapterhub", manifest.adapter.method, manifest.task],
        model_name=name if manifest.metrics.after else None,
        eval_results=_eval_results(manifest, tag) or None,
    )


def _before(model_class: str, *, continues: bool) -> str:
    """Return what the metrics before training are of."""
    if continues:
        return "before (the adapter that it continues)"
    if model_class in (_GENERATES, _PAIRS, _WRITES_TOKENS):
        return "before (backbone without adapter)"
    return "before (backbone with an untrained head)"


def _hub_datasets(manifest: Manifest) -> list[str]:
    origins = {source.origin for source in manifest.data.values()}
    ids = {origin.removeprefix(HUB_ORIGIN) for origin in origins if origin.startswith(HUB_ORIGIN)}
    return sorted(hub_id for hub_id in ids if _HUB_ID.fullmatch(hub_id))


def _eval_results(manifest: Manifest, tag: str) -> list[EvalResult]:
    source = manifest.data.get(_VALIDATION)
    origin = source.origin if source else "unknown"
    dataset = origin.removeprefix(HUB_ORIGIN)
    return [
        EvalResult(
            task_type=tag,
            dataset_type=dataset if origin.startswith(HUB_ORIGIN) else "local",
            dataset_name=dataset,
            dataset_split=_VALIDATION,
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in sorted(manifest.metrics.after.items())
    ]


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("adapterhub.adapters", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(text=_escape, value=_value, fenced=_fenced, repr=repr)
    return environment.get_template("model_card.md.jinja")


def _value(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _fenced(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any run of backticks in ``text``."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def _escape(text: str) -> str:
    """Return ``text`` escaped for a line or a table cell of Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
