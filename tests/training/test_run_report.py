"""Every run writes a self-contained report with intervals and warnings."""

import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from tiny_models import tiny_model_folder
from transformers import AutoTokenizer

from adapterhub.evaluation.attribution.budget import AttributionBudget
from adapterhub.evaluation.attribution.explain import LARGE_GAP
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.question_answering import FoundSpan, QuestionAnswering
from adapterhub.training.energy import EnergyMeter
from adapterhub.training.evaluate import Predictions
from adapterhub.training.recipe_file import load_recipe
from adapterhub.workflows.run_report import bias_audit_section
from adapterhub.workflows.run_report import report as report_module
from adapterhub.workflows.run_report.blocks import Section, Table, Text, render_page
from adapterhub.workflows.run_report.cost_section import Cost, cost_section
from adapterhub.workflows.run_report.figures import draw_confusion
from adapterhub.workflows.run_report.options import ReportOptions
from adapterhub.workflows.run_report.prediction_sections import reported_metrics
from adapterhub.workflows.train_run import train_run

NO_COST = Cost(
    seconds=1.0,
    steps=1,
    tokens_per_second=1.0,
    trained_share=0.1,
    artifact_bytes=1,
    peak_bytes=None,
    device_bytes=None,
)


@pytest.mark.parametrize("label", ["$5$_", "a$b_{$", "_under", "x\\frac"])
def test_a_label_is_not_a_formula(label):
    svg = draw_confusion(np.array([[3, 1], [0, 2]]), [label, "plain"])
    assert svg.startswith(b"<?xml")


