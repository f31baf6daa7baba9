"""HTML of a result: metrics, curves, and the report in a frame that runs no scripts."""

from dataclasses import replace
from html.parser import HTMLParser

from adapterhub.integrations.notebook import NotebookReporter, in_notebook
from adapterhub.training.progress import EvaluationEvent, StepEvent
from adapterhub.training.result import TrainResult
from adapterhub.training.result_page import curves_html


class Page(HTMLParser):
    """Attributes of every tag of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def result(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text(
        '{"event": "step", "step": 1, "loss": 2.0}\n'
        '{"event": "step", "step": 2, "loss": 1.0}\n'
        '{"event": "evaluation", "step": 2, "watched": "<b>", "metrics": {"<b>": 0.5}}\n'
    )
    made = TrainResult(
        folder=folder,
        artifact=folder,
        digest="sha256:" + "0" * 64,
        before={"accuracy": 0.25},
        after={"accuracy": 0.75, "loss": 1.0},
        table=(),
        trained_share=0.01,
        seconds=3.0,
        tokens_per_second=10.0,
        artifact_bytes=1,
        steps=2,
    )
    return replace(made, **changes)


def test_a_result_shows_metrics_and_curves(tmp_path):
    page = result(tmp_path / "run", reference="desk@1")._repr_html_()
    assert "desk@1" in page
    assert "<td>accuracy</td><td>0.2500</td><td>0.7500</td>" in page
    assert "2 steps" in page
    lines = [values["points"] for tag, values in Page(page).tags if tag == "polyline"]
    # from the largest loss at the top left to the smallest at the bottom right
    assert lines[0] == "30.0,30.0 290.0,120.0"
    assert "<b> (0.5" not in page
    assert "&lt;b&gt; (0.5 to 0.5)" in page


def test_the_report_is_in_a_frame_that_runs_nothing(tmp_path):
    report = tmp_path / "report.html"
    report.write_text('<script>alert("1")</script>')
    page = result(tmp_path / "run", report=report)._repr_html_()
    (frame,) = (values for tag, values in Page(page).tags if tag == "iframe")
    assert "sandbox" in frame
    assert frame["srcdoc"] == report.read_text()
    assert "<script" not in page


def test_a_reporter_renews_one_page(monkeypatch):
    assert not in_notebook()
    reporter, pages = NotebookReporter(), []
    monkeypatch.setattr(reporter, "_show", lambda *, now: pages.append((now, reporter.html())))
    reporter.on_message("examples: <6>")
    for step in range(1, 501):
        reporter.on_step(StepEvent(step, 500, 1 / step, 0.1, 20.0, 30.0))
    reporter.on_evaluation(EvaluationEvent(500, {"accuracy": 0.5}, "accuracy", 0.5))
    assert [now for now, _ in pages] == [True, *[False] * 499, True, True]
    page = pages[-1][1]
    assert 'value="500" max="500"' in page
    assert "examples: &lt;6&gt;" in page
    assert "accuracy 0.5000 (best 0.5000)" in page
    (loss, accuracy) = (v["points"].split() for tag, v in Page(page).tags if tag == "polyline")
    assert len(loss) <= 200
    assert len(accuracy) == 1


def test_a_curve_of_equal_values_is_a_line():
    assert 'points="30.0,120.0 290.0,120.0"' in curves_html(
        [{"name": "loss", "points": [[1, 2.0], [3, 2.0]]}]
    )
