"""Arrays without numbers: shapes and types are those that NumPy gives, and numbers are refused."""

import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lowbit_dtp.backends import Backend, Key, backend_of
from lowbit_dtp.backends.numpy_plain import NumpyBackend
from lowbit_dtp.backends.shapes import ShapeArray, ShapeBackend, ShapeError
from lowbit_dtp.formats import binary, fixed, mxfp4, nvfp4, shared
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link

TYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
NO_NUMBERS = (
    "an array of shapes alone has no numbers: what decides by numbers cannot be estimated "
    "(a learning rule can say by `without_data` what it does at most)"
)
few = settings(max_examples=60, deadline=None)


def shaped(x: Any) -> Any:
    """`x` without its numbers."""
    return ShapeArray(x.shape, x.dtype) if isinstance(x, np.ndarray) else x


def ones(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.ones(shape, dtype)


def like(found: Any, expected: Any) -> None:
    assert isinstance(found, ShapeArray)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.pow, operator.and_,
    operator.or_, operator.xor, operator.lshift, operator.rshift, operator.lt, operator.le, operator.gt, operator.ge,
    operator.eq, operator.ne, np.maximum, np.hypot,
]  # fmt: skip


@few
@given(
    operation=st.sampled_from(BINARY),
    shapes=arrays.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_dims=3),
    types=st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)),
    number=st.sampled_from([None, 2, 0.5, True, np.float64(2), np.int16(2)]),
    swapped=st.booleans(),
)
def test_operators(operation: Callable, shapes: Any, types: Any, number: Any, swapped: bool) -> None:
    a, b = (ones(shape, dtype) for shape, dtype in zip(shapes.input_shapes, types, strict=True))
    pair = (a, b) if number is None else (a, number)
    pair = pair[::-1] if swapped else pair
    try:
        expected = operation(*pair)
    except TypeError:  # as of a shift of floats
        with pytest.raises(TypeError):
            operation(*map(shaped, pair))
        return
    like(operation(*map(shaped, pair)), np.asarray(expected))
    if number is None:
        like(operation(shaped(a), b), np.asarray(expected))
        like(operation(a, shaped(b)), np.asarray(expected))


@few
@given(
    operation=st.sampled_from([operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.iand]),
    shapes=arrays.mutually_broadcastable_shapes(num_shapes=2, min_side=1, max_dims=3),
    types=st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)),
)
def test_changes_in_place(operation: Callable, shapes: Any, types: Any) -> None:
    a, b = (ones(shape, dtype) for shape, dtype in zip(shapes.input_shapes, types, strict=True))
    here = shaped(a)
    try:
        expected = operation(a, b)
    except (TypeError, ValueError):
        with pytest.raises((TypeError, ShapeError)):
            operation(here, shaped(b))
        return
    if a.ndim:  # NumPy makes a number of an array without axes
        assert operation(here, shaped(b)) is here
        like(here, expected)


@few
@given(st.data())
def test_indexing(data: Any) -> None:
    x = ones(data.draw(arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)), "float32")
    key = data.draw(arrays.basic_indices(x.shape, allow_newaxis=True, allow_ellipsis=True))
    expected = np.asarray(x[key])
    like(shaped(x)[key], expected)
    here = shaped(x)
    here[key] = shaped(expected)
    here[key] = 1.0


@few
@given(st.data())
def test_indexing_by_arrays(data: Any) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=4))
    axis = data.draw(st.integers(0, len(shape) - 1))
    indices = np.zeros(data.draw(arrays.array_shapes(max_dims=2, max_side=3)), np.int64)
    key = (*[slice(None)] * axis, indices)
    for taken in (indices, shaped(indices)):
        like(shaped(ones(shape, "int8"))[(*[slice(None)] * axis, taken)], ones(shape, "int8")[key])


@few
@given(
    name=st.sampled_from(["sum", "mean", "max", "min", "any", "all", "argmax"]),
    shape=arrays.array_shapes(min_dims=1, max_dims=4, max_side=4),
    dtype=st.sampled_from(TYPES),
    keepdims=st.booleans(),
    data=st.data(),
)
def test_reductions(name: str, shape: Any, dtype: str, keepdims: bool, data: Any) -> None:
    axes = [st.none(), st.integers(-len(shape), len(shape) - 1)]
    if name != "argmax":
        axes.append(arrays.valid_tuple_axes(len(shape), min_size=1))
    axis, x = data.draw(st.one_of(axes)), ones(shape, dtype)
    like(getattr(shaped(x), name)(axis, keepdims=keepdims), np.asarray(getattr(x, name)(axis, keepdims=keepdims)))


