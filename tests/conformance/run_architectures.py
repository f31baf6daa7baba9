"""Check architectures that transformers' auto classes list, and write docs/architectures.md.

    python tests/conformance/run_architectures.py                 # all that have no result yet
    python tests/conformance/run_architectures.py llama lfm2      # these only
    python tests/conformance/run_architectures.py --heads causal_lm
    python tests/conformance/run_architectures.py --write         # the table from the results

Results are kept in results.json beside this script, so a run can be interrupted and continued.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import queue
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "architectures.md"
HEADS = ("causal_lm", "seq2seq_lm", "sequence", "token", "span", "image")
#: Seconds until a check counts as a crash.
LIMIT = 240


def listed() -> list[tuple[str, str]]:
    """Return the architectures with each head that transformers' auto classes list."""
    from tiny_models import AUTO_CLASSES
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    types = {name: model_type for model_type, name in CONFIG_MAPPING_NAMES.items()}
    found = set()
    for head in HEADS:
        names = AUTO_CLASSES[head]._model_mapping._model_mapping
        found |= {(model_type, head) for model_type in names if model_type in types.values()}
    return sorted(found)


def _worker(cases: Any, outcomes: Any) -> None:
    import torch
    from architecture_suite import check_architecture

    torch.set_num_threads(1)
    while (case := cases.get()) is not None:
        folder = Path(tempfile.mkdtemp(prefix="architecture-"))
        with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
            try:
                outcome = asdict(check_architecture(folder, *case))
            except Exception as error:  # noqa: BLE001, the model could not be made
                outcome = _failed(case, "not made", f"{type(error).__name__}: {error}")
        outcomes.put(outcome)
        shutil.rmtree(folder, ignore_errors=True)


def _failed(case: tuple[str, str], status: str, detail: str) -> dict[str, Any]:
    model_type, head = case
    detail = " ".join(detail.split())[:300]
    empty = {"path": "", "difference": 0.0}
    return {"model_type": model_type, "head": head, "status": status, "detail": detail, **empty}


def run(cases: list[tuple[str, str]]) -> None:
    """Check cases one after another in a process that is replaced when one hangs or dies."""
    results = read_results()
    process: Any = None
    for number, case in enumerate(cases, start=1):
        if process is None:
            waiting: Any = multiprocessing.Queue()
            outcomes: Any = multiprocessing.Queue()
            process = multiprocessing.Process(target=_worker, args=(waiting, outcomes), daemon=True)
            process.start()
        waiting.put(case)
        outcome = _wait(process, outcomes)
        if outcome is None:
            died = "" if process.is_alive() else f" (exit code {process.exitcode})"
            outcome = _failed(case, "crash", f"no result in {LIMIT} seconds{died}")
            process.kill()
            process = None
        results[f"{case[0]} {case[1]}"] = outcome
        _report(number, len(cases), outcome)
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    if process is not None:
        waiting.put(None)


def _wait(process: Any, outcomes: Any) -> dict[str, Any] | None:
    for _ in range(LIMIT):
        try:
            found: dict[str, Any] = outcomes.get(timeout=1)
        except queue.Empty:
            if not process.is_alive():
                return None
        else:
            return found
    return None


def _report(number: int, count: int, outcome: dict[str, Any]) -> None:
    where = f"{outcome['model_type']} {outcome['head']}"
    detail = f"{outcome['path']} {outcome['detail']}"[:160]
    sys.stdout.write(f"{number}/{count} {where}: {outcome['status']} {detail}\n")
    sys.stdout.flush()


def read_results() -> dict[str, dict[str, Any]]:
    """Return the outcomes so far by architecture and head."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


# table -----------------------------------------------------------------------------------------

_NAMES = {
    "causal_lm": "text generation",
    "seq2seq_lm": "source to target",
    "sequence": "text classification",
    "token": "token classification",
    "span": "question answering",
    "image": "image classification",
}
_INTRODUCTION = """# Architectures

