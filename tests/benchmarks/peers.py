"""Products of matrices, and packing of signs, as other libraries do them: what a kernel of ours is held against.

Each peer is made once, with all that its library can prepare, held to the answer, and is then a call without arguments.
`torch float32` and `NumPy float32` multiply the numbers given. `torch int8 dynamic` takes float32, whose range it finds
and which it rounds within the call, and gives float32. `onnxruntime int8` takes bytes rounded before and gives sums in
int32, which is the product alone.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from time import perf_counter

import numpy as np
from threadpoolctl import threadpool_limits

Call = Callable[[], object]


def missing() -> list[str]:
    """Names of the peers that are not installed."""
    return [name for name, (modules, _) in _PRODUCTS.items() if any(find_spec(module) is None for module in modules)]


def products(x: np.ndarray, w: np.ndarray, threads: int) -> dict[str, Call]:
    """`x` [rows, inputs] by `w` [inputs, outputs], both float32, as each installed peer multiplies them.

    Sets the threads of torch and of NumPy's BLAS for the whole process, here and not in the calls; those of onnxruntime
    belong to its session. With more than one thread, those of one library still spin for a while after its turn: give
    the peers long turns. Raises AssertionError if a peer is further from the product in float64 than its rounding.
    """
    absent = missing()
    return {name: make(x, w, threads) for name, (_, make) in _PRODUCTS.items() if name not in absent}


def packing(x: np.ndarray) -> dict[str, Call]:
    """Signs of `x` [rows, n] to bits, the first in the least significant, and those bits to float32 -1 and +1.

    `np.unpackbits` is the fastest of a few ways to go on from its bytes on this shape. For comparison, `np.take` looks
    whole bytes up in a table of eight floats each, which NumPy does faster; it fills rows to a multiple of eight.
    """
    rows, n = x.shape
    bits = np.packbits(x > 0, axis=1, bitorder="little")
    signs = np.empty((rows, 8 * bits.shape[1]), np.float32)

    def unpacked() -> np.ndarray:
        return np.unpackbits(bits, axis=1, count=n, bitorder="little")

    def double_then_convert() -> None:
        ones = unpacked()
        np.add(ones, ones, out=ones)
        np.subtract(ones.view(np.int8), np.float32(1), out=out)

    def convert_last() -> None:
        ones = unpacked().view(np.int8)
        np.add(ones, ones, out=ones)
        np.subtract(ones, np.int8(1), out=ones)
        np.copyto(out, ones)

    def convert_first() -> None:
        np.multiply(unpacked(), np.float32(2), out=out)
        np.subtract(out, np.float32(1), out=out)

    every = np.arange(256, dtype=np.uint8)[:, None]
    table = np.float32(2) * np.unpackbits(every, axis=1, bitorder="little") - np.float32(1)
    eight = np.dtype((np.void, 8 * table.itemsize))
    entries, filled, out = table.view(eight)[:, 0], signs.view(eight), np.empty((rows, n), np.float32)

    def take() -> None:
        np.take(entries, bits, out=filled, mode="clip")  # any other mode makes a copy first

    ways: dict[str, Call] = {call.__name__: call for call in (double_then_convert, convert_last, convert_first)}
    for name, call in (ways | {"take": take}).items():
        call()
        assert np.array_equal(signs[:, :n] if name == "take" else out, np.where(x > 0, 1, -1)), (
            f"{name} gives other signs"
        )
        out[:] = 0
    return {
        "np.packbits": lambda: np.packbits(x > 0, axis=1, bitorder="little"),
        "np.unpackbits": _fastest(ways),
        "np.take": take,
    }


# --- each library -----------------------------------------------------------------------------------------------------


def _torch_float(x: np.ndarray, w: np.ndarray, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    a, b, out = torch.from_numpy(x), torch.from_numpy(w), torch.empty(len(x), w.shape[1])

    def multiply() -> object:
        return torch.mm(a, b, out=out)

    multiply()
    _check("torch float32", out.numpy(), x, w)
    return multiply


def _torch_int8(x: np.ndarray, w: np.ndarray, threads: int) -> Call:
    """The fastest of torch's engines on this shape.

    `x` has 7 bits, as `torch.ao.nn.quantized.dynamic.Linear` does it; QNNPACK knows 8 alone.
    """
    import torch

    torch.set_num_threads(threads)
    a, turned = torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(w.T))
    step = float(np.abs(w).max()) / 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its quantized tensors are deprecated
        weights = torch.quantize_per_tensor(turned, step, 0, torch.qint8)
    engines: dict[str, Call] = {}
    before = torch.backends.quantized.engine
    for engine in torch.backends.quantized.supported_engines:
        if engine != "none":
            torch.backends.quantized.engine = engine
            packed = torch.ops.quantized.linear_prepack(weights, None)  # knows its engine from here on
            engines[engine] = partial(torch.ops.quantized.linear_dynamic, a, packed, engine != "qnnpack")
            given = engines[engine]().numpy()
            _check(f"torch int8 dynamic, {engine}", given, x, w, (max(x.max(), 0) - min(x.min(), 0)) / 127, step)
    torch.backends.quantized.engine = before
    return _fastest(engines)


def _onnxruntime_int8(x: np.ndarray, w: np.ndarray, threads: int) -> Call:
    """The faster of codes of `x` around 128, a zero point that onnxruntime takes off, and the same left to the reader.

    The weights have seven bits: two products of wider ones overflow 16 bits in processors without VNNI.
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    x_step, step = float(np.abs(x).max()) / 127, float(np.abs(w).max()) / 63
    codes = (np.rint(x / x_step) + 128).astype(np.uint8)
    weights = np.rint(w / step).astype(np.int8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads would slow who comes next
    ways: dict[str, Call] = {}
    for way, zeros in {"with zero point": {"zero": np.uint8(128)}, "without": {}}.items():
        sums = np.empty((len(x), w.shape[1]), np.int32)
        graph = helper.make_graph(
            [helper.make_node("MatMulInteger", ["x", "w", *zeros], ["sums"])],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, codes.shape)],
            [helper.make_tensor_value_info("sums", TensorProto.INT32, sums.shape)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in ({"w": weights} | zeros).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input("x", codes)
        binding.bind_output("sums", "cpu", 0, np.int32, sums.shape, sums.ctypes.data)
        ways[way] = _holding(partial(session.run_with_iobinding, binding), codes, sums)
        ways[way]()
        given = sums if zeros else sums - 128 * weights.sum(0, dtype=np.int32)
        _check(f"onnxruntime int8, {way}", given * (x_step * step), x, w, x_step, step)
    return _fastest(ways)


def _numpy_float(x: np.ndarray, w: np.ndarray, threads: int) -> Call:
    threadpool_limits(threads, user_api="blas")
    multiply = partial(np.matmul, x, w, out=np.empty((len(x), w.shape[1]), np.float32))
    _check("NumPy float32", multiply(), x, w)
    return multiply


_PRODUCTS: Mapping[str, tuple[tuple[str, ...], Callable[[np.ndarray, np.ndarray, int], Call]]] = {
    "torch float32": (("torch",), _torch_float),
    "torch int8 dynamic": (("torch",), _torch_int8),
    "onnxruntime int8": (("onnx", "onnxruntime"), _onnxruntime_int8),
    "NumPy float32": ((), _numpy_float),
}
"""The modules that each peer needs, and what makes it."""


def _holding(call: Call, *arrays: np.ndarray) -> Call:
    """`call`, which keeps `arrays` alive: some libraries take an address and no reference."""
    return lambda _held=arrays: call()


def _fastest(calls: Mapping[str, Call], seconds: float = 0.05) -> Call:
    """The one with the fastest single run; they take turns, for about `seconds` each."""
    best = dict.fromkeys(calls, float("inf"))
    stop = perf_counter() + seconds * len(calls)
    rounds = 0
    while perf_counter() < stop or rounds < 3:
        for name, call in calls.items():
            started = perf_counter()
            call()
            best[name] = min(best[name], perf_counter() - started)
        rounds += 1
    return calls[min(best, key=best.__getitem__)]


def _check(
    name: str, given: np.ndarray, x: np.ndarray, w: np.ndarray, x_step: float = 0.0, w_step: float = 0.0
) -> None:
    """AssertionError if `given` is further from `x @ w`, root mean square, than twice what rounding explains.

    Rounding to steps is off by a step over the square root of 12; that of float32 sums is 1e-6 of the product.
    """
    product = x.astype(np.float64) @ w
    squares = (w.astype(np.float64) ** 2).sum() / w.shape[1], (x.astype(np.float64) ** 2).sum() / len(x)
    rounding = (x_step**2 * squares[0] + w_step**2 * squares[1]) / 12 + 1e-12 * (product**2).mean()
    error = float(np.sqrt(((given - product) ** 2).mean()))
    assert error <= 2 * rounding**0.5, f"{name} is off by {error:.3g}, and rounding by {rounding**0.5:.3g}"
