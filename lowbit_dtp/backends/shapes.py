"""Arrays that have a shape and a type and no numbers: what a network of any size sends and computes, without memory.

>>> state = ShapeArray((100, 10**6), "float32")
>>> 1 - state * state
ShapeArray((100, 1000000), float32)
>>> ShapeBackend().matmul(state, ShapeArray((10**6, 10), "float32"))
ShapeArray((100, 10), float32)
"""

from collections.abc import Sequence
from itertools import zip_longest
from math import prod
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..formats import Format
from ..packing import WORD_BITS, packed_width
from . import Backend, Key, Transmission, register

Array: TypeAlias = Any
"""A `ShapeArray`, where the base class says any array: its type would have to be checked in every method."""
Shape = tuple[int, ...]


class ShapeError(ValueError):
    """Shapes do not go together, or arrays without numbers were asked for numbers."""


class ShapeArray(NDArrayOperatorsMixin):
    """An array without numbers, of any size.

    Operators, NumPy's elementwise functions, indexing and the methods below give arrays of the shape and type that
    NumPy would give. Raises ShapeError where shapes do not fit, and where the numbers are needed: an `if`, a `float`.
    """

    __slots__ = ("dtype", "shape")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        self.shape: Shape = tuple(map(int, shape))
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers it would have."""
        return prod(self.shape)

    @property
    def T(self) -> "ShapeArray":
        """With its axes in reverse order."""
        return ShapeArray(self.shape[::-1], self.dtype)

    @property
    def mT(self) -> "ShapeArray":
        """With its last two axes exchanged."""
        *others, rows, columns = self.shape
        return ShapeArray((*others, columns, rows), self.dtype)

    def __repr__(self) -> str:
        return f"ShapeArray({self.shape}, {self.dtype})"

    def __len__(self) -> int:
        return self.shape[0]

    def copy(self) -> "ShapeArray":
        """An array of the same shape and type."""
        return ShapeArray(self.shape, self.dtype)

    def astype(self, dtype: npt.DTypeLike, copy: bool = True) -> "ShapeArray":
        """An array of the same shape, of `dtype`."""
        return ShapeArray(self.shape, dtype)

    def reshape(self, *shape: Any) -> "ShapeArray":
        """An array of another shape with as many numbers; one of its axes may be -1."""
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        if -1 in wanted:
            rest = -prod(wanted)
            wanted = tuple(self.size // rest if n == -1 and rest else n for n in wanted)
        if prod(wanted) != self.size:
            raise ShapeError(f"an array of shape {self.shape} cannot be reshaped to {shape}")
        return ShapeArray(wanted, self.dtype)

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> "ShapeArray":
        """Sum over `axis`, one or several; over all by default. Likewise the next methods."""
        summed = self._reduced("sum", axis, keepdims)
        return summed if dtype is None else summed.astype(dtype)

    def mean(self, axis: Any = None, keepdims: bool = False) -> "ShapeArray":
        return self._reduced("mean", axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> "ShapeArray":
        return self._reduced("max", axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> "ShapeArray":
        return self._reduced("min", axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> "ShapeArray":
        return self._reduced("any", axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> "ShapeArray":
        return self._reduced("all", axis, keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> "ShapeArray":
        return self._reduced("argmax", axis, keepdims)

    def _reduced(self, name: str, axis: Any, keepdims: bool) -> "ShapeArray":
        axes = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        gone = set()
        for one in axes:
            if not -self.ndim <= one < self.ndim:
                raise ShapeError(f"{name}: an array of shape {self.shape} has no axis {one}")
            gone.add(one % self.ndim)
        shape = [1 if i in gone else n for i, n in enumerate(self.shape) if keepdims or i not in gone]
        return ShapeArray(shape, getattr(np.zeros(1, self.dtype), name)().dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if method != "__call__" or ufunc.signature or options:
            raise ShapeError(f"numpy.{ufunc.__name__} is not known for arrays without numbers")
        kinds = [getattr(x, "dtype", np.dtype(bool) if isinstance(x, bool) else type(x)) for x in inputs]
        dtypes = ufunc.resolve_dtypes((*kinds, *[None] * ufunc.nout))[ufunc.nin :]
        shape = broadcast(*(getattr(x, "shape", ()) for x in inputs))
        if out is None:
            made = tuple(ShapeArray(shape, dtype) for dtype in dtypes)
            return made[0] if ufunc.nout == 1 else made
        (into,) = out
        if not isinstance(into, ShapeArray):
            raise ShapeError("an array of numbers cannot take up one without numbers")
        if into.shape != shape or not np.can_cast(dtypes[0], into.dtype, "same_kind"):
            raise ShapeError(f"{ufunc.__name__} gives {dtypes[0]} of shape {shape}, for {into.dtype} of {into.shape}")
        return into

    def __getitem__(self, key: Any) -> "ShapeArray":
        return ShapeArray(indexed(self.shape, key), self.dtype)

    def __setitem__(self, key: Any, value: Any) -> None:
        given = getattr(value, "shape", ())
        if isinstance(key, ShapeArray | np.ndarray) and key.dtype == bool:  # how many are chosen is not known
            if key.shape != self.shape[: key.ndim] or given:
                raise ShapeError(f"a choice of {key.shape} among {self.shape} takes one number, not {given}")
            return
        shape = indexed(self.shape, key)
        if broadcast(shape, given) != shape:
            raise ShapeError(f"an array of shape {given} does not fit in {shape}")

    def _no_numbers(self, *_: Any, **__: Any) -> NoReturn:
        raise ShapeError(
            "an array of shapes alone has no numbers: what decides by numbers cannot be estimated "
            "(a learning rule can say by `without_data` what it does at most)"
        )

    __bool__ = __float__ = __int__ = __index__ = __array__ = item = tolist = _no_numbers


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an operation on arrays of `shapes`.

    >>> broadcast((100, 1, 10), (5, 10), ())
    (100, 5, 10)
    """
    made = []
    for sizes in zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1):
        wide = {n for n in sizes if n != 1}
        if len(wide) > 1:
            raise ShapeError(f"arrays of shapes {' and '.join(map(str, shapes))} do not go together")
        made.append(wide.pop() if wide else 1)
    return tuple(made[::-1])


