"""Prove and measure the CUDA path: every stage in a process of its own, within its time limit.

    python3 benchmarks/gpu/run.py --out DIR                      on the GPU machine
    python3 benchmarks/gpu/run.py --out DIR --tiny --device cpu  the same script, rehearsed

Needs only the standard library to start: it installs the carried wheels into a temporary
folder first. ``DIR/gpu.json`` is rewritten after every stage, so a run that is cut off still
holds what was measured until then; ``DIR/run.log`` has what the stages printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Stage:
    """One part of the run.

    Args:
        name: Name of the stage; its script is ``stage_NAME.py``.
        limit: Longest duration, in seconds.
    """

    name: str
    limit: float


#: In the order of what would be missed most.
STAGES = (
    Stage("environment", 30),
    Stage("correctness", 140),
    Stage("decoding", 130),
    Stage("training", 100),
    Stage("kernels", 40),
)
#: Longest duration of the whole run, installation included, in seconds.
BUDGET = 460.0
#: Seconds that a stage gets to end by itself after its limit.
GRACE = 3.0


def main() -> None:
    """Run the stages; exit with 1 when one of them did not pass."""
    began = time.monotonic()
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        site = options.site or install_wheels(Path(scratch) / "site")
        report: dict[str, Any] = {
            "tiny": options.tiny,
            "device": options.device,
            "install_seconds": round(time.monotonic() - began, 1),
            "stages": {},
        }
        for stage in STAGES:
            if stage.name not in options.stages:
                continue
            remaining = options.budget - (time.monotonic() - began)
            report["stages"][stage.name] = run_stage(stage, options, site, remaining)
            report["seconds"] = round(time.monotonic() - began, 1)
            write(options.out / "gpu.json", report)
            print(summary(stage.name, report["stages"][stage.name]), flush=True)
    print(f"{report['seconds']} s in all; {options.out / 'gpu.json'}")
    if any(each["status"] != "passed" for each in report["stages"].values()):
        raise SystemExit(1)


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [stage.name for stage in STAGES]
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script")
    parser.add_argument("--stages", nargs="+", default=names, choices=names)
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for the whole run")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of all time limits")
    parser.add_argument("--site", type=Path, help="folder where the wheels are installed already")
    return parser.parse_args()


def install_wheels(site: Path) -> Path | None:
    """Install the carried wheels into a folder; ``None`` where there are none.

    Raises:
        SystemExit: With pip's message.
    """
    wheels = sorted(map(str, (HERE / "wheels").glob("*.whl")))
    if not wheels:
        return None
    call = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    call += ["--no-compile", "--no-cache-dir", "--target", str(site), *wheels]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return site


def run_stage(
    stage: Stage, options: argparse.Namespace, site: Path | None, remaining: float
) -> dict[str, Any]:
    """Run one stage and return its status, its duration in seconds and its records.

    A stage that outlasts its limit is killed with all of its processes; its records until
    then count.
    """
    limit = min(stage.limit * options.patience, remaining)
    if limit <= 1:
        return {"status": "skipped", "seconds": 0.0, "records": [], "error": "no time was left"}
    records = options.out / f".{stage.name}.jsonl"
    records.write_text("")
    call = [sys.executable, str(HERE / f"stage_{stage.name}.py"), "--records", str(records)]
    call += ["--device", options.device, "--seconds", str(limit)]
    call += ["--tiny"] if options.tiny else []
    began = time.monotonic()
    with (options.out / "run.log").open("a", encoding="utf-8") as log:
        log.write(f"== {stage.name}\n")
        log.flush()
        offset = log.tell()
        process = subprocess.Popen(
            call,
            cwd=ROOT,
            env=environment(site, options.device),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = wait(process, limit + GRACE)
    result: dict[str, Any] = {
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "records": [json.loads(line) for line in records.read_text().splitlines()],
    }
    records.unlink()
    if any(record.get("passed") is False for record in result["records"]) and status == "passed":
        result["status"] = "failed"
    if result["status"] != "passed":
        printed = (options.out / "run.log").read_bytes()[offset:].decode(errors="replace")
        result["error"] = printed[-3000:]
    return result


def environment(site: Path | None, device: str) -> dict[str, str]:
    """Return the environment variables of a stage."""
    # Triton's interpreter has to be chosen before anything imports triton
    interpreted = {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
    path = [str(site)] if site else []
    path += [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **interpreted,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def wait(process: subprocess.Popen[bytes], limit: float) -> str:
    """Return how a stage ended: ``passed``, ``failed`` or ``timed out``."""
    try:
        return "failed" if process.wait(limit) else "passed"
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        # helpers of the stage may still run
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def write(path: Path, report: dict[str, Any]) -> None:
    """Replace a file at once."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def summary(name: str, result: dict[str, Any]) -> str:
    """Return one line about a stage, and the end of its output where it did not pass."""
    line = f"{name}: {result['status']} in {result['seconds']} s, {len(result['records'])} records"
    failed = [r["name"] for r in result["records"] if r.get("passed") is False]
    if failed:
        line += "\n  failed: " + "\n  failed: ".join(failed[:20])
    if "error" in result:
        line += "\n" + result["error"][-1500:]
    return line


if __name__ == "__main__":
    main()
