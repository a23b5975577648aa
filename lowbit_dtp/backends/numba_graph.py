"""Work on NumPy arrays that is recorded once and replayed without Python: kernels with their arrays bound.

While a `Tape` records, work runs in Python, on arrays of the type `Traced`. Each kernel call, and each NumPy operator
between such arrays, is recorded with the addresses of its arguments; LLVM then compiles a function from the recording,
in some hundredths of a second. Where Python branches on a number that a kernel returned, the function has a guard: if a
replay takes another branch, it undoes its changes and reports that.

New arrays are in an arena, which reuses memory once Python has freed the array, like malloc. The tape records only
addresses, so a replay needs as little memory as the work itself, at the same addresses.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba.core import callconv, types
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target

from . import CannotRecord

_ALIGNMENT = 64
_LANES = 16
"""Numbers that an operator processes at a time."""


# --- memory -----------------------------------------------------------------------------------------------------------


class _Lease:
    """Memory of an arena for a NumPy array; returned to the arena when no array uses it any more."""

    def __init__(self, arena: "_Arena", memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._arena, self._memory = arena, memory
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (memory.ctypes.data, False),
        }

    def __del__(self) -> None:
        self._arena.free.setdefault(self._memory.size, []).append(self._memory)


class _Arena:
    """Memory for the arrays that recorded work creates."""

    def __init__(self) -> None:
        self.free: dict[int, list[np.ndarray]] = {}
        self._all: list[np.ndarray] = []
        self._spans: list[tuple[int, int]] = []

    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float64) -> "Traced":
        """`np.empty`, aligned."""
        shape, dtype = (shape,) if isinstance(shape, int) else tuple(map(int, shape)), np.dtype(dtype)
        size = max(1, -(-prod(shape) * dtype.itemsize // _ALIGNMENT)) * _ALIGNMENT
        if free := self.free.get(size):
            memory = free.pop()
        else:
            whole = np.empty(size + _ALIGNMENT, np.uint8)
            start = -whole.ctypes.data % _ALIGNMENT
            memory = whole[start : start + size]
            self._all.append(memory)
            self._spans.append((memory.ctypes.data, memory.ctypes.data + size))
        return np.asarray(_Lease(self, memory, shape, dtype)).view(Traced)

    def holds(self, x: np.ndarray) -> bool:
        """Whether the memory of `x` is in the arena."""
        at = x.ctypes.data
        return any(start <= at < stop for start, stop in self._spans)


# --- arrays and numbers, watched --------------------------------------------------------------------------------------


class Traced(np.ndarray):
    """An array whose use a tape records. Without a tape it is an ordinary array."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **settings: Any) -> Any:
        tape = Tape.recording()
        if tape is not None:
            return tape.operator(ufunc, method, inputs, settings)
        if outs := settings.get("out"):
            settings["out"] = tuple(map(plain, outs))
        result = getattr(ufunc, method)(*map(plain, inputs), **settings)
        return outs[0] if outs else result

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, settings: Any) -> Any:
        tape = Tape.recording()
        if tape is not None:
            return tape.function(function, arguments, settings)
        return function(*plain(arguments), **{name: plain(x) for name, x in settings.items()})

    def __getitem__(self, key: Any) -> Any:
        tape = Tape.recording()
        if tape is not None and any(isinstance(k, np.ndarray) for k in (key if isinstance(key, tuple) else (key,))):
            return tape.gather(self, key)
        if tape is not None and self.ndim and not isinstance(key, tuple | slice) and key is not Ellipsis:
            return super().__getitem__((key, ...))  # a number would not be traced
        return super().__getitem__(plain(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        tape = Tape.recording()
        if tape is None:
            super().__setitem__(plain(key), plain(value))
        else:
            tape.copy(self[key], value)

    def astype(self, dtype: Any, *arguments: Any, copy: Any = True, **settings: Any) -> Any:
        tape = Tape.recording()
        if not copy and self.dtype == dtype:
            return self
        if tape is None:
            return plain(self).astype(dtype, *arguments, copy=copy, **settings)
        made = tape.empty(self.shape, dtype)
        tape.copy(made, self)
        return made

    def copy(self, order: Any = "C") -> Any:
        return self.astype(self.dtype)

    def _number(self) -> Any:
        if Tape.recording() is not None:
            raise CannotRecord("reads a number from an array")
        return plain(self)

    def __float__(self) -> float:
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __bool__(self) -> bool:
        return bool(self._number())

    def __index__(self) -> int:
        return int(self._number().__index__())

    def item(self, *arguments: Any) -> Any:
        return self._number().item(*arguments)

    def tolist(self) -> Any:
        return self._number().tolist()

    def argmax(self, *arguments: Any, **settings: Any) -> Any:
        return np.argmax(self, *arguments, **settings)

    def argmin(self, *arguments: Any, **settings: Any) -> Any:
        return np.argmin(self, *arguments, **settings)


def plain(x: Any) -> Any:
    """`x`, or the tuple or list `x`, with traced arrays and numbers replaced by plain ones."""
    if isinstance(x, Traced):
        return x.view(np.ndarray)
    if isinstance(x, Returned):
        return x.value
    if isinstance(x, Cell):
        return x.array.view(np.ndarray)[()]
    if isinstance(x, Head):
        return plain(x.array)[: plain(x.rows)]
    if isinstance(x, tuple | list):
        return type(x)(map(plain, x))
    return x


class Returned:
    """A number that a kernel returned while a tape recorded; it can differ in each replay."""

    def __init__(self, tape: "Tape", value: Any, address: int) -> None:
        self._tape, self.value, self.address = tape, value, address

    def _guarded(self, holds: bool, predicate: str, than: Any = 0) -> bool:
        self._tape.guard(self, predicate, than, holds)
        return holds

    def __bool__(self) -> bool:
        return self._guarded(bool(self.value), "!=")

    def __lt__(self, other: Any) -> bool:
        return self._guarded(self.value < other, "<", other)

    def __index__(self) -> int:
        raise CannotRecord("takes a number that a kernel returned for a size")

    def __float__(self) -> float:
        raise CannotRecord("reads a number that a kernel returned")


class Cell(NamedTuple):
    """A number for a kernel that each replay reads from an array without axes."""

    array: np.ndarray


class Head(NamedTuple):
    """The first rows of an array, as many as a kernel returned; only for kernels."""

    array: np.ndarray
    rows: Any


def head(x: np.ndarray, rows: Any) -> Any:
    """`x[:rows]`, for kernels."""
    return Head(x, rows) if isinstance(rows, Returned) else x[:rows]


# --- the tape ---------------------------------------------------------------------------------------------------------


class _Emitter:
    """Writes the LLVM function: blocks in order, and returns when a guard fails."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.builder = ir.IRBuilder(function.append_basic_block())
        self.exception = self.builder.alloca(ir.IntType(8).as_pointer())

    def address(self, at: int, kind: ir.Type) -> Any:
        """A constant address, of numbers of some type."""
        return self.builder.inttoptr(ir.Constant(ir.IntType(64), at), kind.as_pointer())

    def unless(self, holds: Any, code: int) -> None:
        """Return `code` unless `holds`."""
        go_on, give_up = self.function.append_basic_block(), self.function.append_basic_block()
        self.builder.cbranch(holds, go_on, give_up)
        self.builder.position_at_end(give_up)
        self.builder.ret(ir.Constant(ir.IntType(64), code))
        self.builder.position_at_end(go_on)

    def loop(self, count: int, step: int, body: Callable[[Any], None]) -> None:
        """`body(i)` for i = 0, `step`, ... below `count`."""
        if count <= 0:
            return
        i64, before = ir.IntType(64), self.builder.block
        inside, after = self.function.append_basic_block(), self.function.append_basic_block()
        self.builder.branch(inside)
        self.builder.position_at_end(inside)
        i = self.builder.phi(i64)
        i.add_incoming(ir.Constant(i64, 0), before)
        body(i)
        following = self.builder.add(i, ir.Constant(i64, step))
        i.add_incoming(following, self.builder.block)
        self.builder.cbranch(self.builder.icmp_signed("<", following, ir.Constant(i64, count)), inside, after)
        self.builder.position_at_end(after)

    def move(self, to: int, source: int, size: int) -> None:
        """Copy bytes from one constant address to another."""
        self.move_at(ir.Constant(ir.IntType(64), to), ir.Constant(ir.IntType(64), source), size)

    def move_at(self, to: Any, source: Any, size: int) -> None:
        """Copy bytes between addresses known only at run time; they may overlap."""
        byte, i64, bit = ir.IntType(8).as_pointer(), ir.IntType(64), ir.IntType(1)
        kind = ir.FunctionType(ir.VoidType(), [byte, byte, i64, bit])
        name = "llvm.memmove.p0i8.p0i8.i64"
        function = self.builder.module.globals.get(name) or ir.Function(self.builder.module, kind, name)
        pointers = (self.builder.inttoptr(x, byte) for x in (to, source))
        self.builder.call(function, [*pointers, ir.Constant(i64, size), ir.Constant(bit, 0)])


_DONE = (callconv.RETCODE_OK, callconv.RETCODE_NONE)
"""Status codes of a Numba function that has not raised an error."""

_KINDS = {
    np.dtype(np.float32): ir.FloatType(),
    np.dtype(np.float64): ir.DoubleType(),
    np.dtype(np.int64): ir.IntType(64),
    np.dtype(np.uint64): ir.IntType(64),
}
"""Types of numbers that operators support."""

_OPERATORS = {
    np.add: ("fadd", "add"),
    np.subtract: ("fsub", "sub"),
    np.multiply: ("fmul", "mul"),
    np.true_divide: ("fdiv", None),
}
"""Operators with one instruction, for floats and for whole numbers, rounded like NumPy."""


class Tape:
    """A recording of work while it runs."""

    _active: "Tape | None" = None
    _thread = 0
    _lock = threading.RLock()

    def __init__(self, arrays: Sequence[np.ndarray] = ()) -> None:
        """`arrays` are those that the work reads or changes."""
        self.arena = _Arena()
        self._pieces: list[list[Callable[[_Emitter], None]] | Callable[[], None]] = [[]]
        self._kept: list[Any] = list(arrays)
        self._roots = {id(_root(x)) for x in arrays}
        self._saved: dict[int, np.ndarray] = {}
        self._updating, self._codes = False, 0

    @classmethod
    def recording(cls) -> "Tape | None":
        """The tape that is recording in this thread."""
        return cls._active if cls._active is not None and cls._thread == threading.get_ident() else None

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record within the block. Work that cannot be recorded raises `CannotRecord`."""
        with Tape._lock:
            Tape._active, Tape._thread = self, threading.get_ident()
            try:
                yield
            finally:
                Tape._active = None

    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float64) -> Traced:
        """`np.empty`, in the arena."""
        return self.arena.empty(shape, dtype)

    def updates(self) -> None:
        """From here on the work changes its arrays, and cannot be undone."""
        self._updating = True

    # what is recorded

    def call(self, kernel: Dispatcher, arguments: Sequence[Any]) -> Any:
        """Call a kernel, and record the call."""
        for x in arguments:
            self._know(x)
        given = [plain(x) for x in arguments]
        value = kernel(*given)
        kinds = tuple(kernel.typeof_pyval(x) for x in given)
        compiled: Any = kernel.overloads[kinds]
        address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        convention = compiled.target_context.call_conv
        function = convention.get_function_type(compiled.fndesc.restype, compiled.fndesc.argtypes)
        told = [_Described.of(x) if isinstance(x, np.ndarray) else x for x in given]
        passed = list(zip(map(_forgotten, arguments), told, kinds, strict=True))
        place, code = np.zeros(32, np.uint8), self._code()
        self._kept += [place, kernel]

        def emit(to: _Emitter) -> None:
            values = [part for x, now, kind in passed for part in _argument(to, x, now, kind)]
            result = to.builder.inttoptr(ir.Constant(ir.IntType(64), place.ctypes.data), function.args[0])
            exception = to.builder.bitcast(to.exception, function.args[1])
            callee = to.builder.inttoptr(ir.Constant(ir.IntType(64), address), function.as_pointer())
            status = to.builder.call(callee, [result, exception, *values])
            done = [to.builder.icmp_signed("==", status, known) for known in _DONE]
            to.unless(to.builder.or_(*done), code)

        self._note(emit)
        return self._returned(value, compiled.fndesc.restype, place)

    def _returned(self, value: Any, kind: types.Type, place: np.ndarray) -> Any:
        at = place.ctypes.data
        if isinstance(kind, types.NoneType):
            return None
        if isinstance(kind, types.UniTuple) and kind.dtype == types.int64:
            return tuple(Returned(self, x, at + 8 * i) for i, x in enumerate(value))
        if kind in (types.int64, types.float64, types.boolean):
            return Returned(self, value, at)
        raise CannotRecord(f"a kernel that returns {kind} is not known")

    def guard(self, number: Returned, predicate: str, than: Any, holds: bool) -> None:
        """Make replays fail unless `number predicate than` has the value it has now."""
        if self._updating:
            raise CannotRecord("reads a number after it has changed its arrays")
        code, value = self._code(), number.value

        def emit(to: _Emitter) -> None:
            now = _load_returned(to, number.address, value)
            if isinstance(now.type, ir.IntType):
                compared = to.builder.icmp_signed(predicate, now, ir.Constant(now.type, int(than)))
            else:
                compared = to.builder.fcmp_ordered(predicate, now, ir.Constant(now.type, float(than)))
            to.unless(compared if holds else to.builder.not_(compared), code)

        self._note(emit)

    def operator(self, ufunc: Any, method: str, inputs: Sequence[Any], settings: dict[str, Any]) -> Any:
        """Apply a NumPy operator, and record it."""
        outs = settings.pop("out", None)
        for x in inputs:
            self._know(x)
        value = getattr(ufunc, method)(*map(plain, inputs), **settings)
        out = self.empty(np.shape(value), value.dtype) if outs is None else outs[0]
        names = _OPERATORS.get(ufunc) if method == "__call__" and not settings else None
        kind = _KINDS.get(out.dtype)
        fits = all(_fits(x, out) for x in inputs) and out.flags.c_contiguous and value.dtype == out.dtype
        if names is None or kind is None or not fits or names[isinstance(kind, ir.IntType)] is None:
            if any(isinstance(x, Returned) for x in inputs):
                raise CannotRecord(f"{ufunc.__name__} of a number that a kernel returned is not known")
            target, given = plain(out), [plain(x) for x in inputs]
            self._changes(out)
            self._repeat(lambda: np.copyto(target, getattr(ufunc, method)(*given, **settings), casting="unsafe"))
        else:
            self._elementwise(names[isinstance(kind, ir.IntType)], kind, inputs, out)
        plain(out)[...] = value
        return out

    def function(self, function: Any, arguments: Any, settings: Any) -> Any:
        """Call a NumPy function, and record the call."""
        self._know(arguments)
        given, named = plain(arguments), {name: plain(x) for name, x in settings.items()}
        if function is np.copyto:
            self.copy(arguments[0], arguments[1])
            return None
        value = function(*given, **named)
        if not isinstance(value, np.ndarray | np.generic):
            raise CannotRecord(f"np.{function.__name__} is not known")
        if isinstance(value, np.ndarray) and any(
            isinstance(x, np.ndarray) and _root(x) is _root(value) for x in _flattened(given)
        ):
            return value.view(Traced)  # a view of an argument
        made = self.empty(np.shape(value), value.dtype)
        target = plain(made)
        target[...] = value
        self._repeat(lambda: np.copyto(target, function(*given, **named)))
        return made

    def copy(self, to: np.ndarray, value: Any) -> None:
        """Copy `value` into `to`, and record that."""
        self._know(value)
        before = plain(value)
        kind = _KINDS.get(to.dtype)
        same_shape = isinstance(value, np.ndarray) and value.shape == to.shape
        alike = (
            same_shape
            and value.flags.c_contiguous
            and (value.dtype == to.dtype or {value.dtype.kind, to.dtype.kind} == {"i", "u"})
        )
        if alike and value.dtype.itemsize == to.dtype.itemsize and to.flags.c_contiguous:
            self._changes(to)
            target, source, size = to.ctypes.data, value.ctypes.data, to.nbytes
            self._note(lambda emitter: emitter.move(target, source, size))
        elif kind is not None and to.flags.c_contiguous and _fits(value, to):
            self._elementwise(None, kind, [value], to)
        elif same_shape and value.size == 1 and value.dtype == np.float64 and to.dtype == np.float32:
            self._rounded(value, to)
        elif same_shape and value.ndim == 2 and value.dtype == to.dtype and kind is not None and to.flags.c_contiguous:
            self._rearrange(kind, value, to)
        elif isinstance(value, Returned):
            raise CannotRecord(f"a number that a kernel returned cannot be written to {to.dtype}")
        else:
            self._changes(to)
            there, given = plain(to), before
            self._repeat(lambda: np.copyto(there, given, casting="unsafe"))
        plain(to)[...] = before

    def gather(self, x: Traced, key: Any) -> Traced:
        """`x[key]`, where `key` is an array of whole numbers, and record that."""
        which = key[-1] if isinstance(key, tuple) and len(key) == 2 and key[0] is Ellipsis and x.ndim == 1 else key
        if (
            not isinstance(which, np.ndarray)
            or which.dtype != np.int64
            or which.ndim != 1
            or not (which.flags.c_contiguous and x.flags.c_contiguous)
        ):
            raise CannotRecord("takes items by something else than a row of whole numbers")
        self._know(x)
        self._know(which)
        made = self.empty((*which.shape, *x.shape[1:]), x.dtype)
        plain(made)[...] = plain(x)[plain(which)]
        row, code = x.dtype.itemsize * prod(x.shape[1:]), self._code()
        source, indices, target, rows, count = (
            x.ctypes.data, which.ctypes.data, made.ctypes.data, len(x), len(which),
        )  # fmt: skip

        def emit(to: _Emitter) -> None:
            i64 = ir.IntType(64)

            def one(i: Any) -> None:
                index = to.builder.load(to.builder.gep(to.address(indices, i64), [i]))
                to.unless(to.builder.icmp_unsigned("<", index, ir.Constant(i64, rows)), code)
                size = ir.Constant(i64, row)
                at = to.builder.add(ir.Constant(i64, source), to.builder.mul(index, size))
                to.move_at(to.builder.add(ir.Constant(i64, target), to.builder.mul(i, size)), at, row)

            to.loop(count, 1, one)

        self._note(emit)
        return made

    def _elementwise(self, name: str | None, kind: ir.Type, inputs: Sequence[Any], out: np.ndarray) -> None:
        """`out` = the instruction `name` of `inputs`; without a name, the only input."""
        self._changes(out)
        size, target = out.size, out.ctypes.data
        operands = [_operand(x, out) for x in inputs]

        def run(to: _Emitter, lanes: int, start: int, count: int) -> None:
            vector = ir.VectorType(kind, lanes) if lanes > 1 else kind
            fixed = [_spread(to, x, kind, lanes) for x in operands]

            def body(i: Any) -> None:
                values = [
                    x if x is not None else _load(to, operand.address + start * operand.size, i, kind, vector)
                    for x, operand in zip(fixed, operands, strict=True)
                ]
                result = getattr(to.builder, name)(*values) if name else values[0]
                place = to.builder.gep(to.address(target + start * out_size, kind), [i])
                to.builder.store(result, to.builder.bitcast(place, vector.as_pointer()), align=out_size)

            to.loop(count, lanes, body)

        out_size = out.dtype.itemsize

        def emit(to: _Emitter) -> None:
            whole = size - size % _LANES
            run(to, _LANES, 0, whole)
            run(to, 1, whole, size - whole)

        self._note(emit)

    def _rounded(self, x: np.ndarray, out: np.ndarray) -> None:
        """float32 `out` = float64 `x`, one number."""
        self._changes(out)
        source, target = x.ctypes.data, out.ctypes.data

        def emit(to: _Emitter) -> None:
            value = to.builder.load(to.address(source, ir.DoubleType()))
            to.builder.store(to.builder.fptrunc(value, ir.FloatType()), to.address(target, ir.FloatType()))

        self._note(emit)

    def _rearrange(self, kind: ir.Type, x: np.ndarray, out: np.ndarray) -> None:
        """`out` = `x`, [rows, columns], number by number: for a transpose, for example."""
        self._changes(out)
        (rows, columns), steps = out.shape, [stride // x.itemsize for stride in x.strides]
        source, target = x.ctypes.data, out.ctypes.data

        def emit(to: _Emitter) -> None:
            i64, build = ir.IntType(64), to.builder

            def row(i: Any) -> None:
                def one(j: Any) -> None:
                    scaled = [build.mul(k, ir.Constant(i64, step)) for k, step in zip((i, j), steps, strict=True)]
                    value = build.load(build.gep(to.address(source, kind), [build.add(*scaled)]))
                    at = build.add(build.mul(i, ir.Constant(i64, columns)), j)
                    build.store(value, build.gep(to.address(target, kind), [at]))

                to.loop(columns, 1, one)

            to.loop(rows, 1, row)

        self._note(emit)

    def _know(self, x: Any) -> None:
        """Keep the array that owns the memory of `x`; CannotRecord if its origin was not recorded."""
        for part in _flattened(x):
            if isinstance(part, Cell | Head):
                part = part.array
            if not isinstance(part, np.ndarray) or self.arena.holds(part):
                continue
            root = _root(part)
            if isinstance(part, Traced) and not isinstance(root, _Lease) and id(root) not in self._roots:
                raise CannotRecord("uses an array that was made from others by an unknown operation")
            self._kept.append(part)

    def _changes(self, x: np.ndarray) -> None:
        """Memory outside the arena is restored if a replay fails."""
        self._know(x)
        if not self.arena.holds(x):
            self._saved.setdefault(x.ctypes.data, plain(x))

    def _code(self) -> int:
        self._codes += 1
        return self._codes

    def _note(self, emit: Callable[[_Emitter], None]) -> None:
        piece = self._pieces[-1]
        assert isinstance(piece, list)
        piece.append(emit)

    def _repeat(self, call: Callable[[], None]) -> None:
        self._pieces += [call, []]

    def program(self) -> "Program":
        """The recording as a program that replays it."""
        return Program(self._pieces, list(self._saved.values()), [self._kept, self.arena])


class Program:
    """Recorded work. A call replays it; False if a guard failed, and then nothing has changed."""

    def __init__(self, pieces: Sequence[Any], saved: Sequence[np.ndarray], kept: Any) -> None:
        self._kept = kept
        backups = [np.empty_like(x, order="C") for x in saved]
        if not all(x.flags.c_contiguous for x in saved):
            raise CannotRecord("changes an array that is not contiguous")
        self._backups = backups
        moves = [(x.ctypes.data, y.ctypes.data, x.nbytes) for x, y in zip(saved, backups, strict=True)]

        def save(to: _Emitter) -> None:
            for here, there, size in moves:
                to.move(there, here, size)

        def restore(to: _Emitter) -> None:
            for here, there, size in moves:
                to.move(here, there, size)

        module = ir.Module("recorded")
        names: list[Any] = []
        for i, piece in enumerate([[restore], [save, *pieces[0]], *pieces[1:]]):
            if callable(piece):
                names.append(self._guarded(piece))
                continue
            function = ir.Function(module, ir.FunctionType(ir.IntType(64), []), f"piece{i}")
            emitter = _Emitter(function)
            for emit in piece:
                emit(emitter)
            emitter.builder.ret(ir.Constant(ir.IntType(64), 0))
            names.append(function.name)
        triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
        machine = binding.Target.from_triple(triple).create_target_machine(cpu, features, opt=1, jit=True)
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)), machine)
        self._engine.finalize_object()
        made = [
            ctypes.CFUNCTYPE(ctypes.c_int64)(self._engine.get_function_address(x)) if isinstance(x, str) else x
            for x in names
        ]
        self._restore, self._pieces = made[0], made[1:]

    def __call__(self) -> bool:
        for piece in self._pieces:
            if piece():
                self._restore()
                return False
        return True

    @staticmethod
    def _guarded(call: Callable[[], None]) -> Callable[[], bool]:
        """A function that runs `call`, and returns True if that fails; the run in Python then raises the error."""

        def attempt() -> bool:
            try:
                call()
            except (ValueError, TypeError, ArithmeticError):
                return True
            return False

        return attempt


