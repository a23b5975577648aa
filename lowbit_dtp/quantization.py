"""How float weights become few-bit ones, and which power of two is their scale: arrays for `weight_formats`."""

from .backends import Array, backend_of
from .weight_formats import WeightFormat

TERNARY_THRESHOLD = 0.7
"""Weights below so many times the mean magnitude are 0: Li, Zhang, Liu, arXiv:1605.04711, eq. 6."""

_LEAST_SQUARES = {2: 1.26196, 3: 0.702212, 4: 0.39622, 5: 0.223739, 6: 0.125437, 7: 0.0696138, 8: 0.0382232}
"""By bits: times the root mean square of normal weights, the nearest power of two has the least squared error.

Below two thirds of it a power of two has a larger error than its double, and vice versa (compare J. Max, Quantizing for
minimum distortion, 1960, whose steps for 3 and 7 levels are 1.224 and 0.6508).
"""


def scale_of(fmt: WeightFormat, weights: Array) -> Array:
    """The scale [..., 1, 1] for `weights` [..., sources, neurons]: by the largest, else of least squares.

    That of least squares is the mean magnitude of binary weights (Rastegari et al., XNOR-Net, 2016, eq. 6), the mean
    magnitude of those that are not 0 of ternary ones, and of more bits what is best for normal weights; each rounded to
    the power of two with the least squared error.
    """
    xp = backend_of(weights)
    if fmt.scaling == "largest":  # what is nearest to 1.5 x is x or more, and at most 2 x
        largest = xp.largest(abs(weights).reshape((*weights.shape[:-2], -1)))[..., None]
        return xp.power_of_two(largest * (1.5 / fmt.highest))
    if fmt.levels == "binary":
        return xp.power_of_two(_mean(abs(weights)))
    if fmt.levels == "ternary":
        magnitude = abs(weights)
        mean = xp.clip(_mean(magnitude), 2.0**-64, 2.0**64)
        above = magnitude > TERNARY_THRESHOLD * mean
        share = _mean(above * mean) / mean
        return xp.power_of_two(_mean(magnitude * above) / xp.clip(share, 2.0**-32, 1.0))
    return xp.power_of_two(xp.sqrt(_mean(weights * weights)) * _LEAST_SQUARES[fmt.bits])


def quantize(fmt: WeightFormat, weights: Array, scale: Array) -> Array:
    """Level times `scale` for each of `weights`. Zero is binary +1."""
    if fmt.levels == "binary":
        return (weights >= 0) * (2 * scale) - scale
    if fmt.levels == "ternary" and fmt.scaling == "least-squares":
        threshold = TERNARY_THRESHOLD * _mean(abs(weights))
        return (weights > threshold) * scale - (weights < -threshold) * scale
    xp = backend_of(weights)
    return xp.clip(xp.round(weights / scale), -fmt.highest, fmt.highest) * scale


def _mean(x: Array) -> Array:
    """Over sources and neurons, [..., 1, 1]."""
    return x.reshape((*x.shape[:-2], -1)).mean(-1)[..., None, None]
