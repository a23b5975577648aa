"""How kernels are compiled: decorators."""

from functools import partial
from types import FunctionType
from typing import Any

from numba import njit

kernel: Any = partial(njit, cache=True, nogil=True)
"""For what Python calls."""

_LOOKED_FOR = ("comprehension", "fusion", "inplace_binop", "numpy", "reduction", "setitem", "stencil")
"""Where Numba would find loops to share out by itself, which takes a while."""

parallel_kernel: Any = partial(kernel, parallel={"prange": True} | dict.fromkeys(_LOOKED_FOR, False))
"""For what Python calls, and shares out the loops that say `prange`."""


def shared_out(serial: Any, **settings: Any) -> Any:
    """A kernel like `serial`, whose loops that say `prange` are shared out: for arrays that are worth it.

    Both are compiled when they are first called: most runs need but one.
    """
    plain: FunctionType = serial.py_func
    name = f"{plain.__name__}_shared"
    copied = FunctionType(plain.__code__, plain.__globals__, name, plain.__defaults__, plain.__closure__)
    copied.__qualname__, copied.__module__, copied.__doc__ = name, plain.__module__, plain.__doc__  # for the cache
    return parallel_kernel(copied, **settings)


subroutine: Any = partial(njit, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For what kernels alone call: what Python would call it by takes as long to compile as itself."""
