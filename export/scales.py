"""Weights of few bits rounded after training: a power-of-two scale for each layer, and biases that fit it.

Bits alone name no scale: `4` and `fixed(4)` are four bits, `binary` one and `ternary` two. Without calibration inputs,
the scale of a layer is the one that changes its weights least. With them, it is the one that changes its sums least,
each rounding error is made up for by the weights not yet rounded, and the biases correct what the mean of the sums has
changed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lowbit_dtp.activations import ACTIVATIONS
from lowbit_dtp.formats import FixedPoint, Format, parse
from lowbit_dtp.weight_formats import WeightFormat, parse_weights

if TYPE_CHECKING:
    from .fixed import FixedLayer, FixedLink, HiddenLayer, Integers, Levels

Floats = npt.NDArray[np.float32]

MOST_BITS = 16
"""Most bits of weights whose scale is chosen."""

OCTAVES = 9
"""Powers of two that are tried, down from the one that has the largest weight in range."""

EXPONENTS = (-64, 48)
"""Least and greatest exponent of a scale, so that `FixedPoint` can name it."""

DAMPING = 0.1
"""Mean variance of the inputs times so much is added to each, so that few calibration inputs are not fitted exactly."""

BLOCK = 64
"""Inputs whose weights are rounded before the errors reach the weights after them; for speed alone."""


def chosen_bits(text: str) -> int | None:
    """Bits of weights whose scale is to be chosen; None if `text` is a format that has a scale.

    >>> [chosen_bits(text) for text in ("4", "fixed(4)", "binary", "ternary", "fixed(4,1)", "binary01")]
    [4, 4, 1, 2, None, None]
    """
    named = {"binary": 1, "ternary": 2}
    if text in named:
        return named[text]
    found = re.fullmatch(r"(\d+)|fixed\((\d+)\)|fixed<(\d+)>", text.replace(" ", ""))
    if not found:
        return None
    bits, least = int(found[1] or found[2] or found[3]), 1 if found[1] else 2
    if not least <= bits <= MOST_BITS:
        raise ValueError(f"weights of {text}: a scale can be chosen for {least} to {MOST_BITS} bits")
    return bits


def weights_of_bits(bits: int) -> WeightFormat:
    """Weights of `bits` bits without their scale: 1 is binary, 2 ternary."""
    return WeightFormat({1: "binary", 2: "ternary"}.get(bits, f"fixed({bits})"), bits)


def number_format(text: str) -> str:
    """The format that a ledger has for weights of the format `text`: without a scale if one is chosen.

    >>> [number_format(text) for text in ("4", "1", "ternary", "fixed<8,1>")]
    ['fixed(4,1)', 'binary', 'ternary', 'fixed(8,1)']
    """
    bits = chosen_bits(text)
    return parse(text).name if bits is None else weights_of_bits(bits).number


def levels_number(levels: "Levels") -> str:
    """The format that a ledger has for weights of these levels, whatever their scale."""
    if isinstance(levels.format, FixedPoint) and levels.format.signed:
        return f"fixed({levels.bits},1)"
    return {(-1, 1): "binary", (-1, 0, 1): "ternary", (0, 1): "binary01"}.get(levels.values, levels.format.name)


def stated_format(text: str, layer: str) -> Format:
    """The format `text`, which has a scale, for the weights of `layer`. Fixed point saturates symmetrically."""
    if ":" in text:
        given = parse_weights(text)
        if given is None or not re.fullmatch(r"[\d.e+-]+", given.scaling):
            raise ValueError(
                f"weights of layer {layer}: {text}; a scale after a colon is a power of two, ternary:0.25 say; without "
                "a colon the export chooses it"
            )
        return given.with_scale(float(given.scaling))
    fmt = parse(text)
    if not isinstance(fmt, FixedPoint):
        return fmt
    if fmt.rounding != "nearest-even" or fmt.overflow == "wrap":
        raise ValueError(
            f"weights of layer {layer}: {fmt.name}; exported weights are rounded half to even and saturate "
            f"symmetrically, as {replace(fmt, rounding='nearest-even', overflow='saturate').name}"
        )
    return replace(fmt, overflow="saturate-symmetric")


def rounded(bits: int, weight: Floats, reached: "Calibration | None", below: "FixedLink") -> tuple[Format, Floats]:
    """The format of `bits` bits whose scale fits `weight` [below, neurons], and `weight` rounded to it."""
    if reached is None:
        fmt = _fitting(bits, weight, lambda values: float(np.square(weight - values).sum()))
        return fmt, _quantized(fmt, weight)
    change = reached.change_of_sums(below, weight)
    fmt = _fitting(bits, weight, change)
    # Where errors are made up for, few bits take a larger scale than rounding alone does.
    formats = [fmt, _with_scale(bits, _exponent(bits, fmt) + 1)]
    factor = shares(reached.covariance(below))
    choices = [(each, compensated(each, weight, factor)) for each in formats]
    return min(choices, key=lambda choice: change(choice[1]))


def _fitting(bits: int, weight: Floats, change: Callable[[Floats], float]) -> Format:
    """The format of `bits` bits, with the scale for which `change` of the rounded weights is least."""
    largest = float(np.abs(weight).max())
    top = ceil(log2(largest / weights_of_bits(bits).highest)) if largest else 0
    formats = {_with_scale(bits, top - octave).name: _with_scale(bits, top - octave) for octave in range(OCTAVES)}
    return min(formats.values(), key=lambda fmt: change(_quantized(fmt, weight)))


def _with_scale(bits: int, exponent: int) -> Format:
    low, high = EXPONENTS
    return weights_of_bits(bits).with_scale(2.0 ** min(max(exponent, low), high))


def _exponent(bits: int, fmt: Format) -> int:
    """Exponent of the scale of `fmt`, which `_with_scale` made."""
    return round(log2(fmt.largest / weights_of_bits(bits).highest))


def _quantized(fmt: Format, weight: npt.NDArray[Any]) -> Floats:
    values: Floats = fmt.quantize(weight).astype(np.float32)
    return values


def shares(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What the weights of each input take of the error of an earlier one, times a factor; [below, below], triangular.

    The upper Cholesky factor of the inverse of `covariance`, damped.
    """
    below = len(covariance)
    damping = DAMPING * float(np.trace(covariance)) / below or 1.0
    factor: npt.NDArray[np.float64] = np.linalg.cholesky(np.linalg.inv(covariance + damping * np.eye(below))).T
    return factor


