"""Number formats: the values that a wire carries, and how a number becomes a code.

A few-bit format is a table of values: encoding counts the thresholds at or below `x`, decoding looks up. Wide formats
implement the same two functions. Formats for gradients may have scales that blocks of neurons share, which cross
with the codes. The `encode` and `decode` here are the specification, in plain NumPy; the
kernels in `backends/` must give the same codes.

    >>> parse("binary").encode([-0.5, 0.0, 0.5]).tolist()
    [0, 1, 1]
    >>> parse("fixed<4,2>").quantize([0.3, 9.0]).tolist()
    [0.25, 1.75]
"""

from .base import MAX_TABLE_BITS, Codes, Floats, Format
from .fixed_point import OVERFLOWS, ROUNDINGS, FixedPoint, fixed, symmetric, ufixed
from .floating import Float, SmallFloat, bfloat16, e2m1, e4m3, e5m2, float16, float32, float64
from .scales import (
    NVFP4,
    Microscaling,
    PowerOfTwoScaled,
    ScaledFormat,
    SharedExponent,
    mxfp4,
    mxfp8_e4m3,
    mxfp8_e5m2,
    mxint8,
    nvfp4,
    shared,
)
from .spelling import NAMED, SPELLINGS, UnknownFormatError, parse, register
from .tables import Bernoulli, Table, bernoulli, binary, binary01, scaled, table, ternary

__all__ = [
    "MAX_TABLE_BITS",
    "NAMED",
    "NVFP4",
    "OVERFLOWS",
    "ROUNDINGS",
    "SPELLINGS",
    "Bernoulli",
    "Codes",
    "FixedPoint",
    "Float",
    "Floats",
    "Format",
    "Microscaling",
    "PowerOfTwoScaled",
    "ScaledFormat",
    "SharedExponent",
    "SmallFloat",
    "Table",
    "UnknownFormatError",
    "bernoulli",
    "bfloat16",
    "binary",
    "binary01",
    "e2m1",
    "e4m3",
    "e5m2",
    "fixed",
    "float16",
    "float32",
    "float64",
    "mxfp4",
    "mxfp8_e4m3",
    "mxfp8_e5m2",
    "mxint8",
    "nvfp4",
    "parse",
    "register",
    "scaled",
    "shared",
    "symmetric",
    "table",
    "ternary",
    "ufixed",
]
