"""Kernels and training steps beside their peers, in one run: `make bench`.

    .venv/bin/python tests/benchmarks/bench.py

Prints one table after the other, and writes them to `results/<processor>.md`. Sides take turns; a ratio is the median
of the rounds' ratios, with quartiles, and above 1 where lowbit-dtp is faster.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import epoch
import harness
import limits
import numpy as np
import peers
import step
from harness import measure, shown, table

from lowbit_dtp.backends import backend_of, multiplied, packed
from lowbit_dtp.backends.numba_cpu import set_threads
from lowbit_dtp.formats import Format, binary, fixed, float32
from lowbit_dtp.ledger import Flow, Ledger
from lowbit_dtp.links import Link, Signal

SHAPES = [(100, 784, 500), (100, 500, 500), (256, 1024, 1024), (1024, 4096, 4096), (1, 500, 500), (10_000, 784, 500)]
"""Rows, inputs and outputs."""

GOALS = {
    "binary x binary": "10",
    "binary x ternary": "8",
    "binary x 2 bits": "7",
    "binary x int8": "4",
    "binary x int16": "4",
    "binary x float32": "2",
    "weight gradient, binary x float32": "2.9",
    "2 x 2 bits": "3.3",
    "4 x 4 bits": "3.3",
    "float32 x float32": "",
}
"""What each is to be faster by than torch's float32 product."""

SIGNED_2, SIGNED_4 = fixed(2, 2), fixed(4, 4)

READ, FMA = "bytes a second read, first cache", "float32 multiply-adds a second"
COSTS = {
    "planes": ("popcount bits a second", 1.0),
    "look-up": ("byte-shuffle bytes a second", 0.25),
    "bytes": ("byte multiply-adds a second", 1.0),
    "pairs": ("products of pairs by sums of bytes a second", 1.0),
}
"""Which limit of the machine a way to multiply whole numbers runs into, and what one product takes of it."""


LIMITED = {
    FMA: "float32 x float32",
    READ: "binary x float32, by look-ups alone: tables must be made and sums kept, too",
    "popcount bits a second": "binary x binary, ternary, 2 bits",
    "byte-shuffle bytes a second": "the same where bits are not counted in vectors",
    "byte multiply-adds a second": "binary x int8 (two for int16)",
    "products of pairs by sums of bytes a second": "2 x 2 and 4 x 4 bits",
    "bytes a second read, second cache": "weights of a layer; packing",
    "bytes a second written, second cache": "unpacking",
    limits.CALL: "one sample at a time; packing and unpacking",
    "bytes a second read, memory": "parameters, gradients and optimizer state where the last cache is too small",
}
"""What of ours each limit of the machine bounds."""


@dataclass(frozen=True)
class Side:
    """A product of ours, which limit of the machine it runs into, and what one multiplication takes of that."""

    call: Callable[[], object]
    limit: str
    cost: float

    def share(self, products: int, seconds: float, most: Mapping[str, float]) -> str:
        """How much of the time that it takes on one thread its limit would take, with a call of a kernel."""
        return f"{(most[limits.CALL] + products * self.cost / most[self.limit]) / seconds:.0%}"


def sent(x: np.ndarray, fmt: Format) -> Signal:
    """`x` over a link."""
    return Link(fmt, fmt, "below", "above").send(x, Flow.FORWARD, "activity", Ledger())


def of_whole(call: Callable[[], object], levels: packed.Levels, weights: packed.Weights) -> Side:
    """A product of whole numbers."""
    way = packed.way_of(levels, weights)
    limit, cost = COSTS[way]
    planes = levels.highest.bit_length()
    passes = {"planes": planes * weights.orders, "look-up": planes * weights.plain_orders, "pairs": 1}
    return Side(call, limit, cost * (weights.digits[1] if way == "bytes" else passes[way]))


