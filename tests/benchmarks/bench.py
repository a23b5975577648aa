"""Kernels and training steps beside their peers, in one run: `make bench`.

    .venv/bin/python tests/benchmarks/bench.py

Prints one table after the other, and writes them to `results/<processor>.md`. Sides take turns; a ratio is the median
of the rounds' ratios, with quartiles, and above 1 where lowbit-dtp is faster.
"""

import argparse
from collections.abc import Callable, Iterator

import epoch
import harness
import limits
import numpy as np
import peers
import step
from harness import measure, shown, table

from lowbit_dtp.backends import backend_of, packed
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


def sent(x: np.ndarray, fmt: Format) -> Signal:
    """`x` over a link."""
    return Link(fmt, fmt, "below", "above").send(x, Flow.FORWARD, "activity", Ledger())


def whole(levels: int, low: int, shape: tuple[int, int]) -> packed.Weights:
    """Random weights of so many `levels` from `low` on."""
    return packed.Weights.arrange(np.random.default_rng(1).integers(low, low + levels, shape))


def products(shape: tuple[int, int, int]) -> dict[str, Callable[[], object]]:
    """Our products of `shape`. Float32 activations are packed within the time, but for codes of more than one bit."""
    rows, inputs, outputs = shape
    random, weights = np.random.default_rng(0), (inputs, outputs)
    x, w = (random.standard_normal(size).astype(np.float32) for size in ((rows, inputs), weights))
    error, bias = random.standard_normal((rows, outputs)).astype(np.float32), np.zeros(outputs, np.float32)
    out, gradient = np.empty((rows, outputs), np.int32), np.empty(weights, np.float32)
    signal, dense, xp, signs = sent(x, binary), sent(x, float32), backend_of(x), packed.levels_of(binary)
    arranged = {
        "binary x binary": packed.Weights.arrange(2 * random.integers(0, 2, weights) - 1),
        "binary x ternary": whole(3, -1, weights),
        "binary x 2 bits": whole(4, -2, weights),
        "binary x int8": whole(256, -128, weights),
        "binary x int16": whole(65536, -32768, weights),
    }

    def of_signs(name: str) -> Callable[[], object]:
        return lambda: packed.product_of(x, 0.0, signs, arranged[name], out)

    def of_codes(fmt: Format, most: int) -> Callable[[], object]:
        words, levels = packed.pack(fmt.encode(x), fmt.bits), packed.levels_of(fmt)
        coded = whole(2 * most, -most, weights)
        return lambda: packed.product(words, levels, coded, out)

    return (
        {name: of_signs(name) for name in arranged if _fits(name, shape)}
        | {
            "binary x float32": lambda: xp.drive(signal, w, bias),
            "weight gradient, binary x float32": lambda: np.asarray(xp.gradients(signal, error, gradient)[0]),
            "2 x 2 bits": of_codes(SIGNED_2, 2),
            "4 x 4 bits": of_codes(SIGNED_4, 8),
            "float32 x float32": lambda: xp.drive(dense, w, bias),
        }
        if (dense := sent(x, Link().forward))
        else {}
    )


def _fits(name: str, shape: tuple[int, int, int]) -> bool:
    """Whether sums are known to fit in 32 bits."""
    return name != "binary x int16" or shape[1] * 32768 < 2**31


def product_tables(threads: int, rounds: int) -> Iterator[str]:
    """A table for each shape."""
    for shape in SHAPES:
        rows, inputs, outputs = shape
        random = np.random.default_rng(0)
        x, w = (random.standard_normal(s).astype(np.float32) for s in ((rows, inputs), (inputs, outputs)))
        mine, theirs = products(shape), peers.products(x, w, threads)
        timings = measure(mine | theirs, rounds)
        multiplications = rows * inputs * outputs
        lines = [
            [
                name,
                f"{timings.median(name) * 1e6:,.0f}",
                f"{multiplications / timings.median(name) / 1e9:,.0f}",
                shown(timings.ratio("torch float32", name)),
                *(f"{timings.ratio(peer, name)[1]:.2f}" for peer in theirs if peer != "torch float32"),
                GOALS.get(name, ""),
            ]
            for name in (*mine, *theirs)
        ]
        others = [peer for peer in theirs if peer != "torch float32"]
        header = ["", "µs", "10^9 products/s", "torch float32 / it", *(f"{peer} / it" for peer in others), "goal"]
        yield from ("", f"**{rows} x {inputs} x {outputs}**", "", *table(header, lines))


def packing_table(rounds: int) -> Iterator[str]:
    """Packing and unpacking, in the cache."""
    lines = []
    for shape in ((100, 500), (100, 784), (256, 1024)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        words, _ = packed.pack_signs(x)
        mine = {
            "pack": lambda x=x: packed.pack_signs(x),
            "unpack": lambda words=words, n=shape[1]: packed.unpack_signs(words, n, -1.0, 1.0),
        }
        timings = measure(mine | peers.packing(x), rounds)
        for name, peer in (("pack", "np.packbits"), ("unpack", "np.unpackbits")):
            ratio, goal = shown(timings.ratio(peer, name)), {"pack": "2", "unpack": "8"}[name]
            lines.append([f"{name} {shape[0]} x {shape[1]}", f"{timings.median(name) * 1e6:.1f}", peer, ratio, goal])
    yield from table(["", "µs", "peer", "peer / it", "goal"], lines)


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
    yield from table(["", ""], [[name, f"{number:.3g}"] for name, number in limits.measured().items()])
    for threads in thread_counts:
        set_threads(threads)
        yield from ("", f"## Products, {threads} thread{'s' * (threads > 1)}")
        yield from product_tables(threads, rounds)
    set_threads(1)
    yield from ("", "## Packing, one thread", "", *packing_table(rounds))
    images = "MNIST" if step.has_mnist() else "random images as sparse as MNIST"
    yield from ("", f"## Training 784-500-500-10 on {images}, an epoch of each in {turns} turns", "")
    yield from step_table(thread_counts, turns)
    if step.has_mnist():
        ours, eager, as_bytes = (epoch.epoch_memory(side) / 1e6 for side in ("ours", "eager", "eager-bytes"))
        yield from ("", f"Peak memory of a process that trains DTP for an epoch of MNIST: {ours:.0f} MB; eager torch")
        yield f"{eager:.0f} MB, or {as_bytes:.0f} MB if it keeps pixels as bytes. The goal was half of eager torch."


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
