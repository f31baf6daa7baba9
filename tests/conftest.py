"""Triton's programs run on the GPU where there is one, else under Triton's interpreter.

The interpreter must be asked for before anything imports triton, and transformers does.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
