"""Loops that numba compiles; NumPy arrays in, everything checked by who calls them.

bfloat16 comes as ``uint16``. Argument types are told by the callers' docstrings.
"""

import os
import sys

# numba takes a thread for each core whatever torch was told, and they wait for one another by
# spinning: on a core that another process has, each loop then takes milliseconds more
if "numba" not in sys.modules and os.environ.get("OMP_NUM_THREADS", "").isdigit():
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
