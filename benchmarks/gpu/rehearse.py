"""Rehearse the GPU run on a CPU, with the versions and the wheels of the GPU image.

    python benchmarks/gpu/rehearse.py [--fresh]

Makes a virtual environment of the versions in ``image.toml``, installs the carried wheels as
the GPU run does, and runs the same script with ``--tiny --device cpu``. torch of that version is
published for x86-64 Linux as a CUDA build only; it computes on the CPU too, and takes several
gigabytes. Where this Python is another than the image's, wheels of compiled packages are
downloaded for this one; the others are those that are carried.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prepare import CARRIED, WHEELS, pinned, pip, read_image

HERE = Path(__file__).parent
FOLDER = HERE / "rehearsal"


def main() -> None:
    """Prepare the environment where there is none, and run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="make the environment anew")
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(FOLDER, ignore_errors=True)
    image = read_image()
    began = time.monotonic()
    python = make_environment(image)
    site = install_carried(python, image)
    print(f"environment ready after {time.monotonic() - began:.0f} s", flush=True)
    began = time.monotonic()
    call = [str(python), str(HERE / "run.py"), "--out", str(FOLDER / "out"), "--tiny"]
    call += ["--device", "cpu", "--budget", "1200", "--patience", "4", "--site", str(site)]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    code = subprocess.run(call, env=environment).returncode
    report = json.loads((FOLDER / "out" / "gpu.json").read_text(encoding="utf-8"))
    for name, stage in report["stages"].items():
        print(f"{name}: {stage['status']}, {len(stage['records'])} records")
    print(f"rehearsed in {time.monotonic() - began:.0f} s")
    raise SystemExit(code)


def make_environment(image: dict[str, Any]) -> Path:
    """Return the Python of an environment that holds what the image holds."""
    folder = FOLDER / "venv"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pins = [f"{name}=={version}" for name, version in image["versions"].items()]
    call = [str(python), "-m", "pip", "install", "--quiet", *pins, *image["present"]["names"]]
    subprocess.run(call, check=True)
    ready.touch()
    return python


def install_carried(python: Path, image: dict[str, Any]) -> Path:
    """Return a folder with the carried packages, installed as on the GPU machine."""
    wheels = WHEELS
    local = f"{sys.version_info.major}.{sys.version_info.minor}"
    if local != image["python"]:
        print(f"this is Python {local}, the image has {image['python']}: fetching its own wheels")
        wheels = FOLDER / "wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        wheels.mkdir(parents=True)
        pip("wheel", "-w", str(wheels), *pinned(CARRIED))
    if not any(wheels.glob("*.whl")):
        raise SystemExit("There are no wheels: run benchmarks/gpu/prepare.py first")
    site = FOLDER / "site"
    shutil.rmtree(site, ignore_errors=True)
    call = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    call += ["--no-compile", "--no-cache-dir", "--target", str(site)]
    subprocess.run([*call, *map(str, sorted(wheels.glob("*.whl")))], check=True)
    return site


if __name__ == "__main__":
    main()
