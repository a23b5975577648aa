"""Compute: the cost of an operation, by the formats of its operands.

Formats whose values are only -1, 0 and +1, times a scale, need no multiplier:

| multiply-accumulate | is |
|---|---|
| binary x binary | one XNOR-popcount (AND-popcount for {0,1}); two where one side is ternary: a sign and a mask |
| binary or ternary x float32 | a float32 addition |
| binary or ternary x fixed point | an addition as wide as the accumulator |
| fixed point x fixed point | a multiplication, and an addition as wide as the accumulator |
| any other x float32 | a float32 multiplication and addition; the other operand is converted, which is not charged |
| bfloat16 x bfloat16, or float16 | a multiplication of that format and a float32 addition, where both are known |

Where a technology has a cost of the whole, `multiply-accumulate int8` or `multiply-accumulate float32` say, that takes
the place of a multiplication and an addition.

Your own format with other values is priced as float32.
"""

import re
from itertools import pairwise
from math import sqrt

from lowbit_dtp.formats import Bernoulli, FixedPoint, Float, Format, SharedExponent, SmallFloat, Table, parse
from lowbit_dtp.ledger import Work

from .technology import Technology, Term

IN_MEMORY = "in-memory multiply-accumulate"
"""Constant of a product in the memory that holds its weights: reading them is included."""
UNIT = r"multiply-accumulate int(\d+)"
"""Constants of a whole integer multiply-accumulate, its sum included; 45nm and 7nm have none."""


def work_terms(
    work: Work, times: int, technology: Technology, accumulator_bits: int, in_memory: bool = False
) -> tuple[Term, ...]:
    """Cost of doing `work` `times` times, with integer sums `accumulator_bits` wide; `in_memory`, products cost one."""
    operands = [parse(name) for name in (work.left, work.right) if name]
    needed_by = f"{work.operation} of {' x '.join(map(str, operands))} in layer {work.layer}"
    if in_memory and work.operation == "multiply-accumulate":
        return (Term(technology.constant(IN_MEMORY, needed_by), times),)
    events = _events(work.operation, operands, technology, accumulator_bits)
    return tuple(Term(technology.constant(name, needed_by), number * times) for name, number in events)


def _events(
    operation: str, operands: list[Format], technology: Technology, accumulator_bits: int
) -> list[tuple[str, float]]:
    """Names of the constants that one operation needs, and how often each."""
    number = _float(operands, technology)
    if operation == "multiply-accumulate":
        if small := _small_float(operands, technology):
            return [(f"multiply {small}", 1.0), ("add float32", 1.0)]
        multiplied = [fmt for fmt in operands if not _needs_no_multiplier(fmt)]
        if not multiplied:
            return [("xnor-popcount", max(fmt.bits for fmt in operands))]
        if len(multiplied) == len(operands) and (unit := _unit(operands, number, technology)):
            return [(unit, 1.0)]
        accumulate = [(f"add {number}", 1.0)] if number else _integer_add(accumulator_bits, technology)
        return accumulate if len(multiplied) < len(operands) else _multiply(operands, technology) + accumulate
    if operation == "multiply":
        return _multiply(operands, technology)
    if operation == "add" and not number:
        return _integer_add(max(fmt.bits for fmt in operands), technology)
    if operation != "add" and not any(isinstance(fmt, Float) for fmt in operands):
        number = "float32"  # functions are computed in floating point, of 32 bits at least
    return [(f"{operation} {number}", 1.0)]


def _unit(operands: list[Format], number: str, technology: Technology) -> str:
    """The constant of a whole multiply-accumulate, in the narrowest unit that fits both operands; empty if none."""
    if number:
        name = f"multiply-accumulate {number}"
        return name if name in technology.constants else ""
    widths = [int(found[1]) for name in technology.constants if (found := re.fullmatch(UNIT, name))]
    fitting = [width for width in widths if width >= max(fmt.bits for fmt in operands)]
    return f"multiply-accumulate int{min(fitting)}" if fitting else ""


def _needs_no_multiplier(fmt: Format) -> bool:
    """Whether all values of `fmt` are -1, 0 or +1 times one scale."""
    if isinstance(fmt, FixedPoint):
        return fmt.lowest_level >= -1 and fmt.highest_level <= 1
    if isinstance(fmt, SharedExponent):
        return _needs_no_multiplier(fmt.element)
    if isinstance(fmt, Bernoulli):
        return True
    return isinstance(fmt, Table) and {abs(value) for value in fmt.values} <= {0.0, fmt.largest}


def _float(operands: list[Format], technology: Technology) -> str:
    """Name of the floating-point format of the operation; empty if all operands are integers times a scale.

    A small float is computed as it is where `technology` adds and multiplies such numbers, else as float32.
    """
    floats = [fmt for fmt in operands if isinstance(fmt, Float)]
    if floats:
        return max(floats, key=lambda fmt: fmt.bits).name
    others = {
        fmt.name if isinstance(fmt, SmallFloat) else ""
        for fmt in operands
        if not (isinstance(fmt, FixedPoint | SharedExponent) or _needs_no_multiplier(fmt))
    }
    if not others:
        return ""
    name = others.pop()
    known = not others and all(f"{each} {name}" in technology.constants for each in ("add", "multiply"))
    return name if known else "float32"


def _small_float(operands: list[Format], technology: Technology) -> str:
    """Name of the float of 16 bits or fewer that both operands have, if the technology multiplies it."""
    name = operands[0].name
    alike = isinstance(operands[0], SmallFloat) and operands[-1].name == name
    return name if alike and f"multiply {name}" in technology.constants else ""


def _multiply(operands: list[Format], technology: Technology) -> list[tuple[str, float]]:
    """One multiplication: an array of a x b one-bit adders, so the cost of one of sqrt(ab) x sqrt(ab) bits."""
    if number := _float(operands, technology):
        return [(f"multiply {number}", 1.0)]
    left, right = operands[0].bits, operands[-1].bits
    if left == right and f"multiply int{left}" in technology.constants:
        return [(f"multiply int{left}", 1.0)]
    return [("multiply integer, squared", left * right), ("multiply integer", sqrt(left * right))]


def _integer_add(bits: int, technology: Technology) -> list[tuple[str, float]]:
    """One addition `bits` wide: a constant of that width, a straight line between two widths, or so much a bit."""
    widths = sorted(
        int(name.removeprefix("add int")) for name in technology.constants if re.fullmatch(r"add int\d+", name)
    )
    if bits in widths:
        return [(f"add int{bits}", 1.0)]
    for narrow, wide in pairwise(widths):
        if narrow < bits < wide:
            part = (bits - narrow) / (wide - narrow)
            return [(f"add int{narrow}", 1 - part), (f"add int{wide}", part)]
    return [("add integer", float(bits))]
