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

from llvmlite import binding

from lowbit_dtp.runs import versions
from lowbit_dtp.storage import write_text

RESULTS = Path(__file__).parent / "results"


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


def in_threads(count: int) -> str:
    """How many threads, in words."""
    return f"{count} thread{'s' * (count > 1)}"


def processor() -> str:
    """What the processor calls itself."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine() -> str:
    """The processor, and what LLVM calls it: several kinds call themselves `AMD EPYC`."""
    return f"{processor()} {binding.get_host_cpu_name()}"


def described() -> str:
    """The command, the day, the machine and the versions, in a paragraph."""
    numbers = versions()
    try:
        import onnxruntime

        numbers["onnxruntime"] = onnxruntime.__version__
    except ImportError:
        pass
    return (
        f"{datetime.date.today()}: `python {shlex.join(sys.argv)}` on {processor()} ({os.cpu_count()} cores, LLVM's "
        f"{binding.get_host_cpu_name()}), {platform.platform()}; "
        f"{', '.join(f'{name} {number}' for name, number in numbers.items())}."
    )


class Watch:
    """What other processes, and the host of a virtual machine, take of the processor from now on. Needs Linux."""

    def __init__(self) -> None:
        self.started, self.before = perf_counter(), self._seconds()

    def said(self) -> str:
        """A sentence: how many cores they took on average, and a warning if that is much; "" where it is not known."""
        if not self.before:
            return ""
        wall = perf_counter() - self.started
        others, host = (max(0.0, b - a) / wall for a, b in zip(self.before, self._seconds(), strict=True))
        busy = " The machine was busy: judge nothing by small differences." if others + host > 0.1 else ""
        return f"Meanwhile other processes took {others:.2f} cores, and the host {host:.2f}.{busy}"

    def _seconds(self) -> list[float]:
        """Seconds of all cores spent on other processes than this and its children, and by the host."""
        path = Path("/proc/stat")
        if not path.exists():
            return []
        user, nice, system, _, _, irq, soft_irq, steal = map(int, path.read_text().split()[1:9])
        tick = os.sysconf("SC_CLK_TCK")
        return [(user + nice + system + irq + soft_irq) / tick - sum(os.times()[:4]), steal / tick]


def write(lines: Sequence[str], name: str) -> Path:
    """Write `lines` to `results/<name>.md`, without spaces, and tell where."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = RESULTS / f"{slug}.md"
    write_text(path, "\n".join([*lines, ""]))
    return path
