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
        """Name of the vector in names of LLVM functions: `v16f32`."""
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
        _prefetch(builder, builder.gep(data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _prefetch(builder: Any, address: Any) -> None:
    address = builder.bitcast(address, ir.IntType(8).as_pointer())
    to_read, to_keep, of_data = (ir.Constant(ir.IntType(32), n) for n in (0, 3, 1))
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), (address, to_read, to_keep, of_data))


def gatherer(element: types.Type, lanes: int) -> Any:
    """`gather(array, i, stride)`: `array[i]`, `array[i + stride]` and so on, as a vector; `array` may be of others."""
    vector = Vector(element, lanes)

    @intrinsic
    def gather(typing, array, i, stride):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            data = builder.gep(_data(context, builder, signature, arguments, 0), [arguments[1]])
            gathered = ir.Constant(vector.ir, ir.Undefined)
            for lane in range(lanes):
                number = _read(builder, _past(builder, data, arguments[2], lane), 0, vector.ir.element)
                gathered = builder.insert_element(gathered, number, ir.Constant(ir.IntType(32), lane))
            return gathered

        return vector(array, types.intp, types.intp), generate

    return gather


@intrinsic
def scatter(typing, array, i, stride, vector):  # type: ignore[no-untyped-def]
    """Write the lanes of `vector` to `array[i]`, `array[i + stride]` and so on; `array` may be of other numbers."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = builder.gep(_data(context, builder, signature, arguments, 0), [arguments[1]])
        for lane in range(signature.args[3].lanes):
            number = builder.extract_element(arguments[3], ir.Constant(ir.IntType(32), lane))
            place = _past(builder, data, arguments[2], lane)
            builder.store(number, builder.bitcast(place, number.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


@intrinsic
def turned(typing, vector):  # type: ignore[no-untyped-def]
    """A vector of 64 lanes, read as 8 rows of 8, with rows for columns."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        order = ir.Constant(ir.VectorType(ir.IntType(32), 64), [8 * (i % 8) + i // 8 for i in range(64)])
        return builder.shuffle_vector(arguments[0], ir.Constant(vector.ir, ir.Undefined), order)

    return vector(vector), generate


@intrinsic
def turn_rows(typing, numbers, i, stride, out, to, step):  # type: ignore[no-untyped-def]
    """Write 8 rows of 8 numbers of 32 bits, `stride` apart from `numbers[i]` on, as columns from `out[to]` on."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, target = (
            builder.gep(_data(context, builder, signature, arguments, k), [arguments[k + 1]]) for k in (0, 3)
        )
        rows = [_read(builder, _past(builder, source, arguments[2], k), 0, _MASKS.ir) for k in range(8)]
        for apart in (4, 2, 1):  # swap blocks of so many rows and columns across the diagonal
            order = [
                [i if not i & apart else 8 + (i ^ apart) for i in range(8)],
                [i | apart if not i & apart else 8 + i for i in range(8)],
            ]
            orders = [ir.Constant(_MASKS.ir, which) for which in order]
            for k in range(8):
                if not k & apart:
                    both = rows[k], rows[k | apart]
                    rows[k], rows[k | apart] = (builder.shuffle_vector(*both, which) for which in orders)
        for k, row in enumerate(rows):
            place = _past(builder, target, arguments[5], k)
            builder.store(row, builder.bitcast(place, row.type.as_pointer()), align=1)
        return context.get_dummy_value()

    place = types.intp
    return types.void(numbers, place, place, out, place, place), generate


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
    """The target in effect, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES may have set, from LLVM's output."""
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


# --- bits of 64 numbers -----------------------------------------------------------------------------------------------

_FLOATS, _MASKS = Vector(types.float32, 8), Vector(types.int32, 8)


