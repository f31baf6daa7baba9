"""``README.md`` of an artifact: a model card with the Hub's metadata, made from the manifest."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import EvalResult, ModelCardData

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.adapters.manifest import Manifest

#: ``DataSource.origin`` of a data set of the Hub is this and its id.
HUB_ORIGIN = "hub:"
_VALIDATION = "validation"
_QUANTIZATION = "quantization"
#: Tasks of this project to the Hub's names, where they differ.
_PIPELINE_TAGS = {"dialogue": "text-generation", "instruction": "text-generation"}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MODEL_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
}
_PICTURES = "image-classification"
_PREDICT = (
    'inputs = tokenizer("Put your text here.", return_tensors="pt")',
    "with torch.inference_mode():",
    "    scores = model(**inputs).logits.softmax(dim=-1)",
    "print(scores.argmax(dim=-1))",
)
_ANSWER = (
    'inputs = tokenizer("Your question?", "The text to answer from.", return_tensors="pt")',
    "with torch.inference_mode():",
    "    output = model(**inputs)",
    "first, last = int(output.start_logits.argmax()), int(output.end_logits.argmax())",
    'print(tokenizer.decode(inputs["input_ids"][0, first : last + 1]))',
)
_LOOK = (
    'inputs = processor(images=Image.open("your picture.jpg").convert("RGB"), return_tensors="pt")',
    "with torch.inference_mode():",
    "    scores = model(**inputs).logits.softmax(dim=-1)",
    "print(scores.argmax(dim=-1))",
)
_GENERATE = (
    'messages = [{"role": "user", "content": "Put your question here."}]',
    "inputs = tokenizer.apply_chat_template(",
    '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
    ")",
    "output = model.generate(**inputs, max_new_tokens=64, do_sample=False)",
    'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
)


def render_card(
    manifest: Manifest,
    *,
    name: str,
    plot: str | None,
    pipeline_tag: str | None = None,
    license: str | None = None,
) -> str:
    """Return the card; the same arguments give the same text.

    Args:
        manifest: of the artifact; its ``files`` are not used.
        name: of the adapter, as in the registry.
        plot: file name of the loss plot in the folder, if there is one.
        pipeline_tag: the Hub's name of the task; taken from the task's name where ``None``.
        license: the Hub's identifier of the backbone's license, if known.
    """
    tag = pipeline_tag or _PIPELINE_TAGS.get(manifest.task, manifest.task)
    data = ModelCardData(
        base_model=manifest.backbone.hub_id,
        base_model_relation="adapter" if manifest.backbone.hub_id else None,
        library_name="peft",
        pipeline_tag=tag,
        license=license,
        datasets=_hub_datasets(manifest) or None,
        tags=["adapterhub", manifest.adapter.method, manifest.task],
        model_name=name if manifest.metrics.after else None,
        eval_results=_eval_results(manifest, tag) or None,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {_escape(name)}",
        _summary(manifest),
        _results(manifest),
        *([f"![Loss and metric over the training run]({plot})"] if plot else []),
        *([_labels(manifest.labels)] if manifest.labels else []),
        _usage(manifest, name, tag),
        _training(manifest),
        _limits(manifest, name, license),
    ]
    return "\n\n".join(sections) + "\n"


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


def _summary(manifest: Manifest) -> str:
    backbone = manifest.backbone
    share = manifest.trained_parameters / max(manifest.backbone_parameters, 1)
    method = {"lora": "LoRA", "prefix": "prefix tuning"}[manifest.adapter.method]
    return (
        f"An adapter for **{_escape(manifest.task)}** on the frozen backbone "
        f"{_backbone_link(manifest)}, trained by {method} with the backbone's weights held "
        f"{_held(manifest)}. {manifest.trained_parameters:,} parameters were trained, "
        f"{share:.2%} of the backbone's {manifest.backbone_parameters:,}.\n\n"
        f"Backbone fingerprint: `{backbone.fingerprint}`"
    )


def _held(manifest: Manifest) -> str:
    if _QUANTIZATION in manifest.unknown:
        return f"in a way that was not recorded; here it is used on `{manifest.quantization}`"
    return f"as `{manifest.quantization}`"


def _backbone_link(manifest: Manifest) -> str:
    hub_id = manifest.backbone.hub_id
    return (
        f"[{hub_id}](https://huggingface.co/{hub_id})" if hub_id else f"`{manifest.backbone.name}`"
    )


def _results(manifest: Manifest) -> str:
    before, after = manifest.metrics.before, manifest.metrics.after
    if not before and not after:
        return "## Results\n\nNo metric was recorded."
    rows = [
        f"| {_escape(metric)} | {_value(before.get(metric))} | {_value(after.get(metric))} |"
        for metric in sorted(before.keys() | after.keys())
    ]
    source = manifest.data.get(_VALIDATION)
    where = f", {source.num_examples:,} rows of {_escape(source.origin)}" if source else ""
    table = "\n".join(["| metric | backbone alone | with adapter |", "|---|---:|---:|", *rows])
    return f"## Results\n\nOn the validation split{where}.\n\n{table}"


def _value(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _labels(labels: Sequence[str]) -> str:
    listed = "\n".join(f"{index}. {_escape(label)}" for index, label in enumerate(labels))
    return f"## Labels\n\nIn the order of the head's outputs, from 0:\n\n{listed}"


def _usage(manifest: Manifest, name: str, tag: str) -> str:
    verb = "chat" if manifest.task in _PIPELINE_TAGS else "predict"
    return (
        "## How to use it\n\n"
        "With adapterhub, which checks the backbone's fingerprint first:\n\n"
        f"{_fenced('sh', _commands(verb, name))}\n\n"
        "With peft:\n\n"
        f"{_fenced('python', _peft_snippet(manifest, tag))}"
    )


def _commands(verb: str, name: str) -> str:
    return (
        f"adapterhub pull hf://OWNER/REPOSITORY --name {name}  # the id of this repository\n"
        f"adapterhub {verb} {name}"
    )


def _peft_snippet(manifest: Manifest, tag: str) -> str:
    model_class = _MODEL_CLASSES.get(tag, "AutoModelForCausalLM")
    arguments = _model_arguments(manifest)
    reader, reads = _reader(tag)
    imports = sorted({reader, model_class} | _imports(manifest), key=str.lower)
    backbone = manifest.backbone.hub_id or manifest.backbone.name
    if manifest.backbone.hub_id is None:
        comment = "  # its Hub id or folder was not recorded: put yours here"
    else:
        comment = ""
    revision = f", revision={manifest.backbone.revision!r}" if manifest.backbone.revision else ""
    return "\n".join(
        [
            "import torch",
            "from peft import PeftModel",
            *(["from PIL import Image"] if tag == _PICTURES else []),
            f"from transformers import {', '.join(imports)}",
            "",
            f"name = {backbone!r}{comment}",
            'adapter = "."  # the folder that holds this file, or the id of this repository',
            f"{reads} = {reader}.from_pretrained(name{revision}){_side(manifest)}",
            f"backbone = {model_class}.from_pretrained(",
            f"    name{revision},",
            *(f"    {argument}," for argument in arguments),
            ")",
            "model = PeftModel.from_pretrained(backbone, adapter).eval()",
            "",
            *_use(tag, _temperature(manifest)),
        ]
    )


def _reader(tag: str) -> tuple[str, str]:
    """Return the class that reads a backbone's input, and the name that the snippet gives it."""
    if tag == _PICTURES:
        return "AutoImageProcessor", "processor"
    return "AutoTokenizer", "tokenizer"