# --- operands in LLVM -----------------------------------------------------------------------------------------


class _Described(NamedTuple):
    """The description of an array that a kernel gets."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @classmethod
    def of(cls, x: np.ndarray) -> "_Described":
        return cls(x.ctypes.data, x.shape, x.strides, x.itemsize)


def _forgotten(x: Any) -> Any:
    """`x` without the arrays in it, so that their memory is freed."""
    if isinstance(x, Cell):
        return _Number(x.array.ctypes.data)
    if isinstance(x, Head):
        return _Rows(x.rows)
    return None if isinstance(x, np.ndarray) else x


class _Number(NamedTuple):
    """A `Cell` without its array."""

    address: int


class _Rows(NamedTuple):
    """A `Head` without its array."""

    rows: Returned


def _argument(to: _Emitter, x: Any, now: Any, kind: Any) -> list[Any]:
    """An argument of a kernel, in the parts in which Numba passes it."""
    i64, nothing = ir.IntType(64), ir.Constant(ir.IntType(8).as_pointer(), None)
    if isinstance(now, _Described):
        element = _element(kind.dtype)
        sizes: list[Any] = [ir.Constant(i64, n) for n in now.shape]
        items: Any = ir.Constant(i64, prod(now.shape))
        if isinstance(x, _Rows):
            sizes[0] = _load_returned(to, x.rows.address, x.rows.value)
            items = to.builder.mul(sizes[0], ir.Constant(i64, prod(now.shape[1:])))
        data = to.address(now.address, element)
        strides = [ir.Constant(i64, n) for n in now.strides]
        return [nothing, nothing, items, ir.Constant(i64, now.itemsize), data, *sizes, *strides]
    element = _element(kind)
    if isinstance(x, _Number):
        return [to.builder.load(to.address(x.address, element))]
    if isinstance(x, Returned):
        value = _load_returned(to, x.address, x.value)
        if value.type != element:
            raise CannotRecord(f"a number of another type than {kind} is not known")
        return [value]
    if isinstance(kind, types.Float):
        return [ir.Constant(element, float(now))]
    if isinstance(kind, types.Integer | types.Boolean):
        return [ir.Constant(element, int(now))]
    raise CannotRecord(f"a kernel that takes {kind} is not known")


def _element(number: Any) -> ir.Type:
    if isinstance(number, types.Float):
        return ir.FloatType() if number.bitwidth == 32 else ir.DoubleType()
    return ir.IntType(8) if isinstance(number, types.Boolean) else ir.IntType(number.bitwidth)


def _load_returned(to: _Emitter, address: int, value: Any) -> Any:
    kind: ir.Type = ir.IntType(64)
    if isinstance(value, bool | np.bool_):
        kind = ir.IntType(8)
    elif isinstance(value, float | np.floating):
        kind = ir.DoubleType()
    return to.builder.load(to.address(address, kind))


class _Operand(NamedTuple):
    """An operand of an operator: a constant, one number in memory, or as many as the result has."""

    constant: Any
    address: int
    size: int
    """Bytes of one number."""
    alone: bool


def _fits(x: Any, out: np.ndarray) -> bool:
    """Whether `x` can be an operand where the result is `out`."""
    if isinstance(x, np.ndarray):
        return x.dtype == out.dtype and x.flags.c_contiguous and (x.shape == out.shape or x.size == 1)
    if isinstance(x, Returned):
        return out.dtype == (np.float64 if isinstance(x.value, float) else np.int64)
    if isinstance(x, np.generic):
        return x.dtype == out.dtype
    return isinstance(x, int | float) and not isinstance(x, bool) and (out.dtype.kind == "f" or isinstance(x, int))


def _operand(x: Any, out: np.ndarray) -> _Operand:
    if isinstance(x, np.ndarray):
        return _Operand(None, x.ctypes.data, x.itemsize, x.shape != out.shape or x.size == 1)
    if isinstance(x, Returned):
        return _Operand(None, x.address, 8, True)
    return _Operand(out.dtype.type(x).item(), 0, 0, True)


def _spread(to: _Emitter, x: _Operand, kind: ir.Type, lanes: int) -> Any:
    """A vector of an operand that is the same for all numbers; None for others."""
    if not x.alone:
        return None
    value = ir.Constant(kind, x.constant) if x.constant is not None else to.builder.load(to.address(x.address, kind))
    if lanes == 1:
        return value
    undefined = ir.Constant(ir.VectorType(kind, lanes), ir.Undefined)
    first = to.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return to.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))


def _load(to: _Emitter, address: int, i: Any, kind: ir.Type, vector: ir.Type) -> Any:
    place = to.builder.gep(to.address(address, kind), [i])
    return to.builder.load(to.builder.bitcast(place, vector.as_pointer()), align=4)


def _flattened(x: Any) -> Iterator[Any]:
    if isinstance(x, tuple | list) and not isinstance(x, Cell | Head):
        for part in x:
            yield from _flattened(part)
    else:
        yield x


def _root(x: np.ndarray) -> Any:
    """The array or other object that owns the memory of `x`."""
    while isinstance(x, np.ndarray) and x.base is not None:
        x = x.base
    return x


class Watched:
    """A module of kernels whose calls go through `call`."""

    def __init__(self, module: ModuleType, call: Callable[[Dispatcher, Sequence[Any]], Any]) -> None:
        self._module, self._call = module, call

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if not isinstance(value, Dispatcher):
            return value
        return lambda *arguments: self._call(value, arguments)
