"""Vectors of numbers for Numba kernels: a type whose values are `lanes` numbers, and what can be done with them.

A kernel loads a vector from a flat array, calculates with `+ - * / & | ^ << >>` and the functions here, and stores it:

    load = loader(types.float32, 64)

    @kernel
    def double(x, y):
        for i in range(0, x.size, 64):
            v = load(x, i)
            store(y, i, v + v)

Vectors may be wider than those of the machine: LLVM cuts <64 x float> into four registers of AVX-512, eight of AVX2 or
sixteen of NEON, and does without where there are none, so the kernels are correct for every target. Nothing checks
bounds. Numba alone leaves loops over more than a few arrays scalar, which is why this is here.
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable


class Vector(types.Type):
    """The Numba type of `lanes` numbers of type `element`."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vector({element}, {lanes})")

    @property
    def ir(self) -> ir.VectorType:
        """The vector in LLVM's words."""
        return ir.VectorType(_element(self.element), self.lanes)

    @property
    def suffix(self) -> str:
        """How the names of LLVM's functions tell the vector: `v16f32`."""
        kind = "f" if isinstance(self.element, types.Float) else "i"
        return f"v{self.lanes}{kind}{self.element.bitwidth}"


def _element(number: types.Type) -> ir.Type:
    if number == types.boolean:
        return ir.IntType(1)
    if isinstance(number, types.Float):
        return ir.FloatType() if number.bitwidth == 32 else ir.DoubleType()
    return ir.IntType(number.bitwidth)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.ir)


# --- memory -----------------------------------------------------------------------------------------------------------


def _address(context: Any, builder: Any, array_type: types.Array, array: Any, index: Any, vector: Vector) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.ir.as_pointer())


def loader(element: types.Type, lanes: int) -> Any:
    """`load(array, i)`: the `lanes` numbers that begin at `array[i]`, as a vector; `element` is the array's type."""
    vector = Vector(element, lanes)

    @intrinsic
    def load(typing, array, i):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            address = _address(context, builder, signature.args[0], arguments[0], arguments[1], vector)
            return builder.load(address, align=1)

        return vector(array, types.intp), generate

    return load


