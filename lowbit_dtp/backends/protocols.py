"""The attributes of arrays, signals and activations that backends use."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from ..formats import Format

if TYPE_CHECKING:
    from . import Backend


class Array(Protocol):
    """A `numpy.ndarray` or a `torch.Tensor`: what both have. Anything else needs a backend."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def ndim(self) -> int:
        """How many axes there are."""

    @property
    def dtype(self) -> Any:
        """Type of the numbers: a `numpy.dtype` or a `torch.dtype`, which have no base in common."""

    @property
    def mT(self) -> Self:
        """With the last two axes exchanged, in the same memory."""

    def __len__(self) -> int: ...
    def __float__(self) -> float: ...
    def __int__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> "Array": ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...

    def __add__(self, other: Any, /) -> "Array": ...
    def __radd__(self, other: Any, /) -> "Array": ...
    def __sub__(self, other: Any, /) -> "Array": ...
    def __rsub__(self, other: Any, /) -> "Array": ...
    def __mul__(self, other: Any, /) -> "Array": ...
    def __rmul__(self, other: Any, /) -> "Array": ...
    def __truediv__(self, other: Any, /) -> "Array": ...
    def __rtruediv__(self, other: Any, /) -> "Array": ...
    def __pow__(self, other: Any, /) -> "Array": ...
    def __rpow__(self, other: Any, /) -> "Array": ...
    def __rshift__(self, other: Any, /) -> "Array": ...
    def __lshift__(self, other: Any, /) -> "Array": ...
    def __floordiv__(self, other: Any, /) -> "Array": ...
    def __and__(self, other: Any, /) -> "Array": ...
    def __xor__(self, other: Any, /) -> "Array": ...
    def __neg__(self) -> "Array": ...
    def __abs__(self) -> "Array": ...

    def __eq__(self, other: object, /) -> Any: ...
    def __ne__(self, other: object, /) -> Any: ...
    def __lt__(self, other: Any, /) -> "Array": ...
    def __le__(self, other: Any, /) -> "Array": ...
    def __gt__(self, other: Any, /) -> "Array": ...
    def __ge__(self, other: Any, /) -> "Array": ...

    def sum(self, axis: int, /) -> "Array": ...
    def mean(self, axis: int, /) -> "Array": ...
    def argmax(self, axis: int, /) -> "Array": ...
    def max(self) -> "Array": ...
    def reshape(self, shape: tuple[int, ...], /) -> "Array": ...


Factor: TypeAlias = float | Array
"""A number, or an array to multiply others by."""


class Signal(Protocol):
    """The attributes of a `links.Signal` that a backend uses."""

    @property
    def carried(self) -> Array:
        """Codes [..., batch, neurons], or packed words [..., batch, words]."""

    @property
    def packed_neurons(self) -> int | None:
        """Codes in a row of packed words; None for codes."""

    @property
    def format(self) -> Format:
        """Format of the codes."""

    @property
    def like(self) -> Array:
        """An array of the floating type in which values are given."""

    @property
    def made(self) -> dict[str, Any]:
        """Results that a backend has computed from the signal."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., batch, neurons]."""

    @property
    def codes(self) -> Array:
        """Codes [..., batch, neurons]."""

    @property
    def values(self) -> Array:
        """The numbers that the codes stand for [..., batch, neurons]."""


class Activation(Protocol):
    """The attributes of an `activations.Activation` that a backend uses."""

    @property
    def kernel(self) -> str | None:
        """Name of the function's constant in compiled kernels; None if they do not have it."""

    @property
    def apply(self) -> Callable[["Backend", Array], Array]:
        """The function, which may overwrite its argument."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def slope(self) -> Callable[[Array], Array] | None:
        """The derivative, as a function of the result of `apply`."""

    @property
    def backward(self) -> Callable[[Array, Array], Array] | None:
        """Gradient at the pre-activation, if that is no product with `slope`."""
