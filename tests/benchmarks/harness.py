"""How sides are timed in turn, so that whatever else the machine does falls on all, and how it is written down."""

import datetime
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from lowbit_dtp.runs import versions
from lowbit_dtp.storage import write_text

RESULTS = Path(__file__).parent / "results"

_OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


@dataclass(frozen=True)
class Timings:
    """Seconds a call of each side, in each round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, side: str) -> float:
        """Seconds a call of `side`."""
        return statistics.median(self.seconds[side])

    def ratio(self, peer: str, side: str) -> tuple[float, float, float]:
        """How many times as long `peer` takes as `side`: quartile, median and quartile of the rounds' ratios."""
        ratios = [a / b for a, b in zip(self.seconds[peer], self.seconds[side], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return low, middle, high


def measure(sides: Mapping[str, Callable[[], object]], rounds: int, turn: float = 0.02) -> Timings:
    """Time `sides` in turn, about `turn` seconds each, every other round backwards."""
    repeats = {}
    for name, call in sides.items():
        call()
        started = perf_counter()
        call()
        repeats[name] = max(1, int(turn / max(perf_counter() - started, 1e-7)))
    return measure_turns(sides, rounds, repeats)


def measure_turns(sides: Mapping[str, Callable[[], object]], rounds: int, repeats: Mapping[str, int]) -> Timings:
    """Time `sides` in turn, so many calls each, every other round backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds):
        for name in list(sides) if i % 2 else reversed(list(sides)):
            call, count = sides[name], repeats[name]
            started = perf_counter()
            for _ in range(count):
                call()
            seconds[name].append((perf_counter() - started) / count)
    return Timings(seconds)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def shown(ratio: tuple[float, float, float]) -> str:
    """A ratio with its quartiles: `4.1 (3.9 to 4.2)`."""
    low, middle, high = ratio
    digits = 2 if middle < 10 else 1
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def processor() -> str:
    """What the processor calls itself."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def described() -> str:
    """The command, the day, the machine and the versions, in a paragraph."""
    import llvmlite.binding

    numbers = versions()
    try:
        import onnxruntime

        numbers["onnxruntime"] = onnxruntime.__version__
    except ImportError:
        pass
    return (
        f"{datetime.date.today()}: `python {shlex.join(sys.argv)}` on {processor()} ({os.cpu_count()} cores, LLVM's "
        f"{llvmlite.binding.get_host_cpu_name()}), {platform.platform()}; "
        f"{', '.join(f'{name} {number}' for name, number in numbers.items())}."
    )


def without_blas_overrides() -> None:
    """Start this program again without settings that hold NumPy's BLAS to the kernels of another processor."""
    if any(name in os.environ for name in _OVERRIDES):
        print(f"started again without {' and '.join(_OVERRIDES)}", file=sys.stderr, flush=True)
        rest = {name: value for name, value in os.environ.items() if name not in _OVERRIDES}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], rest)


def write(lines: Sequence[str], machine: str = "") -> Path:
    """Write `lines` to `results/<machine>.md`, of which the default is the processor, and tell where."""
    slug = re.sub(r"[^a-z0-9]+", "-", (machine or processor()).lower()).strip("-")
    path = RESULTS / f"{slug}.md"
    write_text(path, "\n".join([*lines, ""]))
    return path
