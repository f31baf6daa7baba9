"""Where a head that answers a question for each label begins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapterhub.training.prepare import PreparedData


def prior_log_odds(data: PreparedData) -> list[float]:
    """Return for each label the log odds that a training row has it: the bias of a fresh head.

    Most labels are absent from most texts. A head that begins at one half for all of them is
    pushed the same way by every row, which drives an encoder's pooler into saturation before it
    has told any two texts apart, and there it stays. Source: Lin et al. 2017, "Focal Loss for
    Dense Object Detection", arXiv:1708.02002, section 4.1, here with counts as shares.
    """
    rows = len(data.splits["train"])
    # one more row that has the label, and one that has not: no share is 0 or 1
    shares = [(count + 1) / (rows + 2) for count in data.label_counts.values()]
    return [math.log(share / (1 - share)) for share in shares]
