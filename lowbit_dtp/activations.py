"""Activations: functions of the pre-activation, with their slope as a function of the output.

Backends, exporters and bridges read everything about an activation from the table `ACTIVATIONS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A NumPy array or torch tensor: exporters read this table too, and need no backend."""
Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.floating[Any]]]"


class Least(NamedTuple):
    """The least pre-activation for which a condition holds, exactly."""

    value: Fraction | float
    """An infinity if it holds always or never."""
    inclusive: bool = True
    """Whether it holds at `value` itself."""
    ratio: Fraction | None = None
    """If given, the least is above `value * ln(ratio)`, which is irrational."""


ALWAYS, NEVER = Least(-np.inf), Least(np.inf)


@dataclass(frozen=True, eq=False)
class Activation:
    """A function of the pre-activations, with its derivative as a function of its own output.

    To add one, add an entry to `ACTIVATIONS`: `name`, `apply`, `slope` and `operations` are enough to train with it.
    """

    name: str
    apply: Callable[[Any, Array], Array]
    """The function, of a backend and the pre-activations, which it may overwrite."""
    slope: Callable[[Array], Array] | None
    """Derivative of each neuron at an output; None if neurons depend on each other, where `backward` is needed."""
    operations: tuple[str, ...] = ()
    """What the ledger counts for each neuron (see `ledger.OPERATIONS`); a comparison costs nothing."""
    backward: Callable[[Array, Array], Array] | None = None
    """Gradient at the pre-activations, for an output and the gradient at it; None if that is a product with `slope`."""
    kernel: str | None = None
    """Name of its constant in the compiled kernels; None if NumPy computes it after the product."""
    torch_module: str | None = None
    """Class in `torch.nn` that computes the same."""
    function: Callable[[Floats], Floats] | None = None
    """The same in NumPy, for exporters to compare with."""
    least: Callable[[Fraction, bool], Least] | None = None
    """The least pre-activation whose output reaches a boundary, itself included or not: for exporters.

    For elementwise functions that never decrease.
    """


def _clipped(low: Fraction | float, high: Fraction | float, inverse: Callable[[Fraction], Fraction]) -> Any:
    """`Activation.least` of a function that rises from `low` to `high`, reaches both, and stays there."""

    def least(boundary: Fraction, inclusive: bool) -> Least:
        if boundary < low or (boundary == low and inclusive):
            return ALWAYS
        if boundary > high or (boundary == high and not inclusive):
            return NEVER
        return Least(inverse(boundary), inclusive)

    return least


def _least_tanh(boundary: Fraction, inclusive: bool) -> Least:
    if abs(boundary) >= 1:
        return NEVER if boundary > 0 else ALWAYS
    if boundary == 0:
        return Least(Fraction(0), inclusive)
    return Least(Fraction(1, 2), ratio=(1 + boundary) / (1 - boundary))


def _least_sigmoid(boundary: Fraction, inclusive: bool) -> Least:
    if not 0 < boundary < 1:
        return NEVER if boundary >= 1 else ALWAYS
    if boundary == Fraction(1, 2):
        return Least(Fraction(0), inclusive)
    return Least(Fraction(1), ratio=boundary / (1 - boundary))


def _least_step(boundary: Fraction, inclusive: bool) -> Least:
    if boundary < 0 or (boundary == 0 and inclusive):
        return ALWAYS
    return Least(Fraction(0)) if boundary < 1 or (boundary == 1 and inclusive) else NEVER


ACTIVATIONS = {
    a.name: a
    for a in (
        Activation(
            "tanh",
            apply=lambda xp, x: xp.tanh(x, x),
            slope=lambda state: 1 - state * state,
            operations=("tanh",),
            kernel="TANH",
            torch_module="Tanh",
            function=np.tanh,
            least=_least_tanh,
        ),
        Activation(
            "sigmoid",
            apply=lambda xp, x: xp.sigmoid(x, x),
            slope=lambda state: state * (1 - state),
            operations=("exp",),
            kernel="SIGMOID",
            torch_module="Sigmoid",
            function=lambda x: (np.tanh(x / 2) + 1) / 2,
            least=_least_sigmoid,
        ),
        Activation(
            "relu",
            apply=lambda xp, x: xp.relu(x, x),
            slope=lambda state: (state > 0) * (state == state),
            kernel="RELU",
            torch_module="ReLU",
            function=lambda x: np.maximum(x, 0),
            least=_clipped(Fraction(0), np.inf, lambda boundary: boundary),
        ),
        Activation(
            "identity",
            apply=lambda xp, x: x,
            slope=lambda state: state == state,
            kernel="IDENTITY",
            function=lambda x: x,
            least=lambda boundary, inclusive: Least(boundary, inclusive),
        ),
        # 0 below 0 and else 1. Its derivative is zero, so it is trained straight through: with the slope of the
        # identity (Bengio, Leonard, Courville, arXiv:1308.3432)
        Activation(
            "step",
            apply=lambda xp, x: xp.step(x),
            slope=lambda state: state == state,
            function=lambda x: np.heaviside(x, 1),
            least=_least_step,
        ),
        Activation(
            "hard-tanh",
            apply=lambda xp, x: xp.clip(x, -1, 1),
            slope=lambda state: (state > -1) * (state < 1),
            function=lambda x: np.clip(x, -1, 1),
            least=_clipped(Fraction(-1), Fraction(1), lambda boundary: boundary),
        ),
        # (x + 1) / 2 within [0, 1], as Courbariaux et al. have it (arXiv:1602.02830, eq. 3); that of torch is flatter
        Activation(
            "hard-sigmoid",
            apply=lambda xp, x: xp.clip(0.5 * x + 0.5, 0, 1),
            slope=lambda state: (0 * state + 0.5) * ((state > 0) * (state < 1)),  # a half in the type of the states
            operations=("multiply", "add"),
            function=lambda x: np.clip(0.5 * x + 0.5, 0, 1),
            least=_clipped(Fraction(0), Fraction(1), lambda boundary: 2 * boundary - 1),
        ),
        # over the neurons of the layer
        Activation(
            "softmax",
            apply=lambda xp, x: xp.softmax(x),
            slope=None,
            operations=("exp", "add", "divide"),
            backward=lambda state, error: state * (error - (state * error).sum(-1)[..., None]),
        ),
    )
}
"""Every activation, by name."""
