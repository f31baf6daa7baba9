"""Which labels are taken for each other, how sure the adapter is, and where it fails worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.evaluation.labelled import most_confused
from adapterhub.workflows.run_report.blocks import Picture, Section, Table, Text
from adapterhub.workflows.run_report.figures import MOST_LABELS, draw_confusion, draw_reliability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.evaluation.calibration import Calibration, Temperature
    from adapterhub.evaluation.labelled import Labelled
    from adapterhub.evaluation.worst_examples import ErrorExample
    from adapterhub.workflows.run_report.blocks import Block

#: Pairs of labels that the table names.
SHOWN_PAIRS = 15
#: Longest text of an example, in characters.
_LONGEST = 400


def confusion_section(choices: Labelled, *, pictures: bool) -> Section:
    """Return the confusion matrix, where it can be read, and the pairs confused most."""
    matrix = choices.confusion()
    blocks: list[Block] = []
    if pictures and len(choices.labels) <= MOST_LABELS:
        caption = f"Right labels against those said, in {choices.unit}; shades are shares of a row"
        blocks.append(Picture(draw_confusion(matrix, choices.labels), caption))
    pairs = most_confused(matrix, choices.labels, SHOWN_PAIRS)
    if pairs:
        rows = [(p.gold, p.found, str(p.count), f"{p.share:.1%}") for p in pairs]
        columns = ("right", "said", f">{choices.unit}", ">of the right ones")
        blocks.append(Table(columns, rows, caption="Taken for each other most often."))
    else:
        blocks.append(Text("No label was taken for another one."))
    return Section("Confusion", blocks)


def calibration_section(
    found: Calibration,
    temperature: Temperature | None,
    unit: str,
    stored: float,
    *,
    pictures: bool,
) -> Section:
    """Return how far confidence and accuracy are apart, and what a temperature brings.

    Args:
        found: without a temperature that was fitted in this run.
        temperature: that was fitted, where one was.
        unit: of what is predicted.
        stored: temperature that the adapter's answers have.
        pictures: whether they can be drawn.
    """
    bins = f"{len(found.bins)} bin{'s' if len(found.bins) != 1 else ''}"
    blocks: list[Block] = [
        Text(
            f"Expected calibration error {found.error:.4f} over {bins} of "
            f"{unit}: so far are confidence and the share of right answers apart on average."
        )
    ]
    if pictures:
        caption = "Share of right answers against confidence; on the dashed line both agree"
        blocks.append(Picture(draw_reliability(found), caption))
    if temperature is not None:
        blocks.append(_temperature(temperature))
        blocks.append(Text(f"The temperature that answers of this adapter have is {stored:g}."))
    return Section("Calibration", blocks)


def worst_section(examples: Sequence[ErrorExample]) -> Section:
    """Return the rows with the worst answers."""
    if not examples:
        return Section("Worst examples")
    answered = any(example.found for example in examples)
    columns = ["text", "right", *(["said"] if answered else []), f">{examples[0].measure}"]
    rows = [
        [
            _cut(each.text),
            _cut(each.expected),
            *([_cut(each.found)] if answered else []),
            f"{each.badness:.2f}",
        ]
        for each in examples
    ]
    return Section("Worst examples", (Table(columns, rows),))


def _temperature(found: Temperature) -> Table:
    rows = [
        ("expected calibration error", f"{found.before:.4f}", f"{found.after:.4f}"),
        ("negative log-likelihood", f"{found.nll_before:.4f}", f"{found.nll_after:.4f}"),
    ]
    caption = (
        f"Temperature {found.value:.3f}, fitted on the validation rows. The figures with it are "
        "of each half of the rows by the temperature of the other half."
    )
    return Table(("", ">without", ">with temperature"), rows, caption=caption)


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[: _LONGEST - 1]}…"
