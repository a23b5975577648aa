"""What the machine can do at most on one thread, in SI units: arithmetic within registers, memory, and calls.

    .venv/bin/python tests/benchmarks/limits.py

Numba compiles the loops for the target in effect, so NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, together, give the limits
of a lesser processor.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from lowbit_dtp.backends._simd import dot4, dot4_small, fma, loader, popcount, reader, store, target

CHAINS = 12
"""Independent calculations in a loop: more than two units with a latency of five cycles need, fewer than registers."""

READ = {"first cache": 2**14, "second cache": 2**19, "memory": 2**28}
"""Bytes read again and again from each."""

CALL = "seconds a call from Python of a kernel of eight arrays that does nothing"

_SHUFFLES = {  # by how the assembler writes them; the first found is used
    r"vpshufb .*%zmm": ("llvm.x86.avx512.pshuf.b.512", 512),
    r"vpshufb .*%ymm": ("llvm.x86.avx2.pshuf.b", 256),
    r"pshufb .*%xmm": ("llvm.x86.ssse3.pshuf.b.128", 128),
    r"tbl v": ("llvm.aarch64.neon.tbl1.v16i8", 128),
}
"""Functions of LLVM that look bytes up in a register of bytes, and the bits of that register."""


def measured(rounds: int = 60, seconds: float = 0.005) -> dict[str, float]:
    """Each limit by its name, which has the unit in it: the best of `rounds` loops of about `seconds`, taken in turn.

    A limit that the target has no instruction for is left out; bytes are multiplied as `dot4` does on the target.
    """
    bits = target().register_bits
    loops = [
        _chains("float32 multiply-adds a second", 1, _multiply_add, types.float32, bits // 32),
        _chains("popcount bits a second", 64, _count_bits, types.uint64, bits // 64),
        _chains("popcount bits a second", 64, _count_bits, types.uint64, 1),  # faster where it is the one instruction
        _chains("byte multiply-adds a second", 4, _multiply_bytes, types.int32, bits // 32),
        _chains("products of pairs by sums of bytes a second", 8, _multiply_sums(bits // 32), types.int32, bits // 32),
        _writes(bits // 64),
    ]
    if found := _shuffle():
        loops.append(_chains("byte-shuffle bytes a second", 1, found[0], types.uint8, found[1] // 8))
    loops += _reads(bits // 64) + _reads(bits // 128)  # some caches give half a register at a time, and sooner
    counts = [loop.count(seconds) for loop in loops]
    limits: dict[str, float] = {}
    for _ in range(rounds):
        for loop, count in zip(loops, counts, strict=True):
            limits[loop.name] = max(limits.get(loop.name, 0.0), loop.rate(count))
    return limits | {CALL: _call()}


@dataclass(frozen=True)
class _Loop:
    """A kernel that does `amount` of what `name` counts in each of the rounds it is asked for, and what it works on."""

    name: str
    amount: int
    run: Callable[[np.ndarray, int], object]
    on: np.ndarray

    def rate(self, count: int) -> float:
        """`amount` a second, over `count` rounds."""
        started = perf_counter()
        self.run(self.on, count)
        return self.amount * count / (perf_counter() - started)

    def count(self, seconds: float) -> int:
        """Rounds that take about `seconds`, and at least one."""
        self.run(self.on, 1)
        count = 1
        while (taken := self.amount * count / self.rate(count)) < seconds / 4:
            count *= 4
        return max(1, int(count * seconds / taken))


# --- arithmetic -------------------------------------------------------------------------------------------------------
# Each step needs the one before it in its chain, and operands known only when it runs: no compiler can skip any.


@njit
def _multiply_add(v, a, b):  # type: ignore[no-untyped-def]
    return fma(v, a, b)


@njit
def _count_bits(v, a, b):  # type: ignore[no-untyped-def]
    return popcount(v)


@njit
def _multiply_bytes(v, a, b):  # type: ignore[no-untyped-def]
    return dot4(v, v, a)  # sums of products by an `a` alone would leave the loop where they are not one instruction


def _multiply_sums(lanes: int) -> Any:
    """A step of the product of pairs (Winograd, 1968): two sums of four bytes, multiplied, stand for eight products."""
    read, back = reader(types.uint8, 4 * lanes), reader(types.int32, lanes)

    @njit
    def step(v, a, b):  # type: ignore[no-untyped-def]
        return dot4_small(v, back(read(v) + read(a)), back(read(v) + read(b)))

    return step


def _shuffle() -> tuple[Any, int] | None:
    """A step that looks bytes up by the target's instruction, and the bits of its register; None if it has none."""
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=name, features=features, opt=3)
    order = (5, 0, 11, 2, 14, 7, 9, 1, 15, 4, 12, 3, 8, 6, 13, 10)
    lanes = ", ".join(f"i32 {first + i}" for first in range(0, 64, 16) for i in order)
    code = machine.emit_assembly(
        binding.parse_assembly(
            "define <64 x i8> @f(<64 x i8> %a) {\n"
            f"  %r = shufflevector <64 x i8> %a, <64 x i8> undef, <64 x i32> <{lanes}>\n"
            "  ret <64 x i8> %r\n}"
        )
    ).replace("\t", " ")
    found = next((function for line, function in _SHUFFLES.items() if re.search(line, code)), None)
    if found is None:
        return None
    function, width = found

    @intrinsic
    def shuffle(typing, v, indices):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            shape = ir.FunctionType(arguments[0].type, [x.type for x in arguments])
            known = builder.module.globals.get(function)
            return builder.call(known or ir.Function(builder.module, shape, function), arguments)

        return v(v, indices), generate

    @njit
    def step(v, a, b):  # type: ignore[no-untyped-def]
        return shuffle(v, a)

    return step, width


