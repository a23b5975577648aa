"""AVX2 and no more, on a processor that has more: the environment of a process that shall not use it.

`python -m tests.avx2 command ...` runs a command so; where that would change nothing, it says so and runs nothing.
"""

import os
import sys

from llvmlite import binding
from numpy._core._multiarray_umath import __cpu_dispatch__

NUMBA = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt"}
"""For Numba. The name alone is not enough: Numba would add the features of the machine it runs on."""

LIBRARIES = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels, and what torch.compile generates
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's and SciPy's products
    # NumPy's loops; what a version of it does not know, it would warn of
    "NPY_DISABLE_CPU_FEATURES": " ".join(x for x in __cpu_dispatch__ if x.startswith(("AVX512", "X86_V4"))),
}


def environment() -> dict[str, str] | None:
    """Variables that make a child process use AVX2 and no more; None if it would not use more anyway, or lacks AVX2."""
    has = binding.get_host_cpu_features()
    return NUMBA | LIBRARIES if has.get("avx512f") and has.get("avx2") else None


if __name__ == "__main__":
    limits = environment()
    if limits is None:
        print("this processor has no more than AVX2: nothing to do again")
    else:
        os.execvpe(sys.argv[1], sys.argv[1:], os.environ | limits)
