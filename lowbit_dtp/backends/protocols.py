"""The attributes of arrays, signals and activations that backends use."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..formats import Format

if TYPE_CHECKING:
    from . import Backend

Array: TypeAlias = Any
"""A `numpy.ndarray` or a `torch.Tensor`."""


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
