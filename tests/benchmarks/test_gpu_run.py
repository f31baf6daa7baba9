"""The prepared GPU run works on a CPU, survives a stage that hangs, and its result can be read."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu"


def run(out, *options):
    call = [sys.executable, str(GPU / "run.py"), "--out", str(out), "--device", "cpu", "--tiny"]
    call += ["--site", str(out), "--budget", "900", "--patience", "5", *options]
    # the correctness stage runs pytest itself, whichever pytest runs this
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment = inherited | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
    return done, json.loads((out / "gpu.json").read_text())


@pytest.mark.timeout(900)
def test_every_stage_passes_on_tiny_shapes(tmp_path, capsys, monkeypatch):
    done, result = run(tmp_path)
    assert done.returncode == 0, done.stdout
    assert list(result["stages"]) == [
        "environment",
        "correctness",
        "decoding",
        "training",
        "kernels",
    ]
    for name, stage in result["stages"].items():
        assert stage["status"] == "passed", name
        assert stage["records"], name
    monkeypatch.setattr(sys, "argv", ["read.py", str(tmp_path / "gpu.json")])
    runpy.run_path(str(GPU / "read.py"), run_name="__main__")
    text = capsys.readouterr().out
    for expected in ("tokens/s", "cold adapter to first token", "NF4 QLoRA", "4-bit product"):
        assert expected in text


def test_a_stage_that_hangs_is_killed_and_keeps_its_records(tmp_path, monkeypatch):
    module = runpy.run_path(str(GPU / "run.py"))
    script = tmp_path / "stage_slow.py"
    script.write_text(
        "import sys, time\n"
        "path = sys.argv[sys.argv.index('--records') + 1]\n"
        "open(path, 'a').write('{\"name\": \"first\"}\\n')\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)\n"
    )

    class Options:
        out, device, tiny, patience = tmp_path, "cpu", True, 1.0

    run_stage = module["run_stage"]
    monkeypatch.setitem(run_stage.__globals__, "HERE", tmp_path)
    began = time.monotonic()
    result = run_stage(module["Stage"]("slow", 2.0), Options, None, 60.0)
    assert time.monotonic() - began < 60
    assert result["status"] == "timed out"
    assert result["records"] == [{"name": "first"}]
    assert "begun" in result["error"]


def test_a_record_that_did_not_pass_fails_its_stage(tmp_path, monkeypatch):
    module = runpy.run_path(str(GPU / "run.py"))
    (tmp_path / "stage_wrong.py").write_text(
        "import sys\n"
        "path = sys.argv[sys.argv.index('--records') + 1]\n"
        'open(path, \'a\').write(\'{"name": "parity", "passed": false}\\n\')\n'
    )

    class Options:
        out, device, tiny, patience = tmp_path, "cpu", True, 1.0

    run_stage = module["run_stage"]
    monkeypatch.setitem(run_stage.__globals__, "HERE", tmp_path)
    assert run_stage(module["Stage"]("wrong", 30.0), Options, None, 60.0)["status"] == "failed"


def test_without_time_left_a_stage_is_skipped(tmp_path):
    module = runpy.run_path(str(GPU / "run.py"))

    class Options:
        out, device, tiny, patience = tmp_path, "cpu", True, 1.0

    assert module["run_stage"](module["Stage"]("any", 30.0), Options, None, 0.5)["status"] == (
        "skipped"
    )


def test_thresholds_are_proposed_from_the_data():
    module = runpy.run_path(str(GPU / "read.py"))
    records = [
        {
            "path": path,
            "tokens": tokens,
            "microseconds": {"dense": 1.0, "bitsandbytes": 10.0, "triton": triton},
        }
        for path, tokens, triton in (
            ("q_proj", 8, 5.0),
            ("q_proj", 16, 9.0),
            ("q_proj", 32, 12.0),
            ("up_proj", 8, 5.0),
            ("up_proj", 16, 11.0),
        )
    ]
    lines = "\n".join(module["four_bit"](records))
    assert "q_proj 16, up_proj 8" in lines
    assert "`MAX_TOKENS = 8`" in lines