@intrinsic
def fetch(typing, array, i):  # type: ignore[no-untyped-def]
    """`array[i]` of a flat array, for an `i` that is not negative: Numba would look whether it is."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.gep(data, [arguments[1]]))

    return array.dtype(array, types.intp), generate


@intrinsic
def store(typing, array, i, vector):  # type: ignore[no-untyped-def]
    """Write `vector` to `array[i]` and what follows."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array, i, value = arguments
        builder.store(value, _address(context, builder, signature.args[0], array, i, signature.args[2]), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def prefetch(typing, array, i):  # type: ignore[no-untyped-def]
    """Have the cache line of `array[i]` read, for later. An `i` beyond the array does no harm."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        to_read, to_keep, of_data = (ir.Constant(ir.IntType(32), n) for n in (0, 3, 1))
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), (address, to_read, to_keep, of_data))
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def turn(typing, x, i, step, y, j, row):  # type: ignore[no-untyped-def]
    """Write eight rows of eight float32, `step` apart from `x[i]` on, as eight columns to `y[j]` on, `row` apart."""
    vector, whole = Vector(types.float32, 8), types.intp

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        x, i, step, y, j, row = arguments
        rows = []
        for _ in range(8):
            rows.append(builder.load(_address(context, builder, signature.args[0], x, i, vector), align=1))
            i = builder.add(i, step)
        for distance in (1, 2, 4):  # of numbers that change places: across the diagonal of each square of two by two
            for a in range(8):
                if not a & distance:
                    pair = rows[a], rows[a | distance]
                    for part in (0, distance):
                        which = [(k & ~distance | part) + (8 if k & distance else 0) for k in range(8)]
                        mask = ir.Constant(ir.VectorType(ir.IntType(32), 8), which)
                        rows[a | part] = builder.shuffle_vector(*pair, mask)
        for column in rows:
            builder.store(column, _address(context, builder, signature.args[3], y, j, vector), align=1)
            j = builder.add(j, row)
        return context.get_dummy_value()

    return types.void(x, whole, whole, y, whole, whole), generate


def splatter(element: types.Type, lanes: int) -> Any:
    """`splat(x)`: a vector of `lanes` times `x`."""
    vector = Vector(element, lanes)

    @intrinsic
    def splat(typing, x):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return _splat(builder, arguments[0], vector)

        return vector(element), generate

    return splat


def spreader(element: types.Type, lanes: int) -> Any:
    """`spread(array, i)`: a vector of `lanes` times `array[i]`; unlike in Numba, `i` never counts from the end."""
    vector = Vector(element, lanes)

    @intrinsic
    def spread(typing, array, i):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            return _splat(builder, builder.load(builder.gep(data, [arguments[1]])), vector)

        return vector(array, types.intp), generate

    return spread


def _splat(builder: Any, x: Any, vector: Vector) -> Any:
    undefined = ir.Constant(vector.ir, ir.Undefined)
    first = builder.insert_element(undefined, x, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), None))


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _lanewise(symbol: Callable, floating: str | None, signed: str, unsigned: str) -> None:
    """Let `symbol` between two vectors of one type be an instruction of LLVM, by the kind of number."""

    @type_callable(symbol)
    def typed(context):  # type: ignore[no-untyped-def]
        return lambda a, b: a if isinstance(a, Vector) and a == b else None

    @lower_builtin(symbol, Vector, Vector)
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        number = signature.return_type.element
        name = floating if isinstance(number, types.Float) else signed if getattr(number, "signed", False) else unsigned
        return getattr(builder, name)(*arguments)


_lanewise(operator.add, "fadd", "add", "add")
_lanewise(operator.sub, "fsub", "sub", "sub")
_lanewise(operator.mul, "fmul", "mul", "mul")
_lanewise(operator.truediv, "fdiv", "sdiv", "udiv")
_lanewise(operator.and_, None, "and_", "and_")
_lanewise(operator.or_, None, "or_", "or_")
_lanewise(operator.xor, None, "xor", "xor")
_lanewise(operator.lshift, None, "shl", "shl")
_lanewise(operator.rshift, None, "ashr", "lshr")


def _function(name: str, arity: int) -> Any:
    """A function of LLVM over vectors of one type, which gives one more of it."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        vector = signature.return_type
        return _call(builder, f"llvm.{name}.{vector.suffix}", vector.ir, arguments)

    if arity == 1:

        @intrinsic
        def function(typing, a):  # type: ignore[no-untyped-def]
            return a(a), generate
    else:

        @intrinsic
        def function(typing, a, b, c):  # type: ignore[no-untyped-def]
            return a(a, a, a), generate

    return function


def _call(builder: Any, name: str, result: ir.Type, arguments: Any) -> Any:
    known = builder.module.globals.get(name)
    return builder.call(
        known or ir.Function(builder.module, ir.FunctionType(result, [x.type for x in arguments]), name), arguments
    )


fma = _function("fmuladd", 3)
"""`a * b + c`, rounded once where the machine can."""
sqrt = _function("sqrt", 1)
popcount = _function("ctpop", 1)
"""Bits set, lane by lane."""


@intrinsic
def total(typing, a):  # type: ignore[no-untyped-def]
    """Sum of the lanes of a vector of integers."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        vector = signature.args[0]
        return _call(builder, f"llvm.vector.reduce.add.{vector.suffix}", _element(vector.element), arguments)

    return a.element(a), generate


# --- masks and conversions --------------------------------------------------------------------------------------------


def _comparison(symbol: str) -> Any:
    @intrinsic
    def compare(typing, a, b):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            number = signature.args[0].element
            if isinstance(number, types.Float):
                compared = builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered
            else:
                compared = builder.icmp_signed if number.signed else builder.icmp_unsigned
            return compared(symbol, *arguments)

        return Vector(types.boolean, a.lanes)(a, a), generate

    return compare


at_least = _comparison(">=")
"""Mask of the lanes in which `a >= b`; NaN is not."""
less = _comparison("<")
differs = _comparison("!=")
"""Mask of the lanes in which `a != b`; NaN differs from all, itself included."""


@intrinsic
def select(typing, mask, a, b):  # type: ignore[no-untyped-def]
    """`a` where `mask`, else `b`."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.select(*arguments)

    return a(mask, a, a), generate


@intrinsic
def bits_of(typing, mask):  # type: ignore[no-untyped-def]
    """A mask of 8, 16, 32 or 64 lanes as an unsigned number, lane 0 in the least significant bit."""
    number = {8: types.uint8, 16: types.uint16, 32: types.uint32, 64: types.uint64}[mask.lanes]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], _element(number))

    return number(mask), generate


@intrinsic
def mask_of(typing, bits):  # type: ignore[no-untyped-def]
    """The mask of which `bits_of` made the unsigned number `bits`."""
    mask = Vector(types.boolean, bits.bitwidth)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], mask.ir)

    return mask(bits), generate