def _chains(name: str, amount: int, step: Any, element: types.Type, lanes: int) -> _Loop:
    """A loop of `step(v, a, b)`, which does `amount` in each lane, for each of `CHAINS` vectors `v`."""
    load = loader(element, lanes)

    @njit
    def run(x, count):  # type: ignore[no-untyped-def]
        v0, v1, v2, v3 = load(x, 0 * lanes), load(x, 1 * lanes), load(x, 2 * lanes), load(x, 3 * lanes)
        v4, v5, v6, v7 = load(x, 4 * lanes), load(x, 5 * lanes), load(x, 6 * lanes), load(x, 7 * lanes)
        v8, v9, v10, v11 = load(x, 8 * lanes), load(x, 9 * lanes), load(x, 10 * lanes), load(x, 11 * lanes)
        a, b = load(x, 12 * lanes), load(x, 13 * lanes)
        for _ in range(count):
            v0, v1, v2, v3 = step(v0, a, b), step(v1, a, b), step(v2, a, b), step(v3, a, b)
            v4, v5, v6, v7 = step(v4, a, b), step(v5, a, b), step(v6, a, b), step(v7, a, b)
            v8, v9, v10, v11 = step(v8, a, b), step(v9, a, b), step(v10, a, b), step(v11, a, b)
        store(x, 0 * lanes, v0), store(x, 1 * lanes, v1), store(x, 2 * lanes, v2), store(x, 3 * lanes, v3)
        store(x, 4 * lanes, v4), store(x, 5 * lanes, v5), store(x, 6 * lanes, v6), store(x, 7 * lanes, v7)
        store(x, 8 * lanes, v8), store(x, 9 * lanes, v9), store(x, 10 * lanes, v10), store(x, 11 * lanes, v11)

    x = np.random.default_rng(0).integers(1, 128, (CHAINS + 2) * lanes).astype(str(element))
    return _Loop(name, amount * lanes * CHAINS, run, _aligned(x / x.dtype.type(128) if element == types.float32 else x))


# --- memory -----------------------------------------------------------------------------------------------------------


def _reads(lanes: int) -> list[_Loop]:
    """Loops that sum what lies in each of `READ`."""
    load = loader(types.uint64, lanes)

    @njit
    def run(x, count):  # type: ignore[no-untyped-def]
        s0, s1, s2, s3 = load(x, 0 * lanes), load(x, 1 * lanes), load(x, 2 * lanes), load(x, 3 * lanes)
        s4, s5, s6, s7 = load(x, 4 * lanes), load(x, 5 * lanes), load(x, 6 * lanes), load(x, 7 * lanes)
        for _ in range(count):
            for i in range(0, x.size, 8 * lanes):
                s0, s1 = s0 + load(x, i), s1 + load(x, i + lanes)
                s2, s3 = s2 + load(x, i + 2 * lanes), s3 + load(x, i + 3 * lanes)
                s4, s5 = s4 + load(x, i + 4 * lanes), s5 + load(x, i + 5 * lanes)
                s6, s7 = s6 + load(x, i + 6 * lanes), s7 + load(x, i + 7 * lanes)
        store(x, 0, s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7)

    return [
        _Loop(f"bytes a second read, {place}", size, run, _aligned(np.ones(size // 8, np.uint64)))
        for place, size in READ.items()
    ]


def _writes(lanes: int) -> _Loop:
    """A loop that writes what fits the second cache."""
    load, size = loader(types.uint64, lanes), READ["second cache"]

    @njit
    def run(x, count):  # type: ignore[no-untyped-def]
        v = load(x, 0)
        for _ in range(count):
            v = v + v
            for i in range(0, x.size, lanes):
                store(x, i, v)

    return _Loop("bytes a second written, second cache", size, run, _aligned(np.ones(size // 8, np.uint64)))


def _call(rounds: int = 50, count: int = 1000) -> float:
    """Seconds a call of a kernel that does nothing."""

    @njit(nogil=True)
    def nothing(a, b, c, d, e, f, g, h):  # type: ignore[no-untyped-def]
        pass

    arrays = [np.zeros((2, 2), np.float32) for _ in range(8)]
    best = float("inf")
    for _ in range(rounds):
        started = perf_counter()
        for _ in range(count):
            nothing(*arrays)
        best = min(best, (perf_counter() - started) / count)
    return best


def _aligned(x: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes: a vector that lies across two lines of a cache is read slower."""
    buffer = np.empty(x.nbytes + 64, np.uint8)
    begin = -buffer.ctypes.data % 64
    found = buffer[begin : begin + x.nbytes].view(x.dtype)
    found[:] = x
    return found


def main() -> None:
    """Print the limits."""
    for name, limit in measured().items():
        print(f"{limit:.3g} {name}")


if __name__ == "__main__":
    main()
