"""Steps of the denoising auto-encoder by DTP, 784-1000-784, beside the same in plain torch.

    .venv/bin/python tests/benchmarks/autoencoder.py [--threads N]

Minibatches of 100 of MNIST, or of random pixels. First both sides are held to compute the same, then they take turns.
The peer draws its noise with `torch.randn`, and has no copy of the weights to refresh and nothing to count.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from eager import EagerAutoencoder
from harness import measure_turns, shown
from step import samples

from lowbit_dtp import data
from lowbit_dtp.backends.numba_cpu import set_threads
from lowbit_dtp.data import Samples
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.training import fit

TOLERANCE = 1e-4


def experiment() -> Experiment:
    """The experiment of `mnist.toml`, with float32 on every link."""
    return replace(Comparison.load("mnist").experiment("dtp-autoencoder", seed=0), links={})


def ours(on: Samples) -> tuple[Callable[[], object], Callable[[], dict[str, np.ndarray]]]:
    """One step of `fit` at each call; and the parameters."""
    setting = experiment()
    net, rule, optimizer = setting.built()
    steps = fit(net, rule, optimizer, on, 10**9, setting.batch, setting.seed, task=setting.learned_task())
    return lambda: next(steps), net.tensors


def theirs(on: Samples, *, same_noise: bool) -> tuple[Callable[[], object], Callable[[], dict[str, np.ndarray]]]:
    """One step of `EagerAutoencoder` at each call on the same minibatches; and the parameters."""
    setting = experiment()
    net, rule, optimizer = setting.built()
    peer = EagerAutoencoder(
        {name: torch.from_numpy(x.copy()) for name, x in net.tensors().items()}, optimizer.learning_rate
    )
    inputs, sizes = torch.from_numpy(on.inputs), setting.sizes
    memory = [torch.empty(setting.batch, n) for n in (sizes[1], sizes[0], sizes[1], sizes[0])]

    def steps():  # type: ignore[no-untyped-def]
        step = 0
        for epoch in range(10**9):
            for chosen in torch.from_numpy(data.order(len(on), setting.seed, epoch)).split(setting.batch):
                for x, name in zip(memory, ("h1", "input"), strict=False):
                    if same_noise:
                        x.copy_(torch.from_numpy(RandomStream(setting.seed, step).normal(f"noise {name}", x.numpy())))
                    else:
                        x.normal_()
                noise, input_noise, *rest = memory
                step += 1
                yield peer.step(inputs[chosen], noise.mul_(rule.noise), input_noise.mul_(rule.input_noise), *rest)

    going = steps()
    return lambda: next(going), lambda: {name: x.numpy() for name, x in peer.parameters.items()}


def check_same(on: Samples, steps: int = 3) -> float:
    """Largest difference between the trained parameters of the two after a few steps. AssertionError above 1e-4."""
    (step, parameters), (other_step, other_parameters) = ours(on), theirs(on, same_noise=True)
    before = {name: x.copy() for name, x in parameters().items()}
    for _ in range(steps):
        step()
        other_step()
    worst = 0.0
    for name in ("h1.weight", "h1.bias", "output.bias"):
        mine, its = parameters()[name], other_parameters()[name]
        difference, change = float(np.abs(mine - its).max()), float(np.abs(mine - before[name]).max())
        assert difference <= min(TOLERANCE, change / 100), f"{name} differs by {difference}, changed by {change}"
        worst = max(worst, difference)
    return worst


def main() -> None:
    """Print the largest difference and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20, help="steps of each turn")
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    set_threads(given.threads)
    torch.set_num_threads(given.threads)
    on = samples(count=5000)
    print(f"largest difference after 3 steps: {check_same(on):.1e}")
    sides = {"lowbit-dtp": ours(on)[0], "torch": theirs(on, same_noise=False)[0]}
    for step in sides.values():
        for _ in range(60):
            step()
    timings = measure_turns(sides, given.turns, dict.fromkeys(sides, given.steps))
    each = ", ".join(f"{name} {1e3 * timings.median(name):.1f} ms" for name in sides)
    print(f"a step: {each}; torch / lowbit-dtp: {shown(timings.ratio('torch', 'lowbit-dtp'))}")


if __name__ == "__main__":
    main()
