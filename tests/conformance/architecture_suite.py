"""What an architecture must pass: train, store, load in plain peft, serve in mixed batches.

The reference is always ``PeftModel.from_pretrained`` on plain transformers, one sequence at a time
in float32.
"""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml
from differences import BOUND, NUM_TOKENS, Differences, token_difference
from peft import PeftModel
from targets import compare_targets
from tiny_models import AUTO_CLASSES, tiny_model_folder
from transformers import AutoConfig, AutoModel
from vision_backbones import shape_image

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.forward_paths import forward_paths
from adapterhub.data.packing import pack
from adapterhub.engine.adapter_task import task_of
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import AdapterHubError
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.tasks.base import Task

WORDS = (
    "the",
    "river",
    "is",
    "wide",
    "and",
    "old",
    "a",
    "man",
    "sang",
    "of",
    "home",
    "in",
    "spring",
)
TASKS = {
    "causal_lm": "dialogue",
    "seq2seq_lm": "translation",
    "sequence": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "image": "image-classification",
}

#: Reason why texts were compared with transformers' forward of the whole sequence.
CONTRADICTED = "transformers' generation with its cache differs from its own forward"

Status = Literal["equal", "refused", "wrong", "crash"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one architecture with one head.

    Args:
        model_type: transformers' ``model_type``.
        head: Kind of the head.
        status: ``refused`` is an error of this project before training; ``crash`` any other.
        path: Path that served: ``fast`` or ``padded``; empty if none did.
        detail: Reason of a refusal, or what differed.
        difference: Largest difference from peft.
    """

    model_type: str
    head: str
    status: Status
    path: str = ""
    detail: str = ""
    difference: float = 0.0


def check_architecture(folder: Path, model_type: str, head: str) -> Outcome:
    """Make a tiny model, train two adapters on it and compare all that follows with peft.

    Args:
        folder: Empty folder.
        model_type: transformers' ``model_type``.
        head: Key of ``TASKS``.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    stored = "causal_lm" if head == "causal_lm" else None
    model = tiny_model_folder(folder / "model", model_type, stored)
    place = "training"
    try:
        backbone = load_backbone(str(model), _plain())
        artifacts = [_trained(folder, model, backbone, head, seed) for seed in (1, 2)]
        place = "serving"
        found = _compare(model, backbone, head, artifacts)
    except AdapterHubError as error:
        # a refusal comes before the training
        status: Status = "refused" if place == "training" else "crash"
        detail = str(error).splitlines()[0].replace(f"{model}", model_type)
        return Outcome(model_type, head, status, detail=detail)
    except Exception as error:  # noqa: BLE001, every fault of an architecture is recorded
        return Outcome(model_type, head, "crash", detail=f"{type(error).__name__}: {error}"[:300])
    path = _path(backbone, head)
    if found.notes:
        return Outcome(model_type, head, "wrong", path, "; ".join(found.notes), found.largest)
    details = [CONTRADICTED if found.contradicted else "", _reason(backbone, path)]
    detail = "; ".join(each for each in details if each)
    return Outcome(model_type, head, "equal", path, detail, found.largest)


def _plain() -> Any:
    from adapterhub.specs import QuantizationSpec

    return QuantizationSpec("none", "float32")


def _path(backbone: Backbone, head: str) -> str:
    if backbone.kind == "vision":
        return "images"
    paths = forward_paths(backbone)
    return "fast" if (paths.paged if head == "causal_lm" else paths.packed) else "padded"


def _reason(backbone: Backbone, path: str) -> str:
    if path != "padded":
        return ""
    own = ["encoder-decoders have no other"] if backbone.kind == "encoder-decoder" else []
    return "; ".join([*own, *forward_paths(backbone).reasons])


# data ------------------------------------------------------------------------------------------


def _text(number: int, length: int) -> list[str]:
    return [WORDS[(number * 5 + at * (number + 3)) % len(WORDS)] for at in range(length)]


def examples_for(head: str, count: int = 8) -> list[dict[str, Any]]:
    """Return labelled examples of several lengths."""
    return [_example(head, number, 3 + 2 * (number % 5)) for number in range(count)]


def _example(head: str, number: int, length: int) -> dict[str, Any]:
    words = _text(number, length)
    if head == "causal_lm":
        return {"prompt": " ".join(words), "response": " ".join(_text(number + 1, 3))}
    if head == "seq2seq_lm":
        return {"source": " ".join(words), "target": " ".join(_text(number + 1, 2 + number % 4))}
    if head == "sequence":
        return {"text": " ".join(words), "label": ("low", "mid", "high")[number % 3]}
    if head == "token":
        return {"tokens": words, "tags": ["B-X" if len(w) > 3 else "O" for w in words]}
    if head == "span":
        answer = words[number % length]
        text = " ".join(words)
        return {
            "question": " ".join(_text(number + 2, 3)),
            "context": text,
            "answers": {"text": [answer], "answer_start": [text.index(answer)]},
        }
    return {"image": f"{number}.png", "label": ("red", "green", "blue")[number % 3]}


def _write_data(folder: Path, head: str) -> Path:
    folder.mkdir(exist_ok=True)
    examples = examples_for(head)
    for number, example in enumerate(examples):
        if head == "image":
            (folder / example["image"]).write_bytes(shape_image(example["label"], number))
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path


def _trained(folder: Path, model: Path, backbone: Backbone, head: str, seed: int) -> Artifact:
    data = str(_write_data(folder / "data", head))
    document = {
        "name": f"adapter-{seed}",
        "backbone": {"name": str(model), "quantization": "none", "compute_dtype": "float32"},
        "task": {"name": TASKS[head], **({} if head == "image" else {"max_length": 160})},
        "data": {"train": data, "validation": data},
        "adapter": {"rank": 4 * seed, "alpha": 8, "init": "random"},
        "optimizer": {"learning_rate": 0.02},
        "train": {"steps": 2, "batch_size": 8, "evaluate_every": 2, "seed": seed},
    }
    recipe = folder / f"{seed}.yaml"
    recipe.write_text(yaml.safe_dump(document))
    result = train(load_recipe(recipe), output=folder / f"run-{seed}", backbone=backbone)
    return read_artifact(result.artifact)


# comparison ------------------------------------------------------------------------------------


def _compare(model: Path, backbone: Backbone, head: str, artifacts: list[Artifact]) -> Differences:
    config = EngineConfig(max_num_seqs=8, kv_cache_tokens=2048, block_size=8, rank_slots=64)
    engine = Engine(backbone, config)
    try:
        for number, artifact in enumerate(artifacts):
            engine.load(artifact, name=f"a{number}")
        references = [_reference(model, head, artifact) for artifact in artifacts]
        compare = {"causal_lm": _compare_texts, "seq2seq_lm": compare_targets}
        return compare.get(head, _compare_labels)(engine, references, artifacts)
    finally:
        engine.close()


def _reference(model: Path, head: str, artifact: Artifact) -> Any:
    """Return peft's model of an artifact on plain transformers."""
    config = AutoConfig.from_pretrained(model)
    if head not in ("causal_lm", "seq2seq_lm"):
        config.num_labels = len(artifact.manifest.labels) or 2
    plain = AUTO_CLASSES[head].from_pretrained(
        model, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    prefix = plain.base_model_prefix
    if head == "span" and prefix == "transformer" and hasattr(plain, prefix):
        # transformers finds no weights of a causal LM's checkpoint under this name
        setattr(plain, prefix, AutoModel.from_pretrained(model, dtype=torch.float32))
    with warnings.catch_warnings():
        # peft leaves tensors that it finds no layer for at random values
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return PeftModel.from_pretrained(plain, str(artifact.path)).eval()


def _compare_texts(engine: Engine, references: list[Any], artifacts: list[Artifact]) -> Differences:
    """Compare greedy tokens and their log-probabilities, mixed over adapters and lengths."""
    prompts = [
        [40 + (number * 31 + at * at * 7) % 300 for at in range(4 + 5 * number)]
        for number in range(5)
    ]
    names = [None, "a0", "a1", "a0", "a1"]
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=1)
    outputs = engine.generate(prompts, names, [params] * len(prompts))
    differences = Differences()
    for prompt, name, output in zip(prompts, names, outputs, strict=True):
        (answer,) = output.outputs
        if answer.error is not None:
            raise RuntimeError(f"generation failed: {answer.error}")
        tokens, scores, cached = _greedy(references, name, prompt)
        differences.contradicted |= not cached
        found = torch.tensor([each.chosen for each in answer.logprobs])
        differences.add(
            f"{name or 'base'} of {len(prompt)}",
            token_difference(list(answer.tokens), found, tokens, scores),
        )
    return differences


def _greedy(
    references: list[Any], name: str | None, prompt: list[int]
) -> tuple[list[int], torch.Tensor, bool]:
    """Return peft's greedy tokens and log-probabilities ``[num_tokens, vocab_size]``.

    They are those of generation with transformers' cache, if the model's forward of the whole
    sequence, with which adapters are trained, is equal; else of that forward. The last value says
    whether it is.
    """
    model = references[0 if name is None else int(name[1:])]
    with torch.no_grad(), model.disable_adapter() if name is None else nullcontext():
        tokens, scores = _generate(model, prompt, use_cache=True)
        whole = torch.tensor([prompt + tokens[:-1]])
        logits = model(
            input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False
        ).logits[0, len(prompt) - 1 :]
        difference = (torch.log_softmax(logits.float(), -1) - scores).abs().max()
        if difference <= BOUND:
            return tokens, scores, True
        return *_generate(model, prompt, use_cache=False), False


def _generate(model: Any, prompt: list[int], *, use_cache: bool) -> tuple[list[int], torch.Tensor]:
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)).long(),
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=use_cache,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.cat(output.logits).float()
    return output.sequences[0, len(prompt) :].tolist(), torch.log_softmax(logits, -1)


