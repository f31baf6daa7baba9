"""Download the wheels that a bare GPU image lacks, and check that nothing else is missing.

    python benchmarks/gpu/prepare.py

Run it where a package index can be reached. The wheels go to ``benchmarks/gpu/wheels``, which
git ignores; carry that folder to the GPU machine with the working tree.
"""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WHEELS = HERE / "wheels"
#: Packages that travel. ``check_closure`` fails when one is missing.
CARRIED = (
    "annotated-types",
    "bitsandbytes",
    "datasets",
    "defusedxml",
    "dill",
    "gguf",
    "llguidance",
    "multiprocess",
    "nltk",
    "peft",
    "platformdirs",
    "pydantic",
    "pydantic-core",
    "rouge-score",
    "seqeval",
    "typing-inspection",
)
#: Published as source only; they hold no compiled code, so a wheel built anywhere fits.
BUILT_HERE = frozenset({"rouge-score", "seqeval"})
#: Largest size of wheels and working tree together, in bytes.
MAX_BYTES = 60_000_000


def main() -> None:
    """Download, check, and print the size of what travels."""
    image = read_image()
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir()
    download(CARRIED, image, WHEELS)
    check_closure(image, WHEELS)
    wheels = sum(file.stat().st_size for file in WHEELS.iterdir())
    total = wheels + tree_bytes()
    print(f"{len(list(WHEELS.iterdir()))} wheels, {wheels / 1e6:.1f} MB")
    print(f"{total / 1e6:.1f} MB with the working tree (limit {MAX_BYTES / 1e6:.0f} MB)")
    if total > MAX_BYTES:
        raise SystemExit("wheels and working tree are too large to travel")


def read_image() -> dict[str, Any]:
    """Return the description of the GPU image."""
    return tomllib.loads((HERE / "image.toml").read_text(encoding="utf-8"))


def pinned(names: tuple[str, ...]) -> list[str]:
    """Return requirements at the versions that the project is tested with.

    Raises:
        SystemExit: When a package is not in ``constraints.txt``.
    """
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, equals, version = line.split(";")[0].strip().partition("==")
        if equals:
            pins[canonicalize_name(name)] = version
    missing = [name for name in names if name not in pins]
    if missing:
        raise SystemExit(f"not in constraints.txt: {', '.join(missing)}")
    return [f"{name}=={pins[name]}" for name in names]


def download(names: tuple[str, ...], image: dict[str, Any], folder: Path) -> None:
    """Download wheels for the image's Python and platform into a folder."""
    tags = ["--python-version", image["python"], "--implementation", "cp"]
    tags += ["--abi", f"cp{image['python'].replace('.', '')}", "--abi", "abi3", "--abi", "none"]
    for platform in image["platforms"]:
        tags += ["--platform", platform]
    ready = tuple(name for name in names if name not in BUILT_HERE)
    built = tuple(name for name in names if name in BUILT_HERE)
    pip("download", "--only-binary=:all:", *tags, "-d", str(folder), *pinned(ready))
    if built:
        pip("wheel", "-w", str(folder), *pinned(built))


def pip(command: str, *arguments: str) -> None:
    """Run pip without resolving dependencies.

    Raises:
        SystemExit: With pip's own message.
    """
    call = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def check_closure(image: dict[str, Any], folder: Path) -> None:
    """Require that every dependency is in the image or among the wheels.

    Raises:
        SystemExit: With the packages that are missing, and who needs them.
    """
    there = {canonicalize_name(name) for name in (*image["versions"], *image["present"]["names"])}
    needed: dict[str, str] = {}
    for wheel in sorted(folder.glob("*.whl")):
        there.add(canonicalize_name(wheel.name.split("-")[0]))
        needed |= {name: wheel.name for name in requirements(wheel, image)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in project["dependencies"]:
        needed[canonicalize_name(Requirement(line).name)] = "adapterhub"
    missing = {name: by for name, by in needed.items() if name not in there}
    if missing:
        lines = (f"{name} (needed by {by})" for name, by in sorted(missing.items()))
        raise SystemExit("neither in the image nor carried: " + ", ".join(lines))


def requirements(wheel: Path, image: dict[str, Any]) -> list[str]:
    """Return the names of what a wheel needs on the image, without extras."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(metadata))
    environment = {"python_version": image["python"], "sys_platform": "linux", "extra": ""}
    found = [Requirement(line) for line in message.get_all("Requires-Dist") or ()]
    return [
        canonicalize_name(each.name)
        for each in found
        if each.marker is None or each.marker.evaluate(environment)
    ]


def tree_bytes() -> int:
    """Return the size of the files that git tracks or would track, in bytes."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
