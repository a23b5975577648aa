"""Activations: what a neuron makes of the sum of its inputs, and the slope there, told from what it made."""

from collections.abc import Callable
from dataclasses import dataclass

from .backends import Array, Backend


@dataclass(frozen=True)
class Activation:
    """An elementwise function with its derivative as a function of its own output."""

    name: str
    apply: Callable[[Backend, Array], Array]
    """May write over its argument."""
    slope: Callable[[Array], Array]
    operation: str | None
    """What the ledger calls one evaluation (see `ledger.OPERATIONS`); None if it costs nothing."""


ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("tanh", lambda xp, x: xp.tanh(x, x), lambda state: 1 - state * state, "tanh"),
        Activation("sigmoid", lambda xp, x: xp.sigmoid(x, x), lambda state: state * (1 - state), "exp"),
        Activation("relu", lambda xp, x: xp.relu(x, x), lambda state: (state > 0) * (state == state), None),
        Activation("identity", lambda xp, x: x, lambda state: state == state, None),
    )
}
"""Every activation, by name."""