def _compare_labels(
    engine: Engine, references: list[Any], artifacts: list[Artifact]
) -> Differences:
    """Compare the predictions of a batch of both adapters with peft's, one at a time."""
    task = task_of(artifacts[0].manifest, engine.backbone)
    items = [_inputs(task, each) for each in examples_for(_head(task), 6)]
    names = [f"a{number % 2}" for number in range(len(items))]
    kind: Any = "sequence" if task.head == "image" else task.head
    found = engine.label(items, names, kind=kind)
    differences = Differences()
    for item, name, answer in zip(items, names, found, strict=True):
        expected = _expected(task, references[int(name[1:])], item)
        differences.add(name, _answer_difference(answer, expected))
    return differences


def _head(task: Task) -> str:
    return str(task.head)


def _inputs(task: Task, example: Mapping[str, Any]) -> dict[str, Any]:
    from adapterhub.data.images import ImageFile

    kept = {k: v for k, v in example.items() if k not in ("label", "tags", "answers")}
    if "image" in kept:
        content = shape_image(example["label"], int(kept["image"][:-4]))
        kept["image"] = ImageFile(kept["image"], content)
    return kept


def _expected(task: Task, model: Any, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prediction that follows from peft's logits for one item alone."""
    encoded = task.encode(item, 1, train=False)
    assert encoded is not None
    batch = pack([encoded])
    with torch.no_grad():
        if batch.media is not None:
            logits = model(pixel_values=torch.stack(batch.media)).logits
        else:
            inputs = {"input_ids": torch.tensor([list(encoded.input_ids)])}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if encoded.segment_ids:
                inputs["token_type_ids"] = torch.tensor([list(encoded.segment_ids)])
            output = model(**inputs)
            logits = _selected(task, output, list(encoded.select))
    (decoded,) = task.decode(lambda hidden: hidden, logits.float(), batch)
    return task.prediction(item, decoded)


def _selected(task: Task, output: Any, select: list[int]) -> torch.Tensor:
    if task.head == "span":
        return torch.stack([output.start_logits[0], output.end_logits[0]], -1)[select]
    return output.logits if task.head == "sequence" else output.logits[0, select]


def _answer_difference(found: Any, expected: Any) -> float:
    """Return the largest difference of two predictions; infinite if they differ in kind."""
    if isinstance(expected, bool) or not isinstance(expected, float | dict | list):
        return 0.0 if found == expected else float("inf")
    if isinstance(expected, float):
        return abs(float(found) - expected)
    if type(found) is not type(expected) or len(found) != len(expected):
        return float("inf")
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            return float("inf")
        pairs: Iterator[tuple[Any, Any]] = ((found[key], expected[key]) for key in expected)
    else:
        pairs = iter(zip(found, expected, strict=True))
    return max((_answer_difference(a, b) for a, b in pairs), default=0.0)