def test_other_methods() -> None:
    x = ones((2, 3, 4), "float32")
    like(shaped(x).reshape(2, -1), x.reshape(2, -1))
    like(shaped(x).reshape((4, 6)), x.reshape(4, 6))
    like(shaped(x).mT, x.mT)
    like(shaped(x).T, x.T)
    like(shaped(x).astype("int8"), x.astype("int8"))
    like(abs(-shaped(x)), x)
    like(np.exp(shaped(x)), x)
    like(shaped(x).sum(-1, dtype="float64"), x.sum(-1, dtype="float64"))
    assert (len(shaped(x)), shaped(x).ndim, shaped(x).size, repr(shaped(x))) == (
        2,
        3,
        24,
        "ShapeArray((2, 3, 4), float32)",
    )
    chosen = shaped(x)
    chosen[chosen > 0] = 1.0


@pytest.mark.parametrize("ask", [bool, float, int, np.asarray, lambda x: x.tolist(), lambda x: [0][x]])
def test_there_are_no_numbers(ask: Callable) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(NO_NUMBERS)}$"):
        ask(ShapeArray((), "float32"))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda x: x + ShapeArray((3,), "int8"), "arrays of shapes (2, 4) and (3,) do not go together"),
        (lambda x: x[0, 0, 0], "an array of shape (2, 4) has fewer axes than its index"),
        (lambda x: x[:, 4], "an array of shape (2, 4) has no index 4 on axis 1"),
        (lambda x: x[x > 0], "an array without numbers is indexed by one array of whole numbers at most"),
        (lambda x: x.reshape(3, -1), "an array of shape (2, 4) cannot be reshaped to (3, -1)"),
        (lambda x: x.sum(2), "sum: an array of shape (2, 4) has no axis 2"),
        (lambda x: x @ x, "numpy.matmul is not known for arrays without numbers"),
        (lambda x: np.add.reduce(x), "numpy.add is not known for arrays without numbers"),
        (lambda x: np.add(x, x, out=np.ones((2, 4))), "an array of numbers cannot take up one without numbers"),
        (
            lambda x: operator.iadd(x, ShapeArray((3, 2, 4), "float32")),
            "add gives float32 of shape (3, 2, 4), for float32 of (2, 4)",
        ),
        (
            lambda x: operator.setitem(x, 0, ShapeArray((2,), "int8")),
            "arrays of shapes (4,) and (2,) do not go together",
        ),
        (
            lambda x: operator.setitem(x, slice(0, 1), ShapeArray((2, 4), "int8")),
            "an array of shape (2, 4) does not fit in (1, 4)",
        ),
        (
            lambda x: operator.setitem(x, x > 0, ShapeArray((4,), "int8")),
            "a choice of (2, 4) among (2, 4) takes one number, not (4,)",
        ),
        (lambda x: ShapeBackend().matmul(x, x), "arrays of shapes (2, 4) and (2, 4) have no product"),
        (
            lambda x: ShapeBackend().cross_entropy(x, ShapeArray((3,), "int64")),
            "labels must be one for each of (2,) samples, not of shape (3,)",
        ),
    ],
)
def test_shapes_that_do_not_fit(act: Callable, message: str) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        act(ShapeArray((2, 4), "float32"))


def test_sizes_have_no_end() -> None:
    """More numbers than 64 bits can count."""
    wide = ShapeArray((10**12, 10**12), "float32")
    assert (wide * 2 + wide[:, :1]).size == 10**24
    assert wide.reshape(-1).shape == (10**24,)
    ledger = Ledger()
    Link("binary", lower="a", upper="b").send(wide, Direction.FORWARD, "activations", ledger)
    ((message_type, traffic),) = ledger.traffic.items()
    assert traffic.messages * message_type.message_bits == 10**24