def compensated(fmt: Format, weight: Floats, factor: npt.NDArray[np.float64]) -> Floats:
    """`weight` [below, neurons] rounded to `fmt`, one input after the other; those after it make up for each error.

    `factor` are the `shares` of the inputs. Frantar et al., GPTQ: accurate post-training quantization, ICLR 2023, eq. 2
    and 3 with the Cholesky factor of section 3.
    """
    left, values = weight.astype(np.float64), np.empty_like(weight)
    for start in range(0, len(weight), BLOCK):
        stop = min(start + BLOCK, len(weight))
        errors = np.empty((stop - start, weight.shape[1]))
        for i in range(start, stop):
            values[i] = _quantized(fmt, left[i])
            errors[i - start] = (left[i] - values[i]) / factor[i, i]
            left[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], errors[i - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return values


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration inputs where they reach a layer, in the trained network and in the integer one."""

    trained: Floats
    """Values [samples, below] that arrive in the trained network."""
    codes: "Integers"
    """Codes [samples, below] that arrive in the integer network."""

    @classmethod
    def arriving(cls, link: "FixedLink", state: npt.NDArray[Any], codes: "Integers") -> "Calibration":
        """What `link` carries where the trained network sends `state`, and the integer one `codes`."""
        sent = parse(link.trained)
        return cls(sent.decode(sent.encode(state), np.float32), codes)

    def change_of_sums(self, below: "FixedLink", weight: Floats) -> Callable[[Floats], float]:
        """Variance of the change of the sums of `weight` as a function of the weights instead.

        What is the same for all samples does not count, as biases correct it.
        """
        arriving, wanted = self._values(below), self.trained @ weight
        return lambda values: float((wanted - arriving @ values).var(0, np.float64).sum())

    def covariance(self, below: "FixedLink") -> npt.NDArray[np.float64]:
        """Covariance [below, below] of what arrives in the integer network."""
        values = self._values(below)
        return np.atleast_2d(np.cov(values, rowvar=False, bias=True))

    def corrected(self, layer: "FixedLayer", weight: Floats, bias: Floats) -> Floats:
        """`bias` plus the mean change of the sums of `layer`, whose weights were `weight`."""
        exact = layer.sums(self.codes).mean(0) * 2.0**layer.exponent
        shifted: Floats = (bias + (self.trained @ weight).mean(0, np.float64) - exact).astype(np.float32)
        return shifted

    def through(self, layer: "HiddenLayer", state: npt.NDArray[Any]) -> "Calibration":
        """What reaches the layer above `layer`, of which the trained network has the outputs `state`."""
        return self.arriving(layer.above, state, layer.codes(layer.sums(self.codes)))

    def _values(self, below: "FixedLink") -> Floats:
        values: Floats = (below.levels.by_code[self.codes] * 2.0**below.levels.exponent).astype(np.float32)
        return values


def has_thresholds(layer: Mapping[str, Any]) -> bool:
    """Whether the neurons of a layer were imported with thresholds, in place of a bias and an activation."""
    return any(row["kind"] == "thresholded" for row in layer.get("inputs", {}).values())


def trained_state(layer: Mapping[str, Any], tensors: Mapping[str, Any], sums: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Outputs [batch, neurons] of `layer`, of a trained network's description, for its pre-activations `sums`."""
    function = ACTIVATIONS[layer["activation"]].function
    if function is None:
        raise ValueError(f"layer {layer['name']}: its activation {layer['activation']} cannot be simulated")
    state: npt.NDArray[Any] = function(sums)
    if has_thresholds(layer):
        thresholds, levels = (tensors[f"{layer['name']}.{part}"] for part in ("thresholds", "levels"))
        ranks = [np.searchsorted(row, column, side="right") for row, column in zip(thresholds, state.T, strict=True)]
        state = levels.astype(sums.dtype)[np.stack(ranks, -1)]
    return state
