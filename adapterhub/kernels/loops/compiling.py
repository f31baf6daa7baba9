"""How all loops here are compiled."""

from functools import partial

from numba import njit

#: Sums in any order, so that they vectorise; NaN and infinity stay what they are.
_FAST = {"reassoc", "contract", "nsz", "arcp"}

#: Python's division asks for a zero each time, which does not vectorise; NumPy's does not.
compiled = partial(njit, fastmath=_FAST, nogil=True, cache=True, error_model="numpy")
inlined = partial(njit, fastmath=_FAST, inline="always", error_model="numpy")