# --- the backend ------------------------------------------------------------------------------------------------------

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)
KEY = Key(0, 1, 2)
CODES = fixed(4, 1).encode(X)
CALLS: dict[str, Callable[[Backend, Callable], Any]] = {
    "asarray": lambda xp, a: xp.asarray(np.ones((2, 3)), a(X)),
    "asarray of whole numbers": lambda xp, a: xp.asarray(np.ones((2, 3), np.int8), a(X)),
    "moved": lambda xp, a: a(xp.moved(np.ones(3), a(X))),
    "filled": lambda xp, a: xp.filled((5, 2), a(X), lambda: np.ones((5, 2))),
    "zeros": lambda xp, a: xp.zeros((5, 2), a(X)),
    "each": lambda xp, a: xp.each([0.5, 1.0, 1.5, 2.0], a(X)),
    "shared": lambda xp, a: xp.shared(a(X), 3),
    "normal": lambda xp, a: xp.normal(KEY, a(X)),
    "uniform": lambda xp, a: xp.uniform(KEY, a(X)),
    "bits": lambda xp, a: xp.bits(KEY, a(X)),
    "cast": lambda xp, a: xp.cast(a(X), "int16"),
    "integer_matmul": lambda xp, a: xp.integer_matmul(a(np.ones((3, 4), np.int8)), a(np.ones((4, 5), np.int16))),
    "largest": lambda xp, a: xp.largest(a(X)),
    "look_up": lambda xp, a: xp.look_up((1, 2, 3), a(np.zeros((4, 2), np.int64))),
    **{
        f"encode {fmt}": lambda xp, a, fmt=fmt: xp.encode(a(X), fmt, None)
        for fmt in (binary, fixed(12, 3), shared(4), mxfp4, nvfp4)
    },
    "float_codes": lambda xp, a: xp.float_codes(a(X)),
    "decode": lambda xp, a: xp.decode(a(nvfp4.encode(X)), nvfp4, a(X)),
    "pack": lambda xp, a: xp.pack(a(CODES), fixed(4, 1)),
    "unpack": lambda xp, a: xp.unpack(a(np.ones((4, 2), np.uint64)), fixed(4, 1), 20),
    "transmit": lambda xp, a: xp.transmit(a(X), shared(4), None, None).words,
    "carry": lambda xp, a: xp.carry(a(CODES), fixed(4, 1), None).words,
    "matmul": lambda xp, a: xp.matmul(a(X), a(X.T.copy())),
    "matmul of members": lambda xp, a: xp.matmul(a(np.ones((3, 4, 6))), a(X.T.copy())),
    **{
        name: lambda xp, a, name=name: getattr(xp, name)(a(abs(X) + 1))
        for name in ("tanh", "sigmoid", "relu", "step", "round", "power_of_two", "softmax", "sqrt")
    },
    "clip": lambda xp, a: xp.clip(a(X), -0.5, 0.5),
    "cross_entropy": lambda xp, a: xp.cross_entropy(a(X), a(np.zeros(4, np.int64)))[0],
    "loss": lambda xp, a: xp.cross_entropy(a(X), a(np.zeros(4, np.int64)))[1],
    "one_hot": lambda xp, a: xp.one_hot(a(np.zeros(4, np.int64)), a(X)),
}
"""A call of each method, with arrays that the second argument makes of NumPy's."""


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_backend_gives_the_shapes_of_numpys(call: Callable) -> None:
    expected = call(NumpyBackend(), lambda x: x)
    like(call(ShapeBackend(), shaped), np.asarray(expected))


def test_every_method_of_a_backend_is_tried() -> None:
    others = {"numpy", "is_floating", "ones_and_toggles"}
    assert Backend.__abstractmethods__ <= {name.partition(" ")[0] for name in CALLS} | others


def test_the_type_of_the_array_chooses_the_backend() -> None:
    x = ShapeArray((2,), "float32")
    xp = backend_of(x)
    assert isinstance(xp, ShapeBackend)
    assert (xp.is_floating(x), xp.is_floating(x.astype("int8"))) == (True, False)
    assert xp.ones_and_toggles(x, None) == (0, 0)
    with pytest.raises(ShapeError, match=f"^{re.escape(NO_NUMBERS)}$"):
        xp.numpy(x)
