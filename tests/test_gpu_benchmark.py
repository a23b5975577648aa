"""The benchmark of the GPU path runs, a little of everything on a CPU: it is mostly changed where there is no GPU."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu.py"


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
    assert float(rows["recorded, 3 networks"][0]) > 0
    assert float(rows["256 x 256 x 256, words to int32"][0]) > 0
