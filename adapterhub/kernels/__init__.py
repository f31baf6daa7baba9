"""Numerical kernels: LoRA products, quantized linear layers and attention.

Each operation has a ``reference`` implementation in plain torch and, where that is worth it, a
``cpu`` (numba, oneDNN) and a ``triton`` one.
"""

import os
import sys

# numba starts one thread per core whatever torch is limited to, and its threads spin while they
# wait: on a core shared with another process every loop then takes milliseconds longer. The
# variable is read when numba is imported.
if "numba" not in sys.modules and os.environ.get("OMP_NUM_THREADS", "").isdigit():
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
