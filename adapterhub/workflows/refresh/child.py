"""The child's artifact: what training wrote, and how it came about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import write_annotated
from adapterhub.workflows.refresh.document import REFRESH_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.workflows.refresh.document import RefreshDocument

#: Folder beside the artifact that training wrote.
CHILD_NAME = "child"


def write_child(source: Path, document: RefreshDocument, parent: str) -> Path:
    """Write the child's artifact beside the one that training wrote, and return its folder.

    One that is there already is of this same refresh, and is written anew.

    Args:
        source: that training wrote.
        document: of the refresh.
        parent: reference of the version that was refreshed, for the card.
    """
    target = source.parent / CHILD_NAME
    write_annotated(
        source,
        target,
        files={REFRESH_NAME: document.to_bytes()},
        section=_section(document, parent),
        parent=document.parent,
    )
    return target


def _section(document: RefreshDocument, parent: str) -> str:
    found = document.findings
    metric = found["present"]["metric"]
    lines = []
    for name, what in (
        ("forgetting", f"old {found['split']} rows"),
        ("gain", "new rows, held out"),
    ):
        each = found[name].get(metric)
        if each:
            spread = each["interval"]
            lines.append(
                f"| {what} | {each['first']:.4f} | {each['second']:.4f} | "
                f"{each['difference']:+.4f} ({spread['low']:+.4f} … {spread['high']:+.4f}) |"
            )
    rows = "\n".join(lines)
    drifted = ", ".join(t["what"] for t in found["drift"]["tests"] if t["drift"]) or "none"
    return (
        f"## Refresh\n\nTrained on from `{parent}` (`{document.parent}`) with "
        f"{document.added[-1].num_examples} new examples and {document.replay:.0%} of the old "
        "training examples. "
        f"Drift: {drifted}. All that was found is in `{REFRESH_NAME}`.\n\n"
        f"| {metric} on | parent | this one | difference |\n|---|---|---|---|\n{rows}\n"
    )
