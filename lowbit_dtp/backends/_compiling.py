"""How kernels are compiled: decorators."""

from functools import partial
from typing import Any

from numba import njit

kernel: Any = partial(njit, cache=True, nogil=True)
"""For what Python calls."""

_LOOKED_FOR = ("comprehension", "fusion", "inplace_binop", "numpy", "reduction", "setitem", "stencil")
"""Where Numba would find loops to share out by itself, which takes a while."""

parallel_kernel: Any = partial(kernel, parallel={"prange": True} | dict.fromkeys(_LOOKED_FOR, False))
"""For what Python calls, and shares out the loops that say `prange`."""

subroutine: Any = partial(njit, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For what kernels alone call: what Python would call it by takes as long to compile as itself."""
