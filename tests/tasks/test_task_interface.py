"""A new task needs no change outside of its own code."""

import ast
from pathlib import Path

import numpy as np
import pytest

import adapterhub
from adapterhub.evaluation.attribution.examples import checked_answers
from adapterhub.evaluation.bias_audit.audit import is_auditable, task_audit
from adapterhub.evaluation.bootstrap import intervals
from adapterhub.evaluation.calibration import calibration
from adapterhub.evaluation.errors import worst_examples
from adapterhub.evaluation.example_statistics import scores_of
from adapterhub.tasks import table
from adapterhub.tasks.attribution import CheckedAnswer
from adapterhub.tasks.base import AuditSpec, Evaluation, Outcome, TaskOptions, UnsplitTask
from adapterhub.tasks.predictions import (
    Confidence,
    ErrorExample,
    ExampleStatistics,
    LabelChoices,
)
from adapterhub.tasks.table import TaskEntry, build_task, served_by

PACKAGE = Path(adapterhub.__file__).parent
#: Concrete tasks, whose classes nothing outside of their package may ask for.
TASK_CLASSES = {
    "AudioClassification",
    "ClassTask",
    "Dialogue",
    "GeneratingTask",
    "ImageClassification",
    "InstructionTask",
    "MultiLabelClassification",
    "QuestionAnswering",
    "Ranking",
    "RelationExtraction",
    "SingleLabelTask",
    "SourceAndTargetTask",
    "SpeechRecognition",
    "TextClassification",
    "TokenClassification",
    "UnsplitTask",
    "WhisperRecognition",
}


class ParityTask(UnsplitTask):
    """Predicts whether a number is odd: the raw prediction is the probability of odd."""

    name = "parity"
    pipeline_tag = "text-classification"
    peft_task_type = "SEQ_CLS"
    head = "sequence"
    labels = ("even", "odd")
    default_metric = ("hits", True)
    audit = AuditSpec("labels", "another parity")
    generation = None

    @property
    def attribution(self):
        return self

    def answers(self, place, example, decoded):
        right = (decoded >= 0.5) == example["number"] % 2
        yield CheckedAnswer(place, str(example["number"] % 2), right, max(decoded, 1 - decoded))

    def evaluate(self, examples, decoded):
        return Evaluation({"hits": float(np.mean(self.confidence(examples, decoded).correct))})

    def prediction(self, example, decoded):
        return {"odd": decoded}

    def summary(self, prediction):
        return f"odd with {prediction['odd']:.0%}"

    def outcome(self, decoded):
        return Outcome((int(decoded >= 0.5),))

    def confidence(self, examples, decoded):
        likely = np.array(decoded)
        gold = np.array([each["number"] % 2 for each in examples])
        return Confidence.of_choices("examples", np.stack((1 - likely, likely), axis=-1), gold)

    def errors(self, examples, decoded):
        pairs = zip(examples, decoded, strict=True)
        return [
            ErrorExample(str(each["number"]), self.labels[each["number"] % 2], "", value, "odds")
            for each, value in pairs
            if (value >= 0.5) != each["number"] % 2
        ]

    def label_choices(self, examples, decoded):
        found = self.confidence(examples, decoded)
        return LabelChoices("examples", self.labels, found.gold, found.probabilities.argmax(-1))

    def statistics(self, examples, decoded):
        values = self.confidence(examples, decoded).correct[:, None].astype(float)
        return ExampleStatistics(values, lambda sums: {"hits": sums[..., 0] / 4}, ("hits",))


EXAMPLES = [{"number": number} for number in (1, 2, 3, 4)]
DECODED = [0.9, 0.2, 0.3, 0.8]


def test_a_new_task_is_analysed_without_any_other_change():
    task = ParityTask()
    assert [each.text for each in worst_examples(task, EXAMPLES, DECODED)] == ["4", "3"]
    found = task.confidence(EXAMPLES, DECODED)
    assert calibration(found.predicted, found.correct).error == pytest.approx(0.35)
    assert task.label_choices(EXAMPLES, DECODED).confusion().tolist() == [[1, 1], [1, 1]]
    scores = scores_of(task, EXAMPLES, DECODED)
    assert scores.metrics(np.arange(4)[None, :])["hits"].tolist() == [0.5]
    assert intervals(scores, resamples=50)["hits"].high <= 1.0
    answers = checked_answers(task, EXAMPLES, DECODED)
    assert [each.right for each in answers] == [True, True, False, False]


def test_a_new_task_is_audited_by_what_it_names():
    task = ParityTask()
    assert is_auditable(task)
    audited = task_audit(task)
    assert "another parity" in audited.definition
    assert audited.compare({}, [0.9], {}, [0.1]).changed
    assert audited.answer_text({}, [0.9]) == "odd with 90%"


def test_a_new_task_is_built_and_served_by_its_table_entry(monkeypatch):
    entry = TaskEntry(
        build=lambda inputs: ParityTask(),
        alternatives=(("number",),),
        default_metric=("hits", True),
        route="classify",
    )
    monkeypatch.setattr(table, "TASKS", {**table.TASKS, "parity": entry})
    assert build_task("parity", None, "encoder", (), TaskOptions()).labels == ("even", "odd")
    assert served_by("parity", "classify")
    assert not served_by("parity", "rerank")


def modules():
    return [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "tasks"]


def test_no_other_package_asks_for_the_class_of_a_task():
    found = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and getattr(node.func, "id", "")
            if called in ("isinstance", "issubclass", "type"):
                names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                names |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
                if names & {*TASK_CLASSES, "task"}:
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == []


def test_no_other_package_imports_the_class_of_a_task():
    found = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and TASK_CLASSES & {a.name for a in node.names}:
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == []
