"""What links cost in a training step of a ResNet-18 on a CPU.

    .venv/bin/python tests/benchmarks/links.py

Times steps of a plain model and of wired ones in turn, in seconds of CPU of this process, which what else the machine
does changes less than the time of day; one thread. Writes what it measures to `results/links-<machine>.md`. Goal: at
most 1.15 times the plain step.
"""

import argparse
from collections.abc import Callable
from time import process_time

import torch
from harness import Timings, Watch, described, machine, shown, table, write
from torch import Tensor, nn

from lowbit_dtp.torch_modules import wire

WIRED = {
    "layer1 fixed(4,1)/shared(4), layer2 binary/ternary": None,
    "the same, and float32 on the outputs of all other modules": "float32",
}
"""Formats of the rest, by what is wired."""


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a path that skips them (He et al., 2016)."""

    def __init__(self, below: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(below, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential()
        if stride > 1 or below != width:
            self.downsample = nn.Sequential(nn.Conv2d(below, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(inner + self.downsample(x))
        return out


def resnet18(classes: int = 1000) -> nn.Sequential:
    """ResNet-18, with torchvision's names of modules."""
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(3, 64, 7, 2, 3, bias=False))
    model.add_module("bn1", nn.BatchNorm2d(64))
    model.add_module("relu", nn.ReLU(inplace=True))
    model.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
    below = 64
    for i, width in enumerate((64, 128, 256, 512)):
        layer = nn.Sequential(Block(below, width, 1 if i == 0 else 2), Block(width, width, 1))
        model.add_module(f"layer{i + 1}", layer)
        below = width
    model.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(512, classes))
    return model


def step_of(images: Tensor, labels: Tensor, formats: dict[str, str], rest: str | None) -> Callable[[], None]:
    """A step of stochastic gradient descent with momentum; no links if `formats` is empty."""
    torch.manual_seed(0)
    model = resnet18()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    if formats:
        wire(model, formats, rest)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def measure(sides: dict[str, Callable[[], None]], rounds: int) -> Timings:
    """Seconds of CPU of a step of each side, in turn, every other round backwards, after a first one."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        call()
    for i in range(rounds):
        for name in list(sides) if i % 2 else reversed(list(sides)):
            started = process_time()
            sides[name]()
            seconds[name].append(process_time() - started)
    return Timings(seconds)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="images in a step (default 8)")
    parser.add_argument("--rounds", type=int, default=11, help="steps of each model (default 11)")
    parser.add_argument("--quick", action="store_true", help="two rounds of two images of 64 x 64; written nowhere")
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch, rounds, side = (2, 2, 64) if options.quick else (options.batch, options.rounds, 224)
    images, labels = torch.randn(batch, 3, side, side), torch.arange(batch)
    formats = {"layer1": "fixed(4,1)/shared(4)", "layer2": "binary/ternary"}
    sides = {"no links": step_of(images, labels, {}, None)}
    sides |= {name: step_of(images, labels, formats, rest) for name, rest in WIRED.items()}
    watch = Watch()
    timings = measure(sides, rounds)
    rows = [
        [
            name,
            f"{timings.median(name) * 1e3:.0f}",
            "" if name == "no links" else shown(timings.ratio(name, "no links")),
        ]
        for name in sides
    ]
    lines = [
        f"# Links in a ResNet-18 on {machine()}",
        "",
        described(),
        "",
        f"A training step of {batch} images of {side} x {side}, one thread, {rounds} rounds; goal: at most 1.15 times "
        f"the step without links. {watch.said()}",
        "",
        *table(["links", "ms of CPU a step", "times the step without links (quartiles)"], rows),
    ]
    print("\n".join(lines))
    if not options.quick:
        print(f"\nwritten to {write(lines, f'links {machine()}')}")


if __name__ == "__main__":
    main()
