"""``refresh.json`` survives a round trip, and is refused where it is malformed."""

import json
import math
from dataclasses import replace

import pytest

from adapterhub.errors import ArtifactError
from adapterhub.evaluation.bootstrap import Interval
from adapterhub.evaluation.drift import Drift, DriftTest
from adapterhub.evaluation.paired_tests import Difference
from adapterhub.workflows.refresh.document import (
    AddedFile,
    RefreshDocument,
    read_document,
    request_digest,
)
from adapterhub.workflows.refresh.findings import (
    MetricChange,
    RefreshOutcome,
    findings_document,
    read_findings,
)

SPREAD = Interval(low=0.1, high=0.3, level=0.95)
DRIFT = Drift((DriftTest("text", "maximum mean discrepancy", 0.7, 0.001, 500, 80),), 0.05)
CHANGE = MetricChange(
    metric="accuracy",
    greater_is_better=True,
    recorded=None,
    split="test",
    old=0.9,
    old_interval=SPREAD,
    new=0.7,
    new_interval=SPREAD,
    change=Interval(low=-0.3, high=-0.1, level=0.95),
)
OUTCOME = RefreshOutcome(
    "test",
    (Difference("accuracy", 0.9, 0.89, SPREAD, 0.4, "permutation"),),
    (Difference("loss", 0.7, 0.5, SPREAD, 0.01, "bootstrap"),),
)
DOCUMENT = RefreshDocument(
    parent="sha256:a",
    root={"train": "sha256:b"},
    added=(AddedFile(path="new.jsonl", fingerprint="sha256:c", num_examples=80, fields={}),),
    replay=0.25,
    findings={**findings_document(DRIFT, CHANGE), **OUTCOME.document()},
    request="sha256:d",
)


def stored(folder, document):
    (folder / "refresh.json").write_bytes(document.to_bytes())
    return read_document(folder)


def test_findings_survive_a_round_trip(tmp_path):
    again = stored(tmp_path, DOCUMENT)
    assert again == DOCUMENT
    assert read_findings(again.findings) == (DRIFT, CHANGE, OUTCOME)


def test_a_number_that_json_cannot_hold_is_read_as_nan(tmp_path):
    endless = replace(OUTCOME.gain[0], metric="perplexity", second=math.inf)
    outcome = replace(OUTCOME, gain=(endless,))
    findings = {**findings_document(DRIFT, CHANGE), **outcome.document()}
    again = stored(tmp_path, replace(DOCUMENT, findings=findings))
    read = read_findings(again.findings)[2].gain[0]
    assert math.isnan(read.second)
    assert read.first == endless.first


def test_a_document_without_a_request_digest_is_read(tmp_path):
    content = json.loads(DOCUMENT.to_bytes())
    del content["request"]
    (tmp_path / "refresh.json").write_text(json.dumps(content))
    assert read_document(tmp_path) == replace(DOCUMENT, request="")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("drift", {"level": 0.05, "tests": {}, "found": True}, "findings.drift.tests: must be a"),
        ("split", 3, "findings.split: must be text"),
        ("gain", {"accuracy": {}}, "findings.gain.accuracy.first: is missing"),
    ],
)
def test_malformed_findings_are_named(key, value, said):
    with pytest.raises(ArtifactError) as caught:
        read_findings({**DOCUMENT.findings, key: value})
    assert said in str(caught.value)


def test_the_request_digest_depends_on_all_inputs_of_the_child():
    first = request_digest("a", "b", 0.25, ["train.epochs=2", "train.seed=1"])
    assert request_digest("a", "b", 0.25, ["train.seed=1", "train.epochs=2"]) == first
    others = [
        request_digest("x", "b", 0.25, ["train.epochs=2", "train.seed=1"]),
        request_digest("a", "x", 0.25, ["train.epochs=2", "train.seed=1"]),
        request_digest("a", "b", 0.5, ["train.epochs=2", "train.seed=1"]),
        request_digest("a", "b", 0.25, ["train.epochs=3", "train.seed=1"]),
    ]
    assert len({first, *others}) == 5


@pytest.mark.parametrize(
    ("low", "high", "num_new", "said"),
    [
        (-0.42, 0.0, 12, "12 new examples are too few to tell: a drop of 0.42 is possible"),
        (-0.42, 0.0, 300, "no drop found"),
        (0.0, 0.1, 12, "no drop found"),
        (-0.4, -0.1, 12, "a drop"),
    ],
)
def test_few_new_examples_are_not_called_free_of_a_drop(low, high, num_new, said):
    change = replace(CHANGE, change=Interval(low=low, high=high, level=0.95))
    assert change.verdict(num_new).startswith(said)
    assert change.too_few(num_new) == ("too few" in said)
    falling = replace(
        change, greater_is_better=False, change=Interval(low=-high, high=-low, level=0.95)
    )
    assert falling.verdict(num_new) == change.verdict(num_new)