@intrinsic
def signs(typing, array, i, least, met):  # type: ignore[no-untyped-def]
    """Of 64 float32 from `array[i]` on, a bit each: whether it is at least `least`; and `met`, -1 where a NaN was met.

    `bits_of(at_least(...))` for AVX2: masks are packed to bytes, whose highest bits are the word.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = builder.gep(_data(context, builder, signature, arguments, 0), [arguments[1]])
        least, met = arguments[2:]
        order = ir.Constant(_MASKS.ir, [0, 4, 1, 5, 2, 6, 3, 7])  # packing takes halves of registers in turn
        halves = []
        for half in (0, 32):
            numbers = [_read(builder, data, half + first, _FLOATS.ir) for first in range(0, 32, 8)]
            for pair in (numbers[:2], numbers[2:]):
                met = builder.or_(met, builder.sext(builder.fcmp_unordered("uno", *pair), _MASKS.ir))
            masks = [builder.sext(builder.fcmp_ordered(">=", number, least), _MASKS.ir) for number in numbers]
            shorts = [_call(builder, "llvm.x86.avx2.packssdw", _SHORTS, masks[k : k + 2]) for k in (0, 2)]
            packed = builder.bitcast(_call(builder, "llvm.x86.avx2.packsswb", _OCTETS, shorts), _MASKS.ir)
            turned = builder.shuffle_vector(packed, ir.Constant(_MASKS.ir, ir.Undefined), order)
            bits = _call(builder, "llvm.x86.avx2.pmovmskb", ir.IntType(32), [builder.bitcast(turned, _OCTETS)])
            halves.append(builder.zext(bits, ir.IntType(64)))
        word = builder.or_(halves[0], builder.shl(halves[1], ir.Constant(ir.IntType(64), 32)))
        return context.make_tuple(builder, signature.return_type, (word, met))

    return types.Tuple((types.uint64, _MASKS))(array, types.intp, _FLOATS, _MASKS), generate


_SHORTS, _OCTETS = ir.VectorType(ir.IntType(16), 16), ir.VectorType(ir.IntType(8), 32)


# --- sums that stay in registers --------------------------------------------------------------------------------------
#
# These loops keep as many sums as there are registers, which a compiler does not manage by itself.


def _past(builder: Any, data: Any, offset: Any, times: int = 1) -> Any:
    """The address `offset`, of Python or the kernel, times `times` behind `data`."""
    word = ir.IntType(64)
    if isinstance(offset, int):
        return builder.gep(data, [ir.Constant(word, offset * times)])
    return builder.gep(data, [builder.mul(offset, ir.Constant(word, times))])


def _data(context: Any, builder: Any, signature: Any, arguments: Any, i: int) -> Any:
    return context.make_array(signature.args[i])(context, builder, arguments[i]).data


def _read(builder: Any, data: Any, offset: int, vector: ir.Type) -> Any:
    return builder.load(builder.bitcast(_past(builder, data, offset), vector.as_pointer()), align=1)


def _add_to(builder: Any, data: Any, offset: int, sums: Any) -> None:
    place = builder.bitcast(_past(builder, data, offset), sums.type.as_pointer())
    builder.store(builder.add(builder.load(place, align=1), sums), place, align=1)


def _looped(builder: Any, count: Any, first: list[Any], step: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Values after `step(index, values)` for `count` (1 or more) indices from 0, starting from `first`."""
    before, body = builder.block, builder.append_basic_block("loop")
    builder.branch(body)
    builder.position_at_end(body)
    index, values = builder.phi(count.type), [builder.phi(value.type) for value in first]
    index.add_incoming(ir.Constant(count.type, 0), before)
    after = step(index, values)
    following = builder.add(index, ir.Constant(count.type, 1))
    index.add_incoming(following, builder.block)
    for phi, start, end in zip(values, first, after, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(end, builder.block)
    done = builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed("<", following, count), body, done)
    builder.position_at_end(done)
    return after


