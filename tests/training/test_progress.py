"""Progress of a run on a terminal, in a pipe and in its log."""

import io
import json

import pytest
from rich.console import Console

from adapterhub.training.progress import (
    EvaluationEvent,
    JsonLinesReporter,
    PlainReporter,
    Reporters,
    RichReporter,
    StepEvent,
    clock,
)

EVALUATION = EvaluationEvent(5, {"accuracy": 0.75, "loss": 0.5}, "accuracy", 0.8)


def step(number: int, total: int = 10) -> StepEvent:
    return StepEvent(number, total, 0.25, 1e-3, 1234.5, 61.0)


def test_a_pipe_gets_the_first_and_the_last_step_and_every_evaluation():
    stream = io.StringIO()
    reporter = PlainReporter(Console(file=stream, width=20))
    for number in range(1, 11):
        reporter.on_step(step(number))
    reporter.on_evaluation(EVALUATION)
    reporter.on_message("[not markup] and longer than the console is wide")
    assert stream.getvalue().splitlines() == [
        "step 1/10  loss 0.2500  1234 tokens/s  ETA 1:01",
        "step 10/10  loss 0.2500  1234 tokens/s  ETA 1:01",
        "evaluation at step 5  accuracy 0.7500 (best 0.8000)",
        "[not markup] and longer than the console is wide",
    ]


def test_a_terminal_shows_loss_speed_time_left_and_metrics():
    stream = io.StringIO()
    with RichReporter(Console(file=stream, force_terminal=True, width=140)) as reporter:
        reporter.on_message("examples: 3 train")
        reporter.on_evaluation(EVALUATION)
        reporter.on_step(step(7))
    shown = stream.getvalue()
    for part in (
        "examples: 3 train",
        "0.2500",
        "1234 tokens/s",
        "ETA 1:01",
        "0.7500 (best 0.8000)",
    ):
        assert part in shown


def test_a_resumed_run_appends_to_its_log_and_a_new_one_replaces_it(tmp_path):
    path = tmp_path / "run" / "log.jsonl"

    def write(append: bool) -> list[str]:
        log = JsonLinesReporter(path, append=append)
        reporters = Reporters([log])
        reporters.on_step(step(1))
        reporters.on_evaluation(EVALUATION)
        reporters.on_message("x")
        log.close()
        return [json.loads(line)["event"] for line in path.read_text().splitlines()]

    once = ["step", "evaluation", "message"]
    assert write(append=False) == once
    assert write(append=True) == once * 2
    assert write(append=False) == once
    record = json.loads(path.read_text().splitlines()[1])
    assert record["metrics"] == EVALUATION.metrics
    assert record["best"] == 0.8


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_time_left(seconds, text):
    assert clock(seconds) == text
