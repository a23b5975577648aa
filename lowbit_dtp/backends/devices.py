"""Devices: NumPy arrays with compiled kernels, or torch tensors on a CPU or a GPU."""

import gc
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from . import Array

DEVICES = ("numpy", "cpu", "cuda", "auto")
"""Compiled kernels on NumPy arrays; torch on the CPU; torch on a GPU, `cuda:1` on the second; a GPU if there is one."""


class DeviceError(ValueError):
    """A device cannot be used; the message has the reason and an alternative."""


def usable(device: str) -> str:
    """`device` if it can be used, or the device that `auto` chooses. Raises DeviceError; ImportError without torch."""
    if device.split(":")[0] not in DEVICES:
        raise DeviceError(f"no device {device!r}; there are: {', '.join(DEVICES)}")
    if device == "numpy":
        return device
    try:
        import torch
    except ImportError:
        if device == "auto":
            return "numpy"
        raise ImportError(f"device {device} needs torch: pip install 'lowbit-dtp[torch]'") from None
    if device == "cpu":
        return device
    fault = _fault(torch, device)
    if device == "auto":
        return "numpy" if fault else "cuda"
    if fault:
        raise DeviceError(f"device {device} cannot be used: {fault}. Leave --device out to train on the CPU")
    return device


def prepare_kernels(threads: int | None = None, on_compile: Callable[[str], None] | None = None) -> None:
    """Use so many threads, if a number is given; call `on_compile` with each kernel that is about to be compiled.

    Without compiled kernels, and perhaps without Numba, there is nothing to prepare.
    """
    if os.environ.get("LOWBIT_DTP_KERNELS") == "plain":
        return
    from . import numba_cpu

    if on_compile is not None:
        numba_cpu.on_compile(on_compile)
    if threads is not None:
        numba_cpu.set_threads(threads)


def _fault(torch: Any, device: str) -> str:
    """The reason why a GPU cannot be used; empty if it can."""
    if torch.version.cuda is None:
        return f"this torch, {torch.__version__}, is built without CUDA (see https://pytorch.org for one that is not)"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        reason = str(told[0].message).split("\n")[0] if told else "no GPU is visible to it"
        return f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, finds none ({reason})"
    number = device.partition(":")[2] or "0"
    return "" if number.isdigit() and int(number) < count else f"there are {count} GPUs, counted from 0"


def mover(device: str) -> Callable[[Array], Array]:
    """A function that copies NumPy arrays to a `usable` device."""
    if device == "numpy":
        return lambda x: x
    from .torch_gpu import tensor_of

    return lambda x: tensor_of(np.asarray(x), device)


def described(device: str) -> str:
    """Name of a `usable` device for reports, with its product precision if that is not float32."""
    if device == "numpy":
        return "cpu"
    import torch

    if device == "cpu":
        return "cpu (torch)"
    precision = ", TF32" if torch.get_float32_matmul_precision() != "highest" else ""
    return f"cuda ({torch.cuda.get_device_name(device)}{precision})"


def free_bytes(device: str) -> int | None:
    """Free memory of a `usable` device; None for the main memory."""
    if not device.startswith("cuda"):
        return None
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def multiply_in_tf32(allowed: bool) -> None:
    """Whether a GPU may round the factors of float32 products to 11 bits, TF32; else they are float32 throughout."""
    import torch

    torch.set_float32_matmul_precision("high" if allowed else "highest")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that a GPU has no memory left."""
    return type(error).__name__ == "OutOfMemoryError" and type(error).__module__.split(".")[0] == "torch"
