"""A command that trains nothing starts without torch's compiler, and what it lacks still works."""

from __future__ import annotations

import os
import subprocess
import sys


def _run(script: str, **environment: str) -> str:
    own = {k: v for k, v in os.environ.items() if k not in ("TORCHDYNAMO_DISABLE", "WORLD_SIZE")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, env=own | environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_heavy_modules_are_left_out_and_answer_when_they_are_used() -> None:
    _run(
        """
import gc, sys
from adapterhub.cli.lean_start import lean_start

with lean_start():
    assert not gc.isenabled()
    import adapterhub.workflows.model
    import torch, transformers.masking_utils
assert gc.isenabled() and gc.get_freeze_count() > 100_000
heavy = ("torch._dynamo.utils", "torch.distributed.tensor", "scipy.optimize._optimize")
assert not [name for name in heavy if name in sys.modules]
assert torch.distributed.is_available()

# what transformers holds already
losses = __import__("transformers.loss.loss_for_object_detection", fromlist=["x"])
rows, columns = losses.linear_sum_assignment([[1.0, 0.0], [0.0, 1.0]])
assert columns.tolist() == [1, 0]
# a submodule first, which the real package imports itself
from scipy.optimize._minimize import minimize
import scipy.optimize
assert scipy.optimize.minimize is minimize
assert scipy.optimize._minimize is sys.modules["scipy.optimize._minimize"]

with transformers.masking_utils.TransformGetItemToIndex():
    pass
import torch._dynamo.config
assert torch._dynamo.utils is sys.modules["torch._dynamo.utils"]
assert torch.compile(lambda x: x + 1)(torch.ones(1)).item() == 2
import torch._dynamo._trace_wrapped_higher_order_op as trace
assert trace.trace_wrapped
"""
    )


def test_a_user_who_turns_the_compiler_on_keeps_it() -> None:
    printed = _run(
        """
from adapterhub.cli.lean_start import lean_start

with lean_start():
    import torch, torch._dynamo
print(torch.compile.__module__, torch._dynamo.__spec__ is not None)
""",
        TORCHDYNAMO_DISABLE="0",
    )
    assert printed.split() == ["torch", "True"]
