"""How kernels are compiled: decorators."""

import gc
from functools import partial
from typing import Any

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _Compiler(Compiler):
    """Numba's compiler without garbage collection, which takes a fifth of the time and finds little."""

    def compile_extra(self, func: Any) -> Any:
        collects = gc.isenabled()
        gc.disable()
        try:
            return super().compile_extra(func)
        finally:
            if collects:
                gc.enable()


kernel: Any = partial(njit, cache=True, nogil=True, pipeline_class=_Compiler)
"""Decorator of functions that Python calls."""


class _Part(JITCodeLibrary):
    """The code of a part of kernels, as it was written: optimized, and made machine code of, within the kernels."""

    def _optimize_final_module(self) -> None: ...

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0  # as for what has no wrapper that Python could call

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, name: str, environment: Any) -> None: ...


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        return bool(super().run_pass(state))


class _PartCompiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes[:] = [(_PartLowering if step is NativeLowering else step, why) for step, why in passes.passes]
        passes.finalize()
        return [passes]


subroutine: Any = partial(njit, no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_PartCompiler)
"""Decorator of functions that only kernels call: compiled only within these, to save time."""
