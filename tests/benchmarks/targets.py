"""The processor as it is, and as an AVX2 machine: environments, and what each library then says that it uses.

    .venv/bin/python tests/benchmarks/targets.py

prints what the libraries say in the environment it is run in.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
from tests import avx2

NATIVE, AVX2 = "native", "avx2"
_LIMITS = avx2.NUMBA | avx2.LIBRARIES
_SILENT = "does not say"


def there() -> list[str]:
    """The targets that this processor can be measured as, which without AVX-512 is one."""
    return [NATIVE] if avx2.environment() is None else [NATIVE, AVX2]


def environment(target: str) -> dict[str, str]:
    """This process' environment for `target`: without any limit, and with those of `avx2.environment` for AVX2."""
    plain = {name: x for name, x in os.environ.items() if name not in {*_LIMITS, "OPENBLAS_L2_SIZE"}}
    return plain | _LIMITS if target == AVX2 else plain


def enter(target: str) -> None:
    """Start this program again in the environment of `target`, unless it is in it: libraries read theirs early."""
    if (wanted := environment(target)) != dict(os.environ):
        print(f"started again in the environment of {target}", file=sys.stderr, flush=True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def has_avx512() -> bool:
    """Whether Numba compiles for AVX-512, which it does on a processor that has it unless told otherwise."""
    from numba.core.registry import cpu_target

    return "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]


def found() -> dict[str, str]:
    """What each library says that it uses, asked in a process of its own: some say it only as they begin."""
    verbose = os.environ | {"MKL_VERBOSE": "1", "ONEDNN_VERBOSE": "1"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve())]
    printed = subprocess.run(command, env=verbose, capture_output=True, text=True, check=True).stdout
    says: dict[str, str] = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    for name, line in {  # MKL names instructions on processors of Intel alone
        "MKL: torch float32": r"^MKL_VERBOSE .*64 architecture (.*AVX.*) processors",
        "oneDNN: torch int8 dynamic": "^onednn_verbose.*,cpu,isa:(.*)$",
    }.items():
        match = re.search(line, printed, re.MULTILINE)
        says[name] = match[1] if match else _SILENT
    if find_spec("onnxruntime"):
        says["MLAS: onnxruntime int8"] = _SILENT
    return says


def unlimited(says: Mapping[str, str]) -> list[str]:
    """Those of `found` that may use more than AVX2: they say so, or, as onnxruntime, cannot be told not to."""
    wider = re.compile(r"512|x86_v4|skylakex|cooperlake|sapphire|icelake|zen[45]|znver[45]", re.IGNORECASE)
    return [name for name, what in says.items() if name.startswith("MLAS") or wider.search(what)]


def peers(libraries: Collection[str]) -> set[str]:
    """Names of the peers that multiply by one of `libraries`, which `found` names as `library: peer`."""
    return {name.partition(": ")[2] for name in libraries}


# --- what they say ----------------------------------------------------------------------------------------------------


def _numba() -> str:
    from numba.core.registry import cpu_target

    from lowbit_dtp.backends import packed

    return f"{cpu_target.target_context.codegen().magic_tuple()[1]}; {packed.describe()}"


def _numpy_loops() -> str:
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name]) or "its baseline"


def _openblas() -> str:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    of_numpy = (x["architecture"] for x in threadpool_info() if "numpy" in x["filepath"] and "architecture" in x)
    return next(of_numpy, _SILENT)


def _torch() -> str:
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _torch_compile() -> str:
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    return f"{pick_vec_isa()}; -march={config.cpp.march or 'native'}"


def _fbgemm() -> str:
    """By its C++ name, since torch has none for it."""
    import torch

    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    ask = getattr(ctypes.CDLL(str(path)), "_ZN6fbgemm20fbgemmInstructionSetEv", None) if path.exists() else None
    known = ("anyarch", "avx2", "avx512", "avx512, 256 bits", "avx512 VNNI", "avx512 VNNI, 256 bits")
    return known[ask()] if ask else _SILENT


def _begin() -> None:
    """Have torch multiply by MKL and by oneDNN, which then say what they use."""
    import torch

    a = torch.ones(8, 8)
    torch.mm(a, a)
    if "onednn" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "onednn"
        weights = torch.ops.quantized.linear_prepack(torch.quantize_per_tensor(a, 0.1, 0, torch.qint8), None)
        torch.ops.quantized.linear_dynamic(a, weights, True)


def main() -> None:
    """Print what the libraries say, and have others say it."""
    print(
        json.dumps(
            {
                "Numba: lowbit-dtp": _numba(),
                "NumPy's loops: np.packbits": _numpy_loops(),
                "OpenBLAS: NumPy float32": _openblas(),
                "ATen: torch": _torch(),
                "Inductor: torch.compile": _torch_compile(),
                "FBGEMM: torch int8 dynamic": _fbgemm(),
            }
        ),
        flush=True,
    )
    _begin()


if __name__ == "__main__":
    main()