def products(shape: tuple[int, int, int]) -> dict[str, Side]:
    """Our products of `shape`. Float32 activations are packed within the time, but for codes of more than one bit."""
    rows, inputs, outputs = shape
    random, weights = np.random.default_rng(0), (inputs, outputs)
    x, w = (random.standard_normal(size).astype(np.float32) for size in ((rows, inputs), weights))
    error, bias = random.standard_normal((rows, outputs)).astype(np.float32), np.zeros(outputs, np.float32)
    out, xp = np.empty((rows, outputs), np.int32), backend_of(x)
    signal, dense = sent(x, binary), sent(x, float32)

    def whole(low: int, high: int) -> packed.Weights:
        return packed.Weights.arrange(random.integers(low, high, weights, endpoint=True))

    def of_signs(arranged: packed.Weights) -> Side:
        levels = packed.levels_of(binary)
        return of_whole(lambda: packed.product_of(x, 0.0, levels, arranged, out), levels, arranged)

    def of_codes(fmt: Format, arranged: packed.Weights) -> Side:
        words, levels = packed.pack(fmt.encode(x), fmt.bits), packed.levels_of(fmt)
        return of_whole(lambda: packed.product(words, levels, arranged, out), levels, arranged)

    return {
        "binary x binary": of_signs(packed.Weights.arrange(2 * random.integers(0, 2, weights) - 1)),
        "binary x ternary": of_signs(whole(-1, 1)),
        "binary x 2 bits": of_signs(whole(-2, 1)),
        "binary x int8": of_signs(whole(-128, 127)),
        "binary x int16": of_signs(whole(-32768, 32767)),
        # one number of four bytes is looked up for four products
        "binary x float32": Side(lambda: xp.drive(signal, w, bias), READ, 1.0),
        "weight gradient, binary x float32": Side(lambda: multiplied(xp.gradients(signal, error, None)[0]), READ, 1.0),
        "2 x 2 bits": of_codes(SIGNED_2, whole(-2, 1)),
        "4 x 4 bits": of_codes(SIGNED_4, whole(-8, 7)),
        "float32 x float32": Side(lambda: xp.drive(dense, w, bias), FMA, 1.0),
    }


def product_tables(threads: int, rounds: int, most: Mapping[str, float]) -> Iterator[str]:
    """A table for each shape."""
    for shape in SHAPES:
        rows, inputs, outputs = shape
        random = np.random.default_rng(0)
        x, w = (random.standard_normal(s).astype(np.float32) for s in ((rows, inputs), (inputs, outputs)))
        mine, theirs = products(shape), peers.products(x, w, threads)
        timings = measure({name: side.call for name, side in mine.items()} | theirs, rounds)
        count = rows * inputs * outputs
        others = [peer for peer in theirs if peer != "torch float32"]
        lines = [
            [
                name,
                f"{timings.median(name) * 1e6:,.0f}",
                f"{count / timings.median(name) / 1e9:,.0f}",
                shown(timings.ratio("torch float32", name)),
                GOALS.get(name, ""),
                *(f"{timings.ratio(peer, name)[1]:.2f}" for peer in others),
                mine[name].share(count, timings.median(name) * threads, most) if name in mine else "",
            ]
            for name in timings.seconds
        ]
        ratios = ["torch float32 / it", "goal", *(f"{peer} / it" for peer in others)]
        yield from ("", f"**{rows} x {inputs} x {outputs}**", "")
        yield from table(["", "µs", "10^9 products/s", *ratios, "of the limit"], lines)