adapterhub runs what transformers loads. On the *padded path* transformers' own `forward` of the
task's own class computes, in training and in serving; on the *fast path* sequences are packed
without padding and the keys and values of generation are paged. The fast path is taken only where
it gave the same numbers as transformers on the loaded weights; see [Serving](serving.md).

`tests/conformance/run_architectures.py` wrote this page. It takes the configuration classes from
transformers' auto classes and makes a tiny random model of one. With a head of the architecture it
trains two LoRA adapters, stores them, loads them in plain peft, and compares what a mixed batch of
both (and the base model) gives with `PeftModel` on plain transformers, one sequence at a time in
float32. *Fast* and *padded* mean that all probabilities, and all tokens with their
log-probabilities, were equal within {bound}. Texts are compared with transformers' generation;
where that contradicts the forward pass of the whole sequence, with which adapters are trained, with
greedy tokens of the latter. For images there is one path. With a source and a
target, the losses of targets, the tokens of greedy generation and those of three beams are
compared. Where a cell is empty, the architecture has no such head, or nobody has run it.
"""


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the documentation page."""
    from differences import BOUND

    made = {key: each for key, each in results.items() if each["status"] != "not made"}
    types = sorted({each["model_type"] for each in made.values()})
    equal = sorted({e["model_type"] for e in made.values() if e["status"] == "equal"})
    lines = [_INTRODUCTION.format(bound=BOUND)]
    lines.append(
        f"{len(types)} architectures, of which {len(equal)} are served with one head or more:\n"
    )
    lines.append("| architecture | " + " | ".join(_NAMES[head] for head in HEADS) + " |")
    lines.append("|---|" + "---|" * len(HEADS))
    for model_type in types:
        cells = [_cell(made.get(f"{model_type} {head}")) for head in HEADS]
        lines.append(f"| `{model_type}` | " + " | ".join(cells) + " |")
    for title, status in (("Refused", "refused"), ("Not right yet", "wrong"), ("Failing", "crash")):
        lines += _section(title, [each for each in made.values() if each["status"] == status])
    slow = [
        each for each in made.values() if each["status"] == "equal" and each["path"] == "padded"
    ]
    lines += _section("Why the padded path", slow)
    noted = [
        each for each in made.values() if each["status"] == "equal" and each["path"] != "padded"
    ]
    lines += _section("Compared with one forward pass", [each for each in noted if each["detail"]])
    return "\n".join(lines) + "\n"


def _cell(outcome: dict[str, Any] | None) -> str:
    if outcome is None:
        return ""
    return outcome["path"] if outcome["status"] == "equal" else outcome["status"]


def _section(title: str, outcomes: list[dict[str, Any]]) -> list[str]:
    if not outcomes:
        return []
    reasons: dict[str, list[str]] = {}
    for each in outcomes:
        reason = " ".join(each["detail"].split()).replace("|", "\\|").replace("<", "&lt;")
        reasons.setdefault(reason or "(none)", []).append(
            f"`{each['model_type']}` ({_NAMES[each['head']]})"
        )
    rows = [f"| {', '.join(names)} | {reason} |" for reason, names in reasons.items()]
    return ["", f"## {title}", "", "| architecture | reason |", "|---|---|", *sorted(rows)]


def main() -> None:
    """Run what the arguments name, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_types", nargs="*")
    parser.add_argument("--heads", nargs="*", default=list(HEADS))
    parser.add_argument("--again", nargs="*", default=[], help="statuses to check again")
    parser.add_argument("--write", action="store_true", help="only write the page")
    options = parser.parse_args()
    if not options.write:
        known = read_results()
        cases = [
            (model_type, head)
            for model_type, head in listed()
            if head in options.heads
            and (not options.model_types or model_type in options.model_types)
            and (
                options.model_types
                or (old := known.get(f"{model_type} {head}")) is None
                or old["status"] in options.again
            )
        ]
        run(cases)
    PAGE.write_text(page(read_results()))


if __name__ == "__main__":
    main()
