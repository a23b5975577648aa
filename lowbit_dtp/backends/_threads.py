"""Tasks of a kernel on the threads of Numba's `prange`, with less time to compile and to call."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typed_passes import _reload_parfors  # what starts the threads when a cached kernel is loaded
from numba.extending import intrinsic
from numba.np.ufunc.parallel import _launch_threads

_I64 = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_ZERO, _ONE = ir.Constant(_I64, 0), ir.Constant(_I64, 1)
_SHARE = ir.FunctionType(ir.VoidType(), [_BYTES.as_pointer(), _I64.as_pointer(), _I64.as_pointer(), _BYTES])
"""What a thread runs: where its first share would be in memory that began at 0 in steps of 1, how many it has, a step
it needs not, and what they have in common."""
_FOR_ALL = ir.FunctionType(
    ir.VoidType(),
    [_SHARE.as_pointer(), _BYTES.as_pointer(), _I64.as_pointer(), _I64.as_pointer(), _BYTES, _I64, _I64, _I64],
)


@intrinsic
def share_out(typing, part, tasks, arguments):  # type: ignore[no-untyped-def]
    """`part(first, last, *arguments)` for the tasks from 0 to `tasks`, a run of them for each thread.

    With one thread, or one task, it is only a call. `part` returns nothing; where it fails, for lack of memory, so does
    the kernel.
    """
    signature = part.get_call_type(typing, (types.intp, types.intp, *arguments.types), {})

    def generate(context, builder, _, values):  # type: ignore[no-untyped-def]
        _launch_threads()
        compiled = part.dispatcher.overloads[signature.args]
        context.active_code_library._reload_init.add(_reload_parfors)
        context.active_code_library.add_linking_library(compiled.library)
        common = ir.LiteralStructType([_I64, _I64, _I64, context.get_value_type(arguments)])
        share = _share(context, builder, compiled.fndesc, signature, common)
        of_all = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I64, []), "get_num_threads")
        threads, tasks = builder.call(of_all, []), values[1]
        threads = builder.select(builder.icmp_signed("<", tasks, threads), tasks, threads)
        data = cgutils.alloca_once(builder, common)
        for i, value in enumerate((threads, tasks, _ZERO, values[2])):
            builder.store(value, _field(builder, data, i))
        first = cgutils.alloca_once_value(builder, ir.Constant(_BYTES, None))
        counts, steps = cgutils.alloca_once(builder, _I64), cgutils.alloca_once_value(builder, _ONE)
        builder.store(threads, counts)
        given = [first, counts, steps, builder.bitcast(data, _BYTES)]
        with builder.if_else(builder.icmp_signed(">", threads, _ONE)) as (many, one):
            with many:
                for_all = cgutils.get_or_insert_function(builder.module, _FOR_ALL, "numba_parallel_for")
                builder.call(for_all, [share, *given, _ZERO, _ONE, threads])
            with one, builder.if_then(builder.icmp_signed("==", threads, _ONE)):
                builder.call(share, given)
        failed = builder.icmp_signed("!=", builder.load(_field(builder, data, 2)), _ZERO)
        with cgutils.if_unlikely(builder, failed):
            context.call_conv.return_user_exc(builder, MemoryError, ("no memory for what a thread needs",))
        return context.get_dummy_value()

    return types.void(part, types.intp, arguments), generate


def _share(context: Any, builder: Any, part: Any, signature: Any, common: ir.Type) -> Any:
    """A function for a thread to run: its share of the tasks."""
    name = builder.module.get_unique_name(f"{builder.function.name}.share")
    share = ir.Function(builder.module, _SHARE, name)
    share.linkage = "internal"
    inside = ir.IRBuilder(share.append_basic_block())
    data = inside.bitcast(share.args[3], common.as_pointer())
    threads, tasks = (inside.load(_field(inside, data, i)) for i in range(2))
    begin = inside.ptrtoint(inside.load(share.args[0]), _I64)
    end = inside.add(begin, inside.load(share.args[1]))
    first, last = (inside.sdiv(inside.mul(tasks, x), threads) for x in (begin, end))
    given = cgutils.unpack_tuple(inside, inside.load(_field(inside, data, 3)))
    function = context.declare_function(builder.module, part)
    status, _ = context.call_conv.call_function(inside, function, types.none, signature.args, [first, last, *given])
    with inside.if_then(status.is_error, likely=False):
        inside.store(_ONE, _field(inside, data, 2))
    inside.ret_void()
    return share


def _field(builder: Any, struct: Any, i: int) -> Any:
    return builder.gep(struct, [ir.Constant(ir.IntType(32), x) for x in (0, i)], inbounds=True)