def indexed(shape: Shape, key: Any) -> Shape:
    """The shape of `x[key]` for an `x` of `shape`: whole numbers, slices, None, an ellipsis, or one array of indices.

    >>> indexed((100, 784), (..., None, slice(0, 10)))
    (100, 1, 10)
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    arrays = [x for x in keys if getattr(x, "shape", ())]
    whole = [x for x in keys if isinstance(x, int | np.integer) or getattr(x, "shape", None) == ()]
    if len(arrays) > 1 or (arrays and whole) or any(x.dtype == bool for x in arrays):
        raise ShapeError("an array without numbers is indexed by one array of whole numbers at most")
    if not any(x is Ellipsis for x in keys):
        keys.append(Ellipsis)
    rest = len(shape) - sum(x is not None and x is not Ellipsis for x in keys)
    if rest < 0:
        raise ShapeError(f"an array of shape {shape} has fewer axes than its index")
    made: list[int] = []
    axis = 0
    for x in keys:
        if x is None:
            made.append(1)
        elif x is Ellipsis:
            made += shape[axis : axis + rest]
            axis += rest
        else:
            if isinstance(x, slice):
                made.append(_length(x, shape[axis]))
            elif getattr(x, "shape", ()):
                made += x.shape
            elif isinstance(x, int | np.integer) and not -shape[axis] <= x < shape[axis]:
                raise ShapeError(f"an array of shape {shape} has no index {x} on axis {axis}")
            axis += 1
    return tuple(made)


def _length(part: slice, size: int) -> int:
    """Entries of an axis of `size` that `part` takes: `len` of a range, which ends at 2^63.

    >>> _length(slice(1, 10, 3), 8), _length(slice(None, None, -1), 5), _length(slice(None), 10**20) == 10**20
    (3, 5, True)
    """
    start, stop, step = part.indices(size)
    return max(0, -((start - stop) // step))


class ShapeBackend(Backend):
    """`Backend` for arrays without numbers. Links count no ones, toggles or invalid numbers."""

    def asarray(self, x: np.ndarray, like: Array) -> Array:
        return ShapeArray(x.shape, like.dtype if x.dtype.kind == "f" else x.dtype)

    def moved(self, x: np.ndarray, like: Array) -> Array:
        return ShapeArray(x.shape, x.dtype)

    def filled(self, shape: Shape, like: Array, numbers: Any) -> Array:
        return ShapeArray(shape, like.dtype)

    def numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)  # which raises ShapeError

    def shared(self, x: Array, members: int) -> Array:
        return ShapeArray((members, *x.shape), x.dtype)

    def normal(self, key: Key, like: Array) -> Array:
        return like.copy()

    def uniform(self, key: Key, like: Array) -> Array:
        return like.copy()

    def bits(self, key: Key, like: Array) -> Array:
        return like.astype(np.int64)

    def is_floating(self, x: Array) -> bool:
        return bool(x.dtype.kind == "f")

    def cast(self, x: Array, number: str) -> Array:
        return x.astype(number)

    def integer_matmul(self, a: Array, b: Array) -> Array:
        return self.matmul(a, b).astype(np.int32)

    def largest(self, x: Array) -> Array:
        return x.max(-1, keepdims=True)

    def look_up(self, table: tuple[int, ...], index: Array) -> Array:
        return index.astype(np.int32)

    def encode(self, x: Array, fmt: Format, uniform: Array | None) -> Array:
        return ShapeArray((*x.shape[:-1], fmt.codes_in_row(x.shape[-1])), fmt.code_dtype)

    def float_codes(self, x: Array) -> Array:
        return x.astype(f"uint{8 * x.dtype.itemsize}")

    def decode(self, codes: Array, fmt: Format, like: Array) -> Array:
        return ShapeArray((*codes.shape[:-1], fmt.neurons_in_row(codes.shape[-1])), like.dtype)

    def pack(self, codes: Array, fmt: Format) -> Array:
        return ShapeArray((*codes.shape[:-1], packed_width(codes.shape[-1], fmt.bits)), f"uint{WORD_BITS}")

    def unpack(self, words: Array, fmt: Format, neurons: int) -> Array:
        return ShapeArray((*words.shape[:-1], neurons), fmt.code_dtype)

    def ones_and_toggles(self, codes: Array, previous: Array | None) -> tuple[Array, Array]:
        return 0, 0

    def transmit(self, x: Array, fmt: Format, uniform: Array | None, previous: Array | None) -> Transmission:
        return self.carry(self.encode(x, fmt, uniform), fmt, previous)

    def carry(self, codes: Array, fmt: Format, previous: Array | None) -> Transmission:
        return Transmission(codes, None, *self.ones_and_toggles(codes, previous))

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        *first, rows, depth = a.shape
        *second, other, columns = b.shape
        if depth != other:
            raise ShapeError(f"arrays of shapes {a.shape} and {b.shape} have no product")
        return ShapeArray((*broadcast(tuple(first), tuple(second)), rows, columns), np.result_type(a.dtype, b.dtype))

    def tanh(self, x: Array, out: Array | None = None) -> Array:
        return x.copy()

    def sigmoid(self, x: Array, out: Array | None = None) -> Array:
        return x.copy()

    def relu(self, x: Array, out: Array | None = None) -> Array:
        return x.copy()

    def step(self, x: Array) -> Array:
        return x.copy()

    def clip(self, x: Array, low: Any, high: Any) -> Array:
        return np.minimum(np.maximum(x, low), high)

    def round(self, x: Array) -> Array:
        return x.copy()

    def power_of_two(self, x: Array) -> Array:
        return x.copy()

    def softmax(self, x: Array) -> Array:
        return x.copy()

    def cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        if labels.shape != logits.shape[:-1]:
            raise ShapeError(f"labels must be one for each of {logits.shape[:-1]} samples, not of shape {labels.shape}")
        return logits.copy(), ShapeArray(logits.shape[:-2], logits.dtype)

    def one_hot(self, labels: Array, like: Array) -> Array:
        return ShapeArray((*labels.shape, like.shape[-1]), like.dtype)

    def sqrt(self, x: Array) -> Array:
        return x.copy()


register(ShapeArray, ShapeBackend())
