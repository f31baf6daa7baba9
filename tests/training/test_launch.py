"""Several processes train one adapter as one process does with larger batches."""

import json
import os
import subprocess
import sys

import torch

from adapterhub.adapters.artifact import read_artifact
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train

#: One step whose result depends on the examples alone, not on their batches.
EXACT = [
    "backbone.quantization=none",
    "backbone.compute_dtype=float32",
    "data.limit_train=16",
    "optimizer.name=sgd",
    "optimizer.momentum=0.0",
    "schedule.name=constant",
    "schedule.warmup=0.0",
    "train.epochs=null",
    "train.steps=1",
]


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    # accelerate launch starts several processes on GPUs, or on CPUs through MPI; torchrun
    # starts the same processes with what comes with torch
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "adapterhub", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False
    )


def test_two_processes_make_the_same_step_as_one(recipe, decoder, moods, tmp_path):
    path = recipe("mood", decoder, "text-classification", moods)
    alone = train(load_recipe(path, [*EXACT, "train.batch_size=16"]), output=tmp_path / "alone")
    done = launch("train", str(path), *EXACT, "train.batch_size=8", "--output", "both")
    assert done.returncode == 0, done.stderr[-2000:]
    first = read_artifact(alone.artifact).weights.tensors
    second = read_artifact(tmp_path / "both/artifact").weights.tensors
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)


def test_two_processes_store_one_version_and_print_once(recipe, encoder, moods, command, tmp_path):
    path = recipe("mood", encoder, "text-classification", moods)
    done = launch("train", str(path), "train.batch_size=8", "--json", "--output", "both")
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout)
    assert document["ref"] == "mood@1"
    assert document["metrics"]["after"]["accuracy"] > 0.9
    assert done.stderr.count("evaluation at step 0") == 1
    versions = json.loads(command("list", "--json").stdout)
    assert [version["digest"] for version in versions] == [document["digest"]]
