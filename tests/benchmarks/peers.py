"""Peers: how other libraries multiply activations by weights, and pack signs, each written as well as it allows.

Each is held to a NumPy reference, in float64 or exact in integers, before it is handed out to be timed.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

Call = Callable[[], Any]

FLOAT_TOLERANCE, DYNAMIC_TOLERANCE = 1e-5, 0.05
"""Largest error of a product as a share of its norm: in float32, and of operands rounded while it is computed."""

MOST = 63
"""Largest integer weight: two products with a byte then fit 16 bits, so that no processor's sums saturate."""


def missing() -> list[str]:
    """Packages that a peer needs and that are not installed."""
    return [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]


def described() -> str:
    """How the peers are written, in a paragraph."""
    return (
        "NumPy float32: `matmul(out=)`. torch float32: `mm(out=)`. torch int8 dynamic: `quantized.linear_dynamic`, the "
        f"operator of its dynamically quantized layers, engine {dynamic_engine()}; float32 in and out. torch int8: "
        "`_int_mm(out=)`, int8 to int32. onnxruntime: MatMulInteger of uint8 by constant int8 to int32, bound to its "
        "memory. Operands of the last two are integers before the clock starts."
    )


def set_threads(threads: int) -> None:
    """Threads that torch and NumPy's BLAS use from here on; onnxruntime fixes them in each session."""
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")


def products(x: np.ndarray, weight: np.ndarray, threads: int) -> dict[str, Call]:
    """Calls that multiply `x` [rows, inputs] by `weight` [inputs, outputs], both float32, on so many threads."""
    set_threads(threads)
    calls = {
        "torch float32": torch_float(x, weight),
        "NumPy float32": numpy_float(x, weight),
        "torch int8 dynamic": torch_dynamic(x, weight, dynamic_engine()),
        "torch int8": torch_integer(x, weight),
    }
    return calls if missing() else calls | {"onnxruntime": onnx_integer(x, weight, threads)}


def torch_float(x: np.ndarray, weight: np.ndarray) -> Call:
    """Torch's product into a tensor that is there already."""
    a, b = torch.from_numpy(x), torch.from_numpy(weight)
    out = torch.empty(len(x), weight.shape[1])
    check_close(torch.mm(a, b).numpy(), x, weight, FLOAT_TOLERANCE)
    return lambda: torch.mm(a, b, out=out)


def numpy_float(x: np.ndarray, weight: np.ndarray) -> Call:
    """NumPy's product into an array that is there already."""
    out = np.empty((len(x), weight.shape[1]), np.float32)
    check_close(x @ weight, x, weight, FLOAT_TOLERANCE)
    return lambda: np.matmul(x, weight, out=out)


def torch_dynamic(x: np.ndarray, weight: np.ndarray, engine: str) -> Call:
    """Torch's dynamically quantized linear layer: float32 in and out, weights packed as int8 before, bytes between."""
    a, before = torch.from_numpy(x), torch.backends.quantized.engine
    scale = float(np.abs(weight).max()) / 127 or 1.0
    torch.backends.quantized.engine = engine  # the packed weights remember it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that its quantization moves to another package
        rounded = torch.quantize_per_tensor(torch.from_numpy(weight).t().contiguous(), scale, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(rounded, None)
    torch.backends.quantized.engine = before
    linear = torch.ops.quantized.linear_dynamic

    @torch.inference_mode()
    def call() -> torch.Tensor:
        return linear(a, packed, True)  # 7 bits of `x`, as torch's layers have it: 8 saturate on older processors

    check_close(call().numpy(), x, weight, DYNAMIC_TOLERANCE)
    return call


@cache
def dynamic_engine() -> str:
    """The quickest of torch's engines for quantized layers, by a layer of 784 x 500."""
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal(shape).astype(np.float32) for shape in ((100, 784), (784, 500)))
    engines = set(torch.backends.quantized.supported_engines) - {"none"}
    engines = engines - {"qnnpack"} or engines  # which is for ARM, and warns elsewhere
    return quickest({name: torch_dynamic(x, weight, name) for name in sorted(engines)})


def torch_integer(x: np.ndarray, weight: np.ndarray) -> Call:
    """Torch's product of int8 into int32, a function that it does not publish."""
    a, b = levels(x, MOST).astype(np.int8), levels(weight, MOST).astype(np.int8)
    left, right = torch.from_numpy(a), torch.from_numpy(np.ascontiguousarray(b.T)).t()  # by columns: quicker for 1 row
    out = torch.empty(len(x), weight.shape[1], dtype=torch.int32)
    check_equal(torch._int_mm(left, right).numpy(), a, b)
    return lambda: torch._int_mm(left, right, out=out)


