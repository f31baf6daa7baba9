"""The forecast for twice the labels, for metrics of every scale and direction."""

import pytest

from adapterhub.tasks.table import entry_of
from adapterhub.training.learning_curve import CurvePoint, forecast

SIZES = (100, 200, 400, 800, 1600)


def points(value_of):
    return [
        CurvePoint(
            limit=n,
            num_examples=n,
            value=value_of(n),
            low=None,
            high=None,
            steps=1,
            seconds=1,
            digest="",
        )
        for n in SIZES
    ]


@pytest.mark.parametrize("task", ["text-classification", "question-answering"])
def test_a_share_and_a_score_out_of_a_hundred_have_the_same_forecast(task):
    best = entry_of(task).best
    found = forecast(points(lambda n: best * (0.9 - 3.0 * n**-0.5)), best=best)
    assert found.num_examples == 3200
    assert found.value == pytest.approx(best * (0.9 - 3.0 * 3200**-0.5), rel=0.01)
    assert found.ceiling == pytest.approx(best * 0.9, rel=0.02)
    assert found.gain == pytest.approx(best * 3.0 * (1600**-0.5 - 3200**-0.5), rel=0.05)


def test_a_loss_is_forecast_to_fall():
    found = forecast(points(lambda n: 0.5 + 4.0 * n**-0.5), best=0.0)
    assert found.value == pytest.approx(0.5 + 4.0 * 3200**-0.5, rel=0.01)
    assert found.gain > 0
