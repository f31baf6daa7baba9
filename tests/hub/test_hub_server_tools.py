"""Unmodified tools in processes of their own, with ``HF_ENDPOINT`` set to the endpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server_helpers import SETTINGS, digest, write_files

TESTS = Path(__file__).parent.parent
HF = Path(sys.executable).with_name("hf")
LARGE = os.urandom(SETTINGS.max_inline * 3 + 5)
PUSH_LARGE = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo(sys.argv[1], exist_ok=True)
api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])
"""


@pytest.fixture
def run(hub_endpoint, tmp_path):
    """Return a function that runs a program and returns what it printed."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    environment = {
        **kept,
        "HF_ENDPOINT": hub_endpoint.url,
        "HF_TOKEN": hub_endpoint.writer,
        "HF_HOME": str(tmp_path / "hf_home"),
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS / 'hub'}",
    }

    def start(*command, check=True, **changes):
        done = subprocess.run(
            [str(part) for part in command],
            env={**environment, **changes},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return start


def test_peft_and_transformers(hub_endpoint, run):
    run(sys.executable, TESTS / "hub" / "hub_server_peft.py", "team/tiny")
    files = hub_endpoint.api.list_repo_files("team/tiny")
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(files)
    assert hub_endpoint.api.model_info("team/tiny").tags


def test_the_command_line(hub_endpoint, run, tmp_path):
    folder = write_files(tmp_path / "up", {"a.txt": b"a", "sub/b.txt": b"b"})
    assert "tester" in run(HF, "auth", "whoami").stdout
    run(HF, "repos", "create", "team/tools", "--private")
    run(HF, "upload", "team/tools", folder, ".", "--commit-message", "from the command line")
    assert hub_endpoint.api.list_repo_files("team/tools") == ["a.txt", "sub/b.txt"]
    run(HF, "repos", "tag", "create", "team/tools", "v1")
    run(HF, "download", "team/tools", "--revision", "v1", "--local-dir", tmp_path / "down")
    assert (tmp_path / "down" / "sub" / "b.txt").read_bytes() == b"b"
    listed = run(HF, "models", "list", "--author", "team", "--format", "json").stdout
    assert "team/tools" in json.dumps(json.loads(listed))
    assert "team/tools" in run(HF, "models", "info", "team/tools").stdout
    run(HF, "repos", "delete", "team/tools", "--yes")
    assert not hub_endpoint.api.repo_exists("team/tools")


def test_large_files_go_by_git_lfs(hub_endpoint, run, tmp_path):
    folder = write_files(tmp_path / "up", {"large.dat": LARGE, "small.txt": b"small"})
    push = (sys.executable, "-c", PUSH_LARGE, "team/large", folder)
    run(*push, HF_HUB_DISABLE_XET="1")
    api = hub_endpoint.api
    info = api.model_info("team/large", files_metadata=True)
    large = {each.rfilename: each.lfs for each in info.siblings}
    assert large["small.txt"] is None
    assert (large["large.dat"].sha256, large["large.dat"].size) == (digest(LARGE), len(LARGE))
    head = hub_endpoint.request("HEAD", "/team/large/resolve/main/large.dat")
    assert head.headers["ETag"] == f'"{digest(LARGE)}"'
    assert hub_endpoint.request("GET", "/team/large/resolve/main/large.dat").content == LARGE
    # nothing is sent or committed the second time
    run(*push, HF_HUB_DISABLE_XET="1")
    assert api.model_info("team/large").sha == info.sha


def test_xet_is_refused_and_leaves_nothing(run, tmp_path, hub_endpoint):
    pytest.importorskip("hf_xet")
    folder = write_files(tmp_path / "up", {"large.dat": LARGE})
    done = run(sys.executable, "-c", PUSH_LARGE, "team/large", folder, check=False)
    assert done.returncode != 0
    assert "xet-write-token" in done.stderr
    answer = hub_endpoint.request("GET", "/api/models/team/large/xet-write-token/main")
    assert "HF_HUB_DISABLE_XET=1" in answer.headers["X-Error-Message"]
    assert hub_endpoint.api.list_repo_files("team/large") == []