def pairs_summer(rows: int, registers: int) -> Any:
    """`add(codes, at, between, weights, first, steps, sums)`: sums of products of bytes, in 16 bits.

    In each of `steps` (1 or more) steps four unsigned bytes of each of `rows` rows of `codes`, which begin at `at` and
    `between` apart, are multiplied with four signed ones of each of `weights`, from `first` on; both are kept as
    uint32. The sums, of which each half fits in 16 bits, are added to int32 `sums` [rows, weights of a step]. AVX2.
    """
    bits = min(target().register_bits, 512)
    shorts, whole = ir.VectorType(ir.IntType(16), bits // 16), ir.VectorType(ir.IntType(32), bits // 32)
    bytes_ = ir.VectorType(ir.IntType(8), bits // 8)
    multiply, gather = {
        256: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
        512: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
    }.get(bits, ("", ""))

    @intrinsic
    def add(typing, codes, at, between, weights, first, steps, sums):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            codes, weights, sums = (_data(context, builder, signature, arguments, i) for i in (0, 3, 6))
            at, between, first, steps = (arguments[i] for i in (1, 2, 4, 5))
            codes, weights = builder.gep(codes, [at]), builder.gep(weights, [first])
            starts = [_past(builder, codes, between, row) for row in range(rows)]

            def step(k, sums):  # type: ignore[no-untyped-def]
                here = _past(builder, weights, k, registers * whole.count)
                factors = [_read(builder, here, i * whole.count, bytes_) for i in range(registers)]
                products = []
                for start in starts:
                    four = _splat(builder, builder.load(builder.gep(start, [k])), Vector(types.uint32, whole.count))
                    four = builder.bitcast(four, bytes_)
                    products += [_call(builder, multiply, shorts, (four, factor)) for factor in factors]
                return [builder.add(value, more) for value, more in zip(sums, products, strict=True)]

            found = _looped(builder, steps, [ir.Constant(shorts, None)] * (rows * registers), step)
            ones = ir.Constant(shorts, [1] * shorts.count)
            for i, value in enumerate(found):
                _add_to(builder, sums, i * whole.count, _call(builder, gather, whole, (value, ones)))
            return context.get_dummy_value()

        place = types.intp
        return types.void(codes, place, place, weights, place, place, sums), generate

    return add


# A byte shuffle looks LOOKED_UP numbers below 16 up in a table of 16 bytes at once.

LOOKED_UP = 64 if target().register_bits >= 512 else 32
"""Numbers that one shuffle looks up: bytes of a register."""
_BYTES, _HALVES = ir.VectorType(ir.IntType(8), LOOKED_UP), ir.VectorType(ir.IntType(16), LOOKED_UP)
_PAIRS = ir.VectorType(ir.IntType(16), LOOKED_UP // 2)


def _look_up(builder: Any, table: Any, index: Any) -> Any:
    name = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}[LOOKED_UP]
    return _call(builder, name, _BYTES, (table, index))


def _table(builder: Any, address: Any) -> Any:
    """The 16 bytes at `address`, as often as they fit in a register."""
    sixteen = ir.VectorType(ir.IntType(8), 16)
    which = ir.Constant(ir.VectorType(ir.IntType(32), LOOKED_UP), [*range(16)] * (LOOKED_UP // 16))
    entries = builder.load(builder.bitcast(address, sixteen.as_pointer()), align=1)
    return builder.shuffle_vector(entries, ir.Constant(sixteen, ir.Undefined), which)


def chosen_summer(choosers: int, vectors: int, side_by_side: bool) -> Any:
    """`add(tables, choices, at, between, indices, first, apart, steps, sums)`: sums of bytes of chosen tables.

    In each of `steps` (1 or more) steps, a number in `choices` for each of `choosers` is where the table of 16 begins
    in `tables`, in which the next `LOOKED_UP` of `indices`, from `first` on, are looked up, and as many that lie
    `apart`, for each of `vectors`. The sums, each below 256, are added to uint16 `sums` [choosers, vectors, LOOKED_UP].
    Choices begin at `at`: those of a step are side by side, or else those of a chooser, which begin `between` apart.
    AVX2.
    """

    @intrinsic
    def add(typing, tables, choices, at, between, indices, first, apart, steps, sums):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            tables, choices, indices, sums = (_data(context, builder, signature, arguments, i) for i in (0, 1, 4, 8))
            at, between, first, apart, steps = (arguments[i] for i in (2, 3, 5, 6, 7))
            choices = builder.gep(choices, [at])
            indices = [_past(builder, builder.gep(indices, [first]), apart, v) for v in range(vectors)]

            def step(k, sums):  # type: ignore[no-untyped-def]
                index = [_read(builder, _past(builder, start, k, LOOKED_UP), 0, _BYTES) for start in indices]
                chosen = []
                for i in range(choosers):
                    if side_by_side:
                        place = _past(builder, _past(builder, choices, k, choosers), i)
                    else:
                        place = builder.gep(_past(builder, choices, between, i), [k])
                    offset = builder.zext(builder.load(place), k.type)
                    table = _table(builder, builder.gep(tables, [offset]))
                    chosen += [_look_up(builder, table, part) for part in index]
                return [builder.add(value, more) for value, more in zip(sums, chosen, strict=True)]

            found = _looped(builder, steps, [ir.Constant(_BYTES, None)] * (choosers * vectors), step)
            for i, value in enumerate(found):
                _add_to(builder, sums, i * LOOKED_UP, builder.zext(value, _HALVES))
            return context.get_dummy_value()

        place = types.intp
        return types.void(tables, choices, place, place, indices, place, place, place, sums), generate

    return add


TOGETHER = LOOKED_UP // 16
"""Tables of 16 that a register holds."""


def digits_summer(digits: int, bits: int, steps: int, vectors: int, lines: int) -> Any:
    """`add(tables, at, indices, first, apart, blocks, sums, to, shift, ahead)`: sums of numbers looked up by digits.

    A number is that of `digits` digits of `bits` bits, the lowest first. In each of `blocks` (1 to 257) blocks of
    `steps` steps, TOGETHER tables of 16 for each digit, from `at` on, are looked up by the next 16 of `indices` each,
    from `first` on, and by as many that lie `apart`, for each of `vectors`. `steps` entries of a digit are no more than
    255 together. The sums, shifted left by `shift`, are added to int32 `sums` [vectors, 16], which begin at `to`.
    `lines` cache lines for each block are asked for, from `tables[ahead]` on. AVX2.
    """
    each = [(digit, vector) for digit in range(digits) for vector in range(vectors)]
    size = LOOKED_UP * digits * steps  # of the tables of a block
    sixteen = ir.VectorType(ir.IntType(32), 16)

    @intrinsic
    def add(typing, tables, at, indices, first, apart, blocks, sums, to, shift, ahead):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            tables, indices, sums = (_data(context, builder, signature, arguments, i) for i in (0, 2, 6))
            at, first, apart, blocks, to, shift, ahead = (arguments[i] for i in (1, 3, 4, 5, 7, 8, 9))
            ahead, tables, sums = builder.gep(tables, [ahead]), builder.gep(tables, [at]), builder.gep(sums, [to])
            indices = [_past(builder, builder.gep(indices, [first]), apart, v) for v in range(vectors)]
            eight = ir.Constant(_PAIRS, [8] * _PAIRS.count)

            def block(k, sums):  # type: ignore[no-untyped-def]
                table, index = (
                    _past(builder, tables, k, size),
                    [_past(builder, i, k, LOOKED_UP * steps) for i in indices],
                )
                for line in range(lines):
                    _prefetch(builder, _past(builder, _past(builder, ahead, k, 64 * lines), 64 * line))
                found: dict[tuple[int, int], Any] = {}
                for step in range(steps):
                    keys = [_read(builder, start, step * LOOKED_UP, _BYTES) for start in index]
                    for digit in range(digits):
                        entries = _read(builder, table, LOOKED_UP * (step * digits + digit), _BYTES)
                        for vector, key in enumerate(keys):
                            more, known = _look_up(builder, entries, key), found.get((digit, vector))
                            found[digit, vector] = builder.add(known, more) if known else more
                both = [builder.bitcast(found[key], _PAIRS) for key in each]
                more = both + [builder.lshr(pair, eight) for pair in both]
                return [builder.add(value, x) for value, x in zip(sums, more, strict=True)]

            # Of each two bytes the first and 256 times the second, summed in 16 bits, and the second alone
            found = _looped(builder, blocks, [ir.Constant(_PAIRS, None)] * (2 * len(each)), block)
            totals = [ir.Constant(sixteen, None)] * vectors
            for (digit, vector), both, odd in zip(each, found[: len(each)], found[len(each) :], strict=True):
                even = builder.sub(both, builder.shl(odd, eight))
                for table in range(TOGETHER):  # sums of 16 rows each
                    turns = [8 * table + i // 2 + i % 2 * _PAIRS.count for i in range(16)]
                    wide = builder.zext(builder.shuffle_vector(even, odd, ir.Constant(sixteen, turns)), sixteen)
                    wide = builder.shl(wide, ir.Constant(sixteen, [digit * bits] * 16))
                    totals[vector] = builder.add(totals[vector], wide)
            shift = _splat(builder, shift, Vector(types.int32, 16))
            for vector, total in enumerate(totals):
                _add_to(builder, sums, vector * 16, builder.shl(total, shift))
            return context.get_dummy_value()

        place = types.intp
        return types.void(tables, place, indices, place, place, place, sums, place, types.int32, place), generate

    return add


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
