"""The benchmark of the GPU path runs, a little of everything on a CPU: it is mostly changed where there is no GPU."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu.py"
RATIO = r"\d+\.\d+ \(\d+\.\d+ to \d+\.\d+\)"
"""With its quartiles; how large it is depends on the machine, and may be printed as 0."""


def test_everything_is_measured() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--small"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("## ")] == [
        "## A step of DTP, both mappings in each minibatch",
        "## 2 epochs of 2 seeds in one batch, tested after each",
        "## Binary layers",
        "## Memory",
    ]
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in lines if line.startswith("| ")}
    microseconds, ratio, _ = rows["recorded, 3 networks"]
    assert float(microseconds) > 0 and re.fullmatch(RATIO, ratio)
    operations, of_best, ratio, _ = rows["256 x 256 x 256, words to int32"]
    assert re.fullmatch(r"\d+\.\d", operations) and re.fullmatch(r"\d+ %", of_best) and re.fullmatch(RATIO, ratio)
