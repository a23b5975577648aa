"""Exact integer thresholds: the sums for which a neuron sends each code, so that no activation is computed.

A neuron sends code `k` or above when `activation(sum * 2^exponent + bias)` reaches the format's boundary `k`. Every
activation here is monotonic, so that is `sum >= T`, and `T` is found in integers without any rounding.
"""

from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from functools import partial
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from lowbit_dtp import activations
from lowbit_dtp.activations import Least
from lowbit_dtp.choices import choose
from lowbit_dtp.formats import FixedPoint, Format

FRACTION_BITS = 192
"""Pre-activations are compared in steps of 2^-192: float32 biases (down to 2^-149) and sums are multiples of these."""

_ONE = 1 << FRACTION_BITS

ALWAYS = -(1 << 1024)
NEVER = 1 << 1024
"""A pre-activation, in those steps, larger than a network can reach."""


def boundaries(fmt: Format) -> list[tuple[Fraction, bool]]:
    """Where each code of `fmt` but the lowest begins, and whether the boundary itself belongs to it.

    These hold for real numbers; `fmt.table().thresholds` holds for float32. ValueError if `fmt` has no thresholds.
    """
    table = fmt.table()
    if isinstance(fmt, FixedPoint) and fmt.rounding == "nearest-even":
        levels = range(fmt.lowest_level + 1, fmt.highest_level + 1)
        return [(Fraction(2 * level - 1, 2) * Fraction(fmt.step), level % 2 == 0) for level in levels]
    return [(Fraction(threshold), True) for threshold in table.thresholds]


def integer_thresholds(
    fmt: Format,
    activation: str,
    bias: npt.NDArray[np.float32],
    exponent: int,
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Thresholds [neurons, codes - 1], ascending: a neuron sends the code whose rank is the number of them at most sum.

    `2^exponent` is the unit of a sum. `low` and `high` [neurons] are each neuron's smallest and largest sum;
    thresholds are clipped to `[low, high + 1]`: `low` is always reached, `high + 1` never.
    """
    inverse = choose("activation", activation, ACTIVATIONS)
    least_pre_activations = [inverse(boundary, inclusive) for boundary, inclusive in boundaries(fmt)]
    shift = FRACTION_BITS + exponent
    rows = []
    for b, lowest, highest in zip(bias.tolist(), low.tolist(), high.tolist(), strict=True):
        pre_activation = int(Fraction(b) * _ONE)
        rows.append(
            [min(max(-((pre_activation - least) >> shift), lowest), highest + 1) for least in least_pre_activations]
        )
    return np.array(rows, np.int64)


def _identity(boundary: Fraction, inclusive: bool) -> int:
    steps = boundary * _ONE
    return ceil(steps) if inclusive else floor(steps) + 1


def _in_steps(least: Callable[[Fraction, bool], Least], boundary: Fraction, inclusive: bool) -> int:
    value, included, ratio = least(boundary, inclusive)
    if not isinstance(value, Fraction):
        return NEVER if value > 0 else ALWAYS
    return _identity(value, included) if ratio is None else _above_logarithm(ratio, value)


ACTIVATIONS: dict[str, Callable[[Fraction, bool], int]] = {
    a.name: partial(_in_steps, a.least) for a in activations.ACTIVATIONS.values() if a.least
}
"""Least pre-activation, in steps of 2^-192, whose activation reaches a boundary."""


def _above_logarithm(ratio: Fraction, factor: Fraction) -> int:
    """Least whole step above `factor * ln(ratio)`, which is irrational because `ratio` is rational and not 1."""
    digits = 80
    while True:
        context = Context(prec=digits)
        quotient = context.divide(Decimal(ratio.numerator), Decimal(ratio.denominator))
        logarithm = Fraction(context.ln(quotient))
        margin = (2 + abs(logarithm)) / 10 ** (digits - 1)  # both operations are correctly rounded to `digits`
        least, most = (int((logarithm + side) * factor * _ONE // 1) + 1 for side in (-margin, margin))
        if least == most:
            return least
        digits *= 2