def packing_table(rounds: int, most: Mapping[str, float]) -> Iterator[str]:
    """Packing and unpacking, in the cache. Their limit is to read, or write, the floats by one call of a kernel."""
    peer_of, goals = {"pack": "np.packbits", "unpack": "np.unpackbits"}, {"pack": "2", "unpack": "8"}
    rates = {"pack": most["bytes a second read, second cache"], "unpack": most["bytes a second written, second cache"]}
    lines = []
    for shape in ((100, 500), (100, 784), (256, 1024)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        words, _ = packed.pack_signs(x)
        mine = {
            "pack": lambda x=x: packed.pack_signs(x),
            "unpack": lambda words=words, n=shape[1]: packed.unpack_signs(words, n, -1.0, 1.0),
        }
        timings = measure(mine | peers.packing(x), rounds)
        for name, peer in peer_of.items():
            seconds, ratio = timings.median(name), shown(timings.ratio(peer, name))
            share = f"{(most[limits.CALL] + x.nbytes / rates[name]) / seconds:.0%}"
            size = f"{name} {shape[0]} x {shape[1]}"
            lines.append([size, f"{seconds * 1e6:.1f}", peer, ratio, goals[name], share])
    yield from table(["", "µs", "peer", "peer / it", "goal", "of the limit"], lines)


STEP_GOALS = {"torch.compile": "3", "dense": "2.7", "autograd": "3", "DTP": "4.5"}


def step_table(thread_counts: list[int], turns: int) -> Iterator[str]:
    """Epochs of training."""
    lines = []
    for case in step.CASES:
        same = step.check_same(case, step.samples(case.dense, 5000))
        for threads in thread_counts:
            timings = step.epochs(case, threads, turns)
            milliseconds = (f"{timings.median(side) * 1e3:.2f}" for side in ("lowbit-dtp", "torch"))
            goal = next((goal for key, goal in STEP_GOALS.items() if key in case.name), "")
            ratio = shown(timings.ratio("torch", "lowbit-dtp"))
            lines.append([case.name, str(threads), *milliseconds, ratio, goal, f"{same:.0e}"])
    header = ["", "threads", "lowbit-dtp, ms a step", "torch, ms a step", "torch / lowbit-dtp", "goal", "differ by"]
    yield from table(header, lines)


def report(thread_counts: list[int], rounds: int, turns: int) -> Iterator[str]:
    """Everything, line by line, as it is measured."""
    yield from (f"# Benchmarks on {harness.processor()}", "", harness.described(), "")
    yield f"Kernels: {packed.describe()}."
    if missing := peers.missing():
        yield f"Not installed, and left out: {', '.join(missing)}."
    yield from ("", "## Limits of the machine, one thread", "")
    most = limits.measured()
    yield from table(
        ["", "", "limits"], [[name, f"{most[name]:.3g}", what] for name, what in LIMITED.items() if name in most]
    )
    for threads in thread_counts:
        set_threads(threads)
        yield from ("", f"## Products, {threads} thread{'s' * (threads > 1)}")
        yield from product_tables(threads, rounds, most)
    set_threads(1)
    yield from ("", "## Packing, one thread", "", *packing_table(rounds, most))
    images = "MNIST" if step.has_mnist() else "random images as sparse as MNIST"
    yield from ("", f"## Training 784-500-500-10 on {images}, an epoch of each in {turns} turns", "")
    yield from step_table(thread_counts, turns)
    case = step.CASES[1]
    spent = sorted(step.shares(case).items(), key=lambda share: -share[1])
    yield from ("", f"Where a step of ours goes, one thread, of {case.name}:")
    yield from (", ".join(f"{name} {ms:.2f} ms" for name, ms in spent if ms >= 0.02) + ".",)
    small, overhead = "-".join(map(str, step.SMALL)), 1e3 * step.overhead()
    yield f"Of {small} and 8 samples, where little but Python is left, a step takes {overhead:.2f} ms."
    first = epoch.first_step()
    yield f"The first step in a new process takes {first['compiled']:.1f} s if kernels must be compiled, and"
    yield f"{first['cached']:.2f} s if they are cached, beside {first['Numba']:.2f} s in which Numba itself starts."
    if step.has_mnist():
        yield from ("", *memory())


def memory() -> Iterator[str]:
    """Peak memory of an epoch, and what there is no way around."""
    ours, eager, as_bytes = (epoch.epoch_memory(side) / 1e6 for side in ("ours", "eager", "eager-bytes"))
    numba, images, state = (x / 1e6 for x in (epoch.numba_memory(), epoch.image_bytes(), epoch.state_bytes()))
    yield "Peak memory of a process that trains DTP for an epoch of MNIST (goal: half of eager torch's):"
    yield f"{ours:.0f} MB; eager torch {eager:.0f} MB, or {as_bytes:.0f} MB if it keeps pixels as bytes."
    yield f"A process that runs one cached kernel of Numba takes {numba:.0f} MB; the images are {images:.0f} MB, and"
    yield f"the parameters with their optimizer's state {state:.0f} MB: {numba + images + state:.0f} MB together."


def main() -> None:
    """Measure, print and write."""
    harness.without_blas_overrides()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each product")
    parser.add_argument("--turns", type=int, default=20, help="turns of each side in an epoch")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    lines = []
    for line in report(options.threads, options.rounds, options.turns):
        print(line, flush=True)
        lines.append(line)
    print(f"\nwritten to {harness.write(lines)}")


if __name__ == "__main__":
    main()