def converter(element: types.Type) -> Any:
    """`convert(a)`: the lanes of a vector as numbers of type `element`; between widths, unsigned ones gain zeros."""

    @intrinsic
    def convert(typing, a):  # type: ignore[no-untyped-def]
        to = Vector(element, a.lanes)
        number = a.element
        if isinstance(number, types.Float):
            name = "fptosi" if element.signed else "fptoui"
        elif isinstance(element, types.Float):
            name = "sitofp" if number.signed else "uitofp"
        elif element.bitwidth < number.bitwidth:
            name = "trunc"
        else:
            name = "sext" if number.signed else "zext"

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return getattr(builder, name)(arguments[0], to.ir)

        return to(a), generate

    return convert


def reader(element: types.Type, lanes: int) -> Any:
    """`read(a)`: the bits of a vector, read as `lanes` numbers of type `element`."""
    vector = Vector(element, lanes)

    @intrinsic
    def read(typing, a):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return builder.bitcast(arguments[0], vector.ir)

        return vector(a), generate

    return read


@intrinsic
def lowest_bit(typing, bits):  # type: ignore[no-untyped-def]
    """Position of the lowest bit set in an unsigned number; its width if none is."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.zext(builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0)), ir.IntType(64))

    return types.int64(bits), generate


# --- the target in effect ---------------------------------------------------------------------------------------------

_PROBE = """
declare <16 x i64> @llvm.ctpop.v16i64(<16 x i64>)
declare i32 @llvm.vector.reduce.add.v64i32(<64 x i32>)
define <16 x i64> @count(<16 x i64> %a) {
  %r = call <16 x i64> @llvm.ctpop.v16i64(<16 x i64> %a)
  ret <16 x i64> %r
}
define i32 @dot(<64 x i8> %a, <64 x i8> %b) {
  %x = zext <64 x i8> %a to <64 x i32>
  %y = sext <64 x i8> %b to <64 x i32>
  %z = mul nsw <64 x i32> %x, %y
  %r = call i32 @llvm.vector.reduce.add.v64i32(<64 x i32> %z)
  ret i32 %r
}
"""


_BYTE_PRODUCTS = {  # by how the assembler writes them; the first found is used
    r"vpdpbusd .*%zmm": ("llvm.x86.avx512.vpdpbusd.512", 512),
    r"vpdpbusd .*%ymm": ("llvm.x86.avx512.vpdpbusd.256", 256),
    r"pmaddwd .*%zmm": ("llvm.x86.avx512.pmaddw.d.512", 512),
    r"pmaddwd .*%ymm": ("llvm.x86.avx2.pmadd.wd", 256),
    r"pmaddwd .*%xmm": ("llvm.x86.sse2.pmadd.wd", 128),
}
"""Functions of LLVM that sum products, and the bits of their registers: of four bytes, then of two 16-bit numbers."""


@dataclass(frozen=True)
class Target:
    """What Numba compiles for: bits of a register, whether one instruction counts bits, which one multiplies bytes."""

    register_bits: int
    counts_bits: bool
    byte_products: tuple[str, int] | None

    @property
    def looks_up(self) -> bool:
        """Whether there is AVX2, whose byte shuffle is a look-up in tables of 16: whole numbers in wide registers."""
        return self.register_bits >= 256


@cache
def target() -> Target:
    """The target in effect, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES may have set: what LLVM makes of two lines."""
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=name, features=features, opt=3)
    code = machine.emit_assembly(binding.parse_assembly(_PROBE)).replace("\t", " ")
    products = next((function for line, function in _BYTE_PRODUCTS.items() if re.search(line, code)), None)
    bits = max((bits for line, (_, bits) in _BYTE_PRODUCTS.items() if re.search(line, code)), default=128)
    return Target(bits, "vpopcntq" in code, products)


def _dot4(small: bool) -> Any:
    @intrinsic
    def dot4(typing, sums, a, b):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            sums, a, b = arguments
            name, register = target().byte_products or ("", 32)
            whole, halves = sums.type.count * 32 % register == 0, ir.VectorType(ir.IntType(16), register // 16)
            if whole and "vpdpbusd" in name:
                return _by_registers(builder, name, register, arguments)
            if whole and small and name in _SMALL_BYTE_PRODUCTS:
                bytes_ = ir.VectorType(ir.IntType(8), register // 8)
                pairs = _by_registers(builder, _SMALL_BYTE_PRODUCTS[name], register, (a, b), bytes_, halves)
                ones = ir.Constant(sums.type, [0x00010001] * sums.type.count)
                return builder.add(sums, _by_registers(builder, name, register, (pairs, ones), halves))
            for x, y in _halves(builder, a, b):
                if whole and "pmadd" in name:
                    products = _by_registers(builder, name, register, (x, y), halves)
                else:
                    products = _pair_products(builder, x, y)
                sums = builder.add(sums, products)
            return sums

        return sums(sums, a, b), generate

    return dot4


_SMALL_BYTE_PRODUCTS = {
    "llvm.x86.avx512.pmaddw.d.512": "llvm.x86.avx512.pmaddubs.w.512",
    "llvm.x86.avx2.pmadd.wd": "llvm.x86.avx2.pmadd.ub.sw",
}
"""What multiplies bytes and sums pairs of products in 16 bits, where there is what sums pairs of those in 32."""

dot4 = _dot4(small=False)
"""`dot4(sums, a, b)`: lane by lane, `sums` + the products of four unsigned bytes of `a` with four signed of `b`."""
dot4_small = _dot4(small=True)
"""`dot4`, sooner on some targets, of bytes of `a` below 128."""


def looker(lanes: int) -> Any:
    """`look_up(tables, i, index)`: for each of `lanes` uint8 below 16, that entry of the 16 at `tables[i]`. AVX2."""
    vector = Vector(types.uint8, lanes)
    table, twice = ir.VectorType(ir.IntType(8), 16), ir.Constant(ir.VectorType(ir.IntType(32), 32), [*range(16)] * 2)

    @intrinsic
    def look_up(typing, tables, i, index):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.bitcast(builder.gep(data, [arguments[1]]), table.as_pointer())
            entries = builder.shuffle_vector(builder.load(address, align=1), ir.Constant(table, ir.Undefined), twice)
            looked_up, index = [], arguments[2]
            for first in range(0, lanes, 32):
                which = ir.Constant(twice.type, list(range(first, first + 32)))
                part = builder.shuffle_vector(index, ir.Constant(index.type, ir.Undefined), which)
                looked_up.append(_call(builder, "llvm.x86.avx2.pshuf.b", entries.type, (entries, part)))
            return _joined(builder, looked_up)

        return vector(tables, types.intp, vector), generate

    return look_up


def _by_registers(
    builder: Any, name: str, register: int, vectors: Any, read_as: ir.Type | None = None, gives: ir.Type | None = None
) -> Any:
    """A function of LLVM for one width of register, over wider vectors of 32-bit lanes; its own types may be others."""
    result, parts = ir.VectorType(ir.IntType(32), register // 32), []
    for first in range(0, vectors[0].type.count, result.count):
        which = ir.Constant(result, list(range(first, first + result.count)))
        cut = [builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), which) for v in vectors]
        part = _call(builder, name, gives or result, [builder.bitcast(v, read_as or result) for v in cut])
        parts.append(builder.bitcast(part, result))
    return _joined(builder, parts)


def _joined(builder: Any, parts: list[Any]) -> Any:
    """One vector of some, whose number is a power of 2."""
    while len(parts) > 1:
        lanes = 2 * parts[0].type.count
        which = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(lanes)))
        parts = [builder.shuffle_vector(a, b, which) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _halves(builder: Any, a: Any, b: Any) -> Any:
    """Bytes 0 and 2 of each lane, then 1 and 3, as 16-bit numbers whose products cannot overflow; `b` is signed."""
    halves = ir.VectorType(ir.IntType(16), 2 * a.type.count)
    byte, low = (ir.Constant(halves, [n] * halves.count) for n in (8, 255))
    x, y = builder.bitcast(a, halves), builder.bitcast(b, halves)
    even = builder.and_(x, low), builder.ashr(builder.shl(y, byte), byte)
    odd = builder.lshr(x, byte), builder.ashr(y, byte)
    return [[builder.bitcast(v, a.type) for v in both] for both in (even, odd)]


def _pair_products(builder: Any, x: Any, y: Any) -> Any:
    """Sum of the products of two signed 16-bit numbers in each lane of 32 bits."""
    half = ir.Constant(x.type, [16] * x.type.count)
    low = [builder.ashr(builder.shl(v, half), half) for v in (x, y)]
    return builder.add(builder.mul(*low), builder.mul(*(builder.ashr(v, half) for v in (x, y))))
