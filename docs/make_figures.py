"""Draw a figure of each task from the benchmark results: ``python docs/make_figures.py``.

It reads ``benchmarks/results/`` and writes ``docs/figures/TASK.svg``. Equal results give equal
bytes.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from task_results import read_all  # noqa: E402
from task_table import interval, value  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes

FIGURES = Path(__file__).with_name("figures")
#: Compared models, with their names and colours in every figure.
PARTS = {
    "base": ("frozen backbone", "#b8b8b8"),
    "adapter": ("adapter", "#2a6fbb"),
    "full": ("full fine-tuning", "#e39b3b"),
}
Results = dict[str, dict[str, Any]]


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    for name, content in figures(read_all()).items():
        (FIGURES / name).write_bytes(content)


def figures(results: Results) -> dict[str, bytes]:
    """Return the figure of each task that has results, by file name."""
    found: dict[str, bytes] = {}
    for name, (needed, draw, size) in DRAWINGS.items():
        there = {recipe: results[recipe] for recipe in needed if recipe in results}
        if there:
            found[f"{name}.svg"] = _svg(draw, there, size)
    return found


def draw_classification(figure: Figure, results: Results) -> None:
    axes = figure.add_subplot()
    _bars(axes, {name: (document, "accuracy") for name, document in results.items()})
    axes.set(ylabel="accuracy (dev)", ylim=(0, 1))


def draw_labels(figure: Figure, results: Results) -> None:
    """Draw F1 and support of each label."""
    (document,) = results.values()
    found = [each for each in document["parts"]["adapter"]["labels"] if each["support"]]
    labels = sorted(found, key=lambda each: -each["support"])
    axes = figure.add_subplot()
    places = np.arange(len(labels))
    axes.bar(places, [each["f1"] for each in labels], color=PARTS["adapter"][1])
    names = [f"{each['label']} ({each['support']:.0f})" for each in labels]
    axes.set_xticks(places, names, rotation=45, ha="right", fontsize=8)
    axes.set(ylabel="F1 (dev)", ylim=(0, 1))
    axes.set_xlabel("label (support)")


def draw_transcripts(figure: Figure, results: Results) -> None:
    (document,) = results.values()
    axes = figure.add_subplot()
    _bars(axes, {metric: (document, metric) for metric in ("wer", "cer")})
    axes.set(ylabel="error rate (dev)")


def draw_entities(figure: Figure, results: Results) -> None:
    (document,) = results.values()
    axes = figure.add_subplot()
    metrics = ("entity_f1", "token_accuracy")
    _bars(axes, {metric: (document, metric) for metric in metrics})
    axes.set(ylabel="dev", ylim=(0, 1))


def draw_confusion(figure: Figure, results: Results) -> None:
    """Draw the row-normalized confusion matrix."""
    (document,) = results.values()
    found = document["parts"]["adapter"]["confusion"]
    matrix = np.array(found["matrix"], dtype=float)
    shares = matrix / matrix.sum(-1, keepdims=True).clip(min=1)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    places = range(len(found["labels"]))
    axes.set_xticks(places, found["labels"], rotation=90, fontsize=7)
    axes.set_yticks(places, found["labels"], fontsize=7)
    axes.set(xlabel="predicted label", ylabel="true label")
    figure.colorbar(image, ax=axes, label="share of the true label", shrink=0.8)


def draw_curve_and_bars(metrics: Sequence[str]) -> Callable[[Figure, Results], None]:
    """Return a function that draws the loss curve, and metrics of all models beside it."""

    def draw(figure: Figure, results: Results) -> None:
        (document,) = results.values()
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        curves = {each["name"]: each["points"] for each in document["parts"]["adapter"]["curves"]}
        for (name, points), style in zip(curves.items(), ("-", "o-"), strict=False):
            label = name if name == "train loss" else f"{name} (dev)"
            where = left if name in {"train loss", "loss"} else left.twinx()
            color = "gray" if name == "train loss" else PARTS["adapter"][1]
            where.plot(*zip(*points, strict=True), style, color=color, linewidth=1, label=label)
            where.set_ylabel("loss" if where is left else label)
            if where is left:
                left.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        left.set(xlabel="optimizer step")
        _bars(right, {metric: (document, metric) for metric in metrics})
        right.set_ylim(bottom=0)

    return draw


def _bars(axes: Axes, groups: Mapping[str, tuple[Mapping[str, Any], str]]) -> None:
    """Draw a group of bars for each name: one bar for each model, with its interval."""
    parts = [part for part in PARTS if any(part in d["parts"] for d, _ in groups.values())]
    width = 0.8 / len(parts)
    for place, part in enumerate(parts):
        label, color = PARTS[part]
        for at, (document, metric) in enumerate(groups.values()):
            found = document["parts"].get(part, {})
            height = value(found, metric)
            if height is None:
                continue
            x = at + (place - (len(parts) - 1) / 2) * width
            axes.bar(x, height, width * 0.95, color=color)
            ends = interval(found, metric)
            if ends is not None:
                axes.plot([x, x], ends, color="black", linewidth=1)
            top = height if ends is None else ends[1]
            axes.text(x, top, f"{height:.3g}", ha="center", va="bottom", fontsize=7)
        axes.bar(0, 0, color=color, label=label)
    axes.set_xticks(range(len(groups)), list(groups), fontsize=8)
    axes.margins(y=0.15)
    axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(parts))


Drawing = tuple[tuple[str, ...], "Callable[[Figure, Results], None]", tuple[float, float]]
#: Figure to the recipes that it shows, its drawing function and its size in inches.
DRAWINGS: dict[str, Drawing] = {
    "text-classification": (
        ("sst2-sentiment", "ag-news-topic", "banking77-intent", "clinc150-intent"),
        draw_classification,
        (7.0, 3.2),
    ),
    "multi-label": (("sgd-intents",), draw_labels, (9.0, 3.8)),
    "named-entities": (("conll2003-ner",), draw_entities, (5.0, 3.0)),
    "relations": (("semeval-relations",), draw_confusion, (7.0, 6.0)),
    "extractive-answers": (
        ("squad-extractive",),
        draw_curve_and_bars(("f1", "exact_match")),
        (8.0, 3.2),
    ),
    "generative-answers": (
        ("squad-generative",),
        draw_curve_and_bars(("f1", "exact_match")),
        (8.0, 3.2),
    ),
    "translation": (("multi30k-en-de",), draw_curve_and_bars(("bleu", "chrf")), (8.0, 3.2)),
    "summarization": (
        ("dialogsum-summary",),
        draw_curve_and_bars(("rouge1", "rouge2", "rouge_l")),
        (8.0, 3.2),
    ),
    "dialogue": (("support-replies",), draw_curve_and_bars(("perplexity", "chrf")), (8.0, 3.2)),
    "images": (("cifar10-objects",), draw_labels, (7.0, 3.4)),
    "transcripts": (("fsdd-transcripts",), draw_transcripts, (5.0, 3.0)),
    "recordings": (("fsdd-digits",), draw_labels, (7.0, 3.4)),
    "ranking": (("movielens-ranking",), draw_curve_and_bars(("auc", "ndcg_at_10")), (8.0, 3.2)),
}


def _svg(
    draw: Callable[[Figure, Results], None], results: Results, size: tuple[float, float]
) -> bytes:
    with mpl.rc_context({"svg.hashsalt": "adapterhub", "svg.fonttype": "path"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, results)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


if __name__ == "__main__":
    main()