def _side(manifest: Manifest) -> str:
    section = manifest.recipe.get("task")
    side = section.get("image_size") if isinstance(section, dict) else None
    return "" if side is None else f"  # it learned from pictures of {side} by {side} pixels"


def _use(tag: str, temperature: float) -> tuple[str, ...]:
    if tag == "question-answering":
        return _ANSWER
    lines: tuple[str, ...] = _GENERATE
    if tag in _MODEL_CLASSES:
        lines = _LOOK if tag == _PICTURES else _PREDICT
    if temperature == 1.0:
        return lines
    return tuple(line.replace(".logits.", f".logits.div({temperature:g}).") for line in lines)


def _temperature(manifest: Manifest) -> float:
    """Return what logits are divided by; 1 where an older recipe does not say."""
    section = manifest.recipe.get("task")
    value = section.get("temperature", 1.0) if isinstance(section, dict) else 1.0
    return float(value) if isinstance(value, int | float) else 1.0


def _imports(manifest: Manifest) -> set[str]:
    return set() if manifest.quantization.scheme == "none" else {"BitsAndBytesConfig"}


def _model_arguments(manifest: Manifest) -> list[str]:
    quantization = manifest.quantization
    dtype = f"torch.{quantization.compute_dtype}"
    arguments = [f"dtype={dtype}"]
    if manifest.labels:
        arguments.append(f"num_labels={len(manifest.labels)}")
    names = ["qa_outputs"] if manifest.task == "question-answering" else ["classifier", "score"]
    heads = f"llm_int8_skip_modules={json.dumps([*names, 'lm_head'])}"
    if quantization.scheme in ("nf4", "fp4"):
        arguments.append(
            "quantization_config=BitsAndBytesConfig(\n"
            "        load_in_4bit=True,\n"
            f'        bnb_4bit_quant_type="{quantization.scheme}",\n'
            f"        bnb_4bit_compute_dtype={dtype},\n"
            f"        {heads},\n"
            "    )"
        )
    if quantization.scheme == "int8":
        arguments.append(
            "quantization_config=BitsAndBytesConfig(\n"
            "        load_in_8bit=True,\n"
            "        llm_int8_threshold=0.0,\n"
            f"        {heads},\n"
            "    )"
        )
    return arguments


