"""What backends read of the objects that layers hand them: arrays, signals and activations."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..formats import Format

if TYPE_CHECKING:
    from . import Backend

Array: TypeAlias = Any
"""A `numpy.ndarray` or a `torch.Tensor`."""


class Signal(Protocol):
    """What a backend reads of a `links.Signal`."""

    @property
    def carried(self) -> Array:
        """Codes [..., batch, neurons], or packed words [..., batch, words]."""

    @property
    def packed_neurons(self) -> int | None:
        """Codes in a row of packed words; None for codes."""

    @property
    def format(self) -> Format:
        """What the codes mean."""

    @property
    def like(self) -> Array:
        """An array of the floating type in which values are given."""

    @property
    def made(self) -> dict[str, Any]:
        """Where a backend keeps what it makes of the signal."""

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
    """What a backend reads of an `activations.Activation`."""

    @property
    def kernel(self) -> str | None:
        """Name of the number by which compiled kernels know the function; None if they do not."""

    @property
    def apply(self) -> Callable[["Backend", Array], Array]:
        """The function, which may write over its argument."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def slope(self) -> Callable[[Array], Array] | None:
        """The derivative, as a function of what `apply` gave."""

    @property
    def backward(self) -> Callable[[Array, Array], Array] | None:
        """Gradient at the pre-activation, if that is no product with `slope`."""