def onnx_integer(x: np.ndarray, weight: np.ndarray, threads: int) -> Call:
    """Onnxruntime's product of uint8 by constant int8 into int32. `x` with negative values has its zero at 128."""
    import onnxruntime

    zero = 128 if x.min() < 0 else 0
    a, b = (levels(x, 127) + zero).astype(np.uint8), levels(weight, MOST).astype(np.int8)
    out = np.empty((len(x), weight.shape[1]), np.int32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(_matmul_integer(a, b, zero), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_input("a", "cpu", 0, np.uint8, a.shape, a.ctypes.data)
    binding.bind_output("c", "cpu", 0, np.int32, out.shape, out.ctypes.data)

    def call(kept: tuple[np.ndarray, ...] = (a, out)) -> None:  # the binding holds no more than their addresses
        session.run_with_iobinding(binding)

    call()
    check_equal(out, a.astype(np.int64) - zero, b)
    return call


def _matmul_integer(a: np.ndarray, b: np.ndarray, zero: int) -> bytes:
    """A model of one MatMulInteger with weights `b`, for inputs shaped like `a`."""
    from onnx import TensorProto, helper, numpy_helper

    constants = [numpy_helper.from_array(b, "b")]
    if zero:
        constants.append(numpy_helper.from_array(np.array(zero, np.uint8), "zero"))
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", *(x.name for x in constants)], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)],
        [helper.make_tensor_value_info("c", TensorProto.INT32, (len(a), b.shape[1]))],
        constants,
    )
    opset = helper.make_opsetid("", 13)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def packing(x: np.ndarray) -> dict[str, Call]:
    """Calls that pack the signs of `x` [rows, neurons], float32, and that make -1 and +1 in float32 of what is packed.

    Eight signs go to a byte, the first to the lowest bit; 0 counts as +1, as `binary` sends it. What unpacks is the
    quicker of unpackbits with arithmetic in place, and of looking up each byte's eight numbers in a table.
    """
    rows, neurons = x.shape
    packed = np.packbits(x >= 0, axis=1, bitorder="little")
    numbers = np.where(x >= 0, np.float32(1), np.float32(-1))
    bits = packed[:, np.arange(neurons) // 8] >> (np.arange(neurons) % 8) & 1
    assert np.array_equal(bits, x >= 0), "np.packbits packs something else"
    octets = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") * np.float32(2) - 1
    padded, out = np.empty((*packed.shape, 8), np.float32), np.empty(x.shape, np.float32)

    def look_up() -> np.ndarray:
        np.take(octets, packed, axis=0, out=padded, mode="clip")  # any other mode goes by way of a copy
        return padded.reshape(rows, -1)[:, :neurons]

    def compute() -> np.ndarray:
        np.multiply(np.unpackbits(packed, axis=1, bitorder="little", count=neurons), np.float32(2), out=out)
        return np.subtract(out, 1, out=out)

    unpack = {"look_up": look_up, "compute": compute}
    for name, call in unpack.items():
        assert np.array_equal(call(), numbers), f"{name} unpacks something else"
    return {
        "np.packbits": lambda: np.packbits(x >= 0, axis=1, bitorder="little"),
        "np.unpackbits": unpack[quickest(unpack)],
    }


def quickest(calls: dict[str, Call]) -> str:
    """The name of the call that takes least time, in the best of ten turns."""

    def seconds(call: Call) -> float:
        started = perf_counter()
        call()
        return perf_counter() - started

    best = dict.fromkeys(calls, float("inf"))
    for _ in range(10):
        best = {name: min(best[name], seconds(call)) for name, call in calls.items()}
    return min(best, key=best.__getitem__)


def levels(x: np.ndarray, most: int) -> np.ndarray:
    """`x`, rounded to steps such that its largest value is `most` of them."""
    return np.rint(x * (most / (float(np.abs(x).max()) or 1.0)))


def check_close(found: np.ndarray, x: np.ndarray, weight: np.ndarray, tolerance: float) -> None:
    """Raise AssertionError unless `found` is near the product, as float64 has it."""
    expected = x.astype(np.float64) @ weight.astype(np.float64)
    error = np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0)
    assert error <= tolerance, f"product is off by {error:.1e} of its norm, of which {tolerance:.0e} is allowed"


def check_equal(found: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Raise AssertionError unless `found` is the product of integers: float64 holds such sums exactly."""
    expected = a.astype(np.float64) @ b.astype(np.float64)
    assert np.array_equal(found, expected), f"integer product differs in {int((found != expected).sum())} places"