def _training(manifest: Manifest) -> str:
    rows = [
        f"| {_escape(split)} | {source.num_examples:,} | {_escape(source.origin)} "
        f"| `{source.fingerprint}` |"
        for split, source in sorted(manifest.data.items())
    ]
    table = "\n".join(["| split | rows | origin | fingerprint |", "|---|---:|---|---|", *rows])
    data = table if rows else "What it was trained on was not recorded."
    recipe = yaml.safe_dump(dict(manifest.recipe), sort_keys=True, allow_unicode=True).strip()
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(manifest.libraries.items())
    )
    versions = versions or "libraries not recorded"
    seed = "not recorded" if manifest.seed is None else manifest.seed
    known = "recipe" not in manifest.unknown
    heading = "The recipe with every default filled in" if known else "How it is used here"
    parent = f"\n\nMade from the adapter `{manifest.parent}`." if manifest.parent else ""
    return (
        f"## Training\n\n{data}\n\nSeed {seed}; {versions}.{parent}\n\n"
        f"{heading}:\n\n{_fenced('yaml', recipe)}"
    )


def _limits(manifest: Manifest, name: str, license: str | None) -> str:
    figures = (
        "The figures above are of one training run on one validation split; how the adapter does "
        "on text of another kind is unknown."
    )
    lines = [
        figures if manifest.metrics.after else "How well it does is not known; measure it first.",
        _quantization_limit(manifest),
        "Faults and biases of the backbone and of the training data may show in its answers; "
        f"`adapterhub bias-audit {name}` measures some of them beside the backbone.",
    ]
    if license is None:
        lines.append("The license of the backbone was not recorded.")
    if manifest.unknown:
        made = (
            "It was composed of other adapters and not trained"
            if _is_composed(manifest)
            else ("It was trained elsewhere")
        )
        lines.append(f"{made}. Not recorded: {', '.join(manifest.unknown)}.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _is_composed(manifest: Manifest) -> bool:
    return "composition" in manifest.recipe


def _quantization_limit(manifest: Manifest) -> str:
    differ = "On the same backbone held in another way its answers differ a little."
    if _QUANTIZATION in manifest.unknown:
        return f"It is used on `{manifest.quantization}` weights. {differ}"
    return f"It was trained on `{manifest.quantization}` weights. {differ}"


def _fenced(language: str, text: str) -> str:
    """Return a code block whose fence is longer than any run of backticks in ``text``."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _escape(text: str) -> str:
    """Return ``text`` for use in a line or a table cell of Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
