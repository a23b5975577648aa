"""Rounding and overflow of fixed point against `ap_fixed` of high-level synthesis, in headers that hls4ml brings."""

import shutil
import subprocess
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from lowbit_dtp.formats import FixedPoint
from lowbit_dtp.formats.fixed_point import OVERFLOWS, ROUNDINGS

ROUNDING = {"nearest-even": "AP_RND_CONV", "floor": "AP_TRN"}
OVERFLOW = {"saturate": "AP_SAT", "saturate-symmetric": "AP_SAT_SYM", "wrap": "AP_WRAP"}
WORDS = [(2, 1), (5, -1), (4, 7)]
"""Bits of a word, and those before the point: one, none, and more than all."""

FORMATS = [
    FixedPoint(word, integer, rounding, overflow, signed)
    for (word, integer), rounding, overflow, signed in product(WORDS, ROUNDING, OVERFLOW, (True, False))
]
PROGRAM = """
#include <cstdio>
#include "ap_fixed.h"

static const double values[][{count}] = {{
{values}
}};

template <class Number> static void show(const double *row)
{{
    for (int i = 0; i < {count}; i++)
        std::printf("%.17g ", Number(row[i]).to_double());
    std::printf("\\n");
}}

int main()
{{
{calls}
}}
"""


def _values(fmt: FixedPoint, random: np.random.Generator) -> np.ndarray:
    """Numbers on, between and beside the steps of `fmt`, up to three times its range: ties, and their neighbours."""
    steps = np.concatenate([random.integers(-3 << fmt.word, 3 << fmt.word, 40), [fmt.lowest_level, fmt.highest_level]])
    beside = np.array([0, 0.5, 0.25, 0.75])
    exact = (steps[:, None] + beside).ravel() * fmt.step
    return np.concatenate([exact, np.nextafter(exact[1::4], np.inf), np.nextafter(exact[1::4], -np.inf), [0.0, -0.0]])


@pytest.mark.skipif(find_spec("hls4ml") is None, reason="hls4ml, whose headers of ap_fixed are compared, is not there")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_fixed_point_rounds_and_overflows_as_ap_fixed(tmp_path):
    random = np.random.default_rng(0)
    values = np.array([_values(fmt, random) for fmt in FORMATS])
    names = ["ap_fixed" if fmt.signed else "ap_ufixed" for fmt in FORMATS]
    modes = [f"{fmt.word}, {fmt.integer}, {ROUNDING[fmt.rounding]}, {OVERFLOW[fmt.overflow]}" for fmt in FORMATS]
    rows = ",\n".join("{" + ", ".join(map(float.hex, row)) + "}" for row in values.tolist())
    types = [f"{name}<{mode}>" for name, mode in zip(names, modes, strict=True)]
    calls = "\n".join(f"    show<{name} >(values[{index}]);" for index, name in enumerate(types))
    (tmp_path / "numbers.cpp").write_text(PROGRAM.format(count=values.shape[1], values=rows, calls=calls))
    headers = Path(find_spec("hls4ml").origin).parent / "templates/vivado/ap_types"
    command = ["g++", "-O0", "-w", f"-I{headers}", tmp_path / "numbers.cpp", "-o", tmp_path / "numbers"]
    subprocess.run(command, check=True)
    printed = subprocess.run([tmp_path / "numbers"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert values.size > 8_000
    for fmt, row, line in zip(FORMATS, values, printed, strict=True):
        assert fmt.decode(fmt.encode(row)).tolist() == [float(x) for x in line.split()], fmt.name


def test_every_deterministic_mode_is_compared():
    assert {*ROUNDING, "stochastic"} == set(ROUNDINGS)
    assert set(OVERFLOW) == set(OVERFLOWS)
