"""Export targets as test parameters, skipped with the reason where what verifies them is missing."""

from importlib.util import find_spec

import pytest

from export import verify
from export.qonnx_check import can_run_qonnx
from tests.conformance.cases import TARGETS

COMPILER = verify.c_compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler: neither $CC nor cc is there")
NEEDS = {
    "c": needs_compiler,
    "nir": pytest.mark.skipif(find_spec("nir") is None, reason="the package nir is not installed"),
    "qonnx": pytest.mark.skipif(not can_run_qonnx(), reason="no qonnx or onnxruntime: install lowbit-dtp[qonnx]"),
}
EACH = [pytest.param(target, marks=NEEDS.get(target, ())) for target in TARGETS]
ALL = [each for each in EACH if each.values[0] not in ("aer", "verilog")]
"""Targets that compute, and quickly; events and simulated hardware have tests of their own."""