def test_examples_are_counted_and_not_their_windows(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    task = QuestionAnswering(tokenizer, TaskOptions(max_length=16, stride=2), null="first")
    example = {"context": "the day was fine and long " * 6, "question": "when", "answers": ["fine"]}
    windows = [*task.windows(example), *task.windows(example)]
    assert len(windows) > 4
    spans = [FoundSpan(0, 0, 0.5, 0.5)] * len(windows)
    scored = Predictions(windows, spans, task.evaluate(windows, spans))
    evidence = SimpleNamespace(task=task, before=None, after=scored)
    metrics = reported_metrics(evidence, {}, resamples=100, level=0.95)
    summary = {}
    section, _ = report_module._results(evidence, metrics, ReportOptions(), summary)
    assert summary["num_examples"] == 2
    assert section.blocks[0].caption.startswith("On 2 validation examples")


def titles(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_the_page_has_no_links_to_elsewhere_and_embeds_its_figures(
    recipe, encoder, moods, tmp_path
):
    path = recipe("mood", encoder, "text-classification", moods)
    options = ReportOptions(temperature=True)
    result = train_run(load_recipe(path), output=tmp_path / "run", report=options)
    page = result.report.read_text()
    assert titles(page) == [
        "Results",
        "Labels",
        "Confusion",
        "Calibration",
        "Explanations",
        "Data",
        "Curves",
        "Bias audit",
        "Cost",
    ]
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert page.count("data:image/svg+xml;base64,") == 3
    # the toy's validation examples are its training examples, which the page must report
    assert "120 validation examples are also in training" in page

    summary = json.loads((tmp_path / "run/report.json").read_text())
    found = summary["metrics"]["accuracy"]
    assert found["after"] == result.after["accuracy"]
    assert found["before"] == result.before["accuracy"]
    assert found["interval"]["low"] <= found["after"] <= found["interval"]["high"]
    assert found["before_interval"]["low"] <= found["before"] <= found["before_interval"]["high"]
    assert summary["digest"] == result.digest
    assert summary["calibration"]["temperature"]["value"] > 0
    assert summary["data"]["leaks"][0]["same"] == 120
    assert summary["cost"]["peak_bytes"] > 1e6
    audit = summary["bias_audit"]
    assert audit["completed"] == audit["total"]
    assert {each["name"] for each in audit["metrics"]} == {
        "names",
        "pronouns",
        "nationalities",
    }
    # this tokenizer maps every such word to the same unknown token
    assert all(each["adapter"]["value"] == 0 for each in audit["metrics"])
    assert audit["scores"]["adapter"] == result.after["accuracy"]
    assert "a linear probe of the backbone, trained on 120 examples" in page


def test_error_examples_are_shown_and_escaped(recipe, encoder, moods, tmp_path):
    held_out = tmp_path / "held.jsonl"
    examples = [
        # any prediction is wrong on one of the two
        {"text": "the day was fine <img src=x onerror=alert(1)>", "label": label}
        for label in ("sad", "glad")
    ]
    held_out.write_text("".join(json.dumps(example) + "\n" for example in examples))
    path = recipe("mood", encoder, "text-classification", moods)
    loaded = load_recipe(path, [f"data.validation={held_out}", "train.metric=loss"])
    result = train_run(loaded, output=tmp_path / "run")
    page = result.report.read_text()
    assert "Error examples" in titles(page)
    assert "1 texts of the validation split occur with more than one label or answer" in page
    assert "<img src=x" not in page
    assert "the day was fine &lt;img src=x" in page


@pytest.mark.parametrize(
    ("task", "backbone"), [("token-classification", "encoder"), ("dialogue", "decoder")]
)
def test_other_tasks_have_the_sections_that_apply(task, backbone, recipe, request, talks, tmp_path):
    data = talks
    if task == "token-classification":
        data = tmp_path / "tags.jsonl"
        example = {"tokens": ["the", "film", "was", "good"], "tags": ["O", "B-THING", "O", "O"]}
        data.write_text((json.dumps(example) + "\n") * 8)
    path = recipe("any", request.getfixturevalue(backbone), task, data, train={"steps": 2})
    result = train_run(load_recipe(path), output=tmp_path / "run")
    found = set(titles(result.report.read_text()))
    assert {"Results", "Data", "Curves", "Bias audit", "Cost"} <= found
    assert ("Confusion" in found) == (task == "token-classification")
    assert ("Calibration" in found) == (task == "token-classification")
    assert {"Error examples", "Explanations"} & found
    summary = json.loads((tmp_path / "run/report.json").read_text())
    name = "entity_f1" if task == "token-classification" else "perplexity"
    assert summary["metrics"][name]["interval"] is not None
    names = {each["name"] for each in summary["bias_audit"]["metrics"]}
    if task == "dialogue":
        assert {"refused", "rude words", "stereotype preferred"} <= names
    else:
        assert "names" in names


def test_an_encoder_decoder_has_the_sections_of_its_targets(recipe, tmp_path):
    data = tmp_path / "pairs.jsonl"
    pairs = {"the river": "a man", "spring": "home", "old": "wide"}
    lines = [json.dumps({"source": one, "target": other}) + "\n" for one, other in pairs.items()]
    data.write_text("".join(lines * 3))
    folder = tiny_model_folder(tmp_path, "t5")
    path = recipe("pairs", folder, "translation", data, train={"steps": 2})
    result = train_run(load_recipe(path), output=tmp_path / "run")
    page = result.report.read_text()
    assert {"Results", "Error examples", "Explanations", "Data", "Cost"} <= set(titles(page))
    assert not {"Confusion", "Calibration", "Labels"} & set(titles(page))
    assert "Not explained: this task has no attribution to words" in page
    # sources and references of the examples with the highest loss
    assert set(pairs) & set(re.findall(r"<td>([^<]*)</td>", page))
    summary = json.loads((tmp_path / "run/report.json").read_text())
    found = summary["metrics"]["loss"]
    assert found["after"] == result.after["loss"]
    assert found["interval"]["low"] <= found["after"] <= found["interval"]["high"]


def test_without_matplotlib_the_page_has_all_numbers_but_no_figures(
    recipe, encoder, moods, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = recipe("mood", encoder, "text-classification", moods, train={"steps": 2})
    result = train_run(load_recipe(path), output=tmp_path / "run")
    page = result.report.read_text()
    assert "Calibration" in titles(page)
    assert "data:image" not in page


def test_no_report_writes_no_report(command, recipe, encoder, moods, tmp_path):
    path = recipe("mood", encoder, "text-classification", moods, train={"steps": 2})
    report = json.loads(command("train", str(path), "--no-report", "--json").stdout)
    assert report["report"] is None
    assert not list((tmp_path / "runs").rglob("report.*"))


def test_empty_sections_are_left_out_and_text_is_escaped():
    sections = [
        Section("Empty"),
        Section("Two words", (Text("a < b", warning=True), Table(("x", ">n"), [("<i>", "1")]))),
    ]
    page = render_page("<b>", "sub", sections)
    assert titles(page) == ["Two words"]
    assert 'href="#two-words"' in page
    assert "<title>&lt;b&gt;</title>" in page
    assert '<p class="warning">a &lt; b</p>' in page
    assert '<td>&lt;i&gt;</td><td class="num">1</td>' in page


def test_selected_predictions_are_explained_by_their_words(recipe, encoder, moods, tmp_path):
    # some examples have the wrong label, so that some predictions are confidently wrong
    examples = [json.loads(line) for line in moods.read_text().splitlines()]
    for example in examples[::30]:
        example["label"] = "sad" if example["label"] == "glad" else "glad"
    moods.write_text("".join(json.dumps(example) + "\n" for example in examples))
    path = recipe("mood", encoder, "text-classification", moods)
    result = train_run(load_recipe(path), output=tmp_path / "run")
    page = result.report.read_text()
    section = page[page.index('<section id="explanations">') : page.index('<section id="data">')]
    assert [found.split(":")[0] for found in re.findall(r"<h3>(.*?)</h3>", section)] == [
        "Confident error",
        "Confident and correct",
        "Uncertain",
    ]
    assert section.count('<p class="words">') == 3
    assert re.search(r'<span class="for" style="--a:1.00" title="\+\d', section)
    assert "with [UNK] for every word" in section

    wrong, right, _ = json.loads((tmp_path / "run/report.json").read_text())["explanations"]
    assert wrong["answer"] != wrong["expected"]
    assert right["answer"] == right["expected"]
    strongest = max(right["words"], key=lambda word: word["attribution"])
    assert strongest["word"] in right["texts"]["text"].split()[-1]
    # more steps are taken only where fewer leave a gap
    for each in (wrong, right):
        share = abs(each["gap"]) / abs(each["value"] - each["baseline_value"])
        assert each["method"] == "gradients"
        assert each["steps"] == (10 if share <= LARGE_GAP else 20)
    assert "Integrated gradients" in section


def test_a_failed_explanation_leaves_the_report(
    recipe, encoder, moods, tmp_path, monkeypatch, caplog
):
    def fail(*_given):
        raise ValueError("no such gradient")

    monkeypatch.setattr(report_module, "explain_examples", fail)
    path = recipe("mood", encoder, "text-classification", moods, train={"steps": 2})
    page = train_run(load_recipe(path), output=tmp_path / "run").report.read_text()
    assert '<p class="warning">The predictions could not be explained' in page
    assert {"Results", "Cost"} <= set(titles(page))
    assert "no such gradient" in caplog.text


@pytest.mark.parametrize(
    "bounds", [None, AttributionBudget(tokens=3), AttributionBudget(seconds=0.0)]
)
def test_explanations_keep_to_their_budget(bounds, recipe, encoder, moods, tmp_path):
    path = recipe("mood", encoder, "text-classification", moods, train={"steps": 2})
    options = ReportOptions(explanations=bounds)
    result = train_run(load_recipe(path), output=tmp_path / "run", report=options)
    page = result.report.read_text()
    assert ("Explanations" in titles(page)) == (bounds is not None)
    assert ("Not explained: no validation example has a prediction" in page) == (bounds is not None)


def test_generated_answers_are_explained_where_predicted_best_and_worst(
    recipe, decoder, talks, tmp_path
):
    path = recipe("talk", decoder, "dialogue", talks, train={"batch_size": 8, "epochs": 4})
    result = train_run(load_recipe(path), output=tmp_path / "run")
    page = result.report.read_text()
    worst, best = json.loads((tmp_path / "run/report.json").read_text())["explanations"]
    assert [worst["why"], best["why"]] == ["highest loss", "lowest loss"]
    assert best["value"] > worst["value"]
    assert {best["method"], worst["method"]} == {"ablation"}
    assert best["gap"] is None
    assert "Leave-one-out" in page
    assert f"Explained: {best['answer']}" in page
    assert "nan" not in page


def test_without_captum_the_report_is_written_anyway(
    recipe, encoder, moods, tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    path = recipe("mood", encoder, "text-classification", moods, train={"steps": 2})
    result = train_run(load_recipe(path), output=tmp_path / "run")
    assert "Explanations" not in titles(result.report.read_text())
    assert "pip install 'adapterhub[report]'" in caplog.text


def test_a_failed_report_leaves_the_adapter(recipe, encoder, moods, tmp_path, monkeypatch, caplog):
    def fail(*_given):
        raise ValueError("no such figure")

    monkeypatch.setattr(report_module, "_write_report", fail)
    path = recipe("mood", encoder, "text-classification", moods)
    result = train_run(load_recipe(path), output=tmp_path / "run", report=ReportOptions())
    assert result.report is None
    assert (result.artifact / "adapter_model.safetensors").is_file()
    assert "no such figure" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_failed_bias_audit_leaves_the_other_sections(
    recipe, encoder, moods, tmp_path, monkeypatch, caplog
):
    def fail(*_given, **_options):
        raise ValueError("no such probe")

    monkeypatch.setattr(bias_audit_section, "run_bias_audit", fail)
    path = recipe("mood", encoder, "text-classification", moods, train={"steps": 2})
    result = train_run(load_recipe(path), output=tmp_path / "run")
    page = result.report.read_text()
    assert {"Results", "Curves", "Bias audit", "Cost"} <= set(titles(page))
    assert "The bias audit failed" in page
    assert json.loads(result.report.with_suffix(".json").read_text())["bias_audit"] == "failed"
    assert "no such probe" in caplog.text


def test_audit_seconds_0_leaves_out_the_bias_audit(command, recipe, encoder, moods, tmp_path):
    path = recipe("mood", encoder, "text-classification", moods, train={"steps": 2})
    command("train", str(path), "--audit-seconds", "0", "--output", str(tmp_path / "run"))
    assert "Bias audit" not in titles((tmp_path / "run/report.html").read_text())
    assert json.loads((tmp_path / "run/report.json").read_text())["bias_audit"] is None


class Tracker:
    """Replaces codecarbon's tracker, which is not installed with the tests."""

    made: ClassVar[list] = []
    final_emissions_data = SimpleNamespace(
        energy_consumed=0.0123, cpu_energy=0.008, gpu_energy=0.0, ram_energy=0.0043
    )

    def __init__(self, **settings):
        self.settings = settings
        self.calls = []
        self.made.append(self)

    def start(self):
        self.calls.append("start")

    def stop(self):
        self.calls.append("stop")


@pytest.fixture
def codecarbon(monkeypatch):
    monkeypatch.setattr(Tracker, "made", [])
    module = SimpleNamespace(OfflineEmissionsTracker=Tracker)
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"version of {name}")
    return Tracker


def test_the_report_shows_the_energy_that_codecarbon_estimates(codecarbon):
    with EnergyMeter() as meter:
        assert meter.energy is None
    (tracker,) = codecarbon.made
    assert tracker.calls == ["start", "stop"]
    assert meter.energy.kwh == 0.0123
    # nothing is written or sent
    settings = tracker.settings
    assert not any(value for name, value in settings.items() if name.startswith("save_to"))
    assert settings["output_methods"] == settings["output_handlers"] == []
    assert settings["emissions_endpoint"] is settings["electricitymaps_api_token"] is None
    shown = render_page("x", "y", [cost_section(replace(NO_COST, energy=meter.energy))])
    assert "12.30 Wh" in shown
    assert "version of codecarbon" in shown


def test_a_run_continues_where_the_energy_cannot_be_estimated(codecarbon, monkeypatch, caplog):
    def fail(_self):
        raise OSError("no such file")

    monkeypatch.setattr(Tracker, "start", fail)
    with EnergyMeter() as meter:
        pass
    assert meter.energy is None
    assert "no such file" in caplog.text

    def stop(_self):
        raise ZeroDivisionError("no time has passed")

    monkeypatch.setattr(Tracker, "start", lambda _self: None)
    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "stop", stop)
        with EnergyMeter() as meter:
            pass
    assert meter.energy is None
    assert "no time has passed" in caplog.text
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with EnergyMeter() as meter:
        pass
    assert meter.energy is None
    shown = render_page("x", "y", [cost_section(NO_COST)])
    assert "pip install &#39;adapterhub[energy]&#39;" in shown


def test_a_setting_that_codecarbon_does_not_know_is_an_error(codecarbon, monkeypatch):
    monkeypatch.setattr(Tracker, "__init__", lambda self, country_iso_code: None)
    with pytest.raises(TypeError, match="measure_power_secs"), EnergyMeter():
        pass


def test_a_disabled_meter_measures_nothing(codecarbon):
    with EnergyMeter(enabled=False) as meter:
        pass
    assert meter.energy is None
    assert codecarbon.made == []
