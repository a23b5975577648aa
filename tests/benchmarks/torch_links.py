"""A training step of ResNet-18 with links, beside the same without, in memory with one thread.

    .venv/bin/python tests/benchmarks/torch_links.py

Times are seconds of CPU of this process, which other processes lengthen less than the time on a clock. Prints what it
measures and writes it to `results/torch-links.md`, in about a minute of CPU.
"""

from collections.abc import Callable
from time import process_time

import torch
from harness import Timings, Watch, described, shown, table, write
from torch import nn

from lowbit_dtp.torch_modules import wire

BATCH, SIZE, ROUNDS = 8, 112, 11


class Block(nn.Module):
    """Two convolutions and a way around them (He, Zhang, Ren, Sun, CVPR 2016)."""

    def __init__(self, below: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(below, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu, self.downsample = nn.ReLU(inplace=True), nn.Sequential()
        if stride != 1 or below != width:
            self.downsample = nn.Sequential(nn.Conv2d(below, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: torch.Tensor = self.relu(made + self.downsample(x))
        return out


def resnet18(classes: int = 10) -> nn.Sequential:
    """ResNet-18 with the names that torchvision gives its layers."""
    parts: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, 64, 7, 2, 3, bias=False), "bn1": nn.BatchNorm2d(64), "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, 2, 1),
    }  # fmt: skip
    below = 64
    for i, width in enumerate((64, 128, 256, 512), 1):
        parts[f"layer{i}"] = nn.Sequential(Block(below, width, 1 if i == 1 else 2), Block(width, width, 1))
        below = width
    parts |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(512, classes)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def stepper(formats: dict[str, str] | None, rest: str | None) -> Callable[[], None]:
    """A training step of a model with links of `formats`; None for no links."""
    torch.manual_seed(0)
    model, x, labels = resnet18(), torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(10, (BATCH,))
    if formats is not None:
        wire(model, formats, rest)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def measure(sides: dict[str, Callable[[], None]], rounds: int) -> Timings:
    """Seconds of CPU of a step of each side, in turn, every other round backwards, after a first one."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for step in sides.values():
        step()
    for i in range(rounds):
        for name in list(sides) if i % 2 else reversed(list(sides)):
            started = process_time()
            sides[name]()
            seconds[name].append(process_time() - started)
    return Timings(seconds)


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    formats = {"layer1": "fixed(4,1)/shared(4)", "layer2": "binary/ternary"}
    names = {"none": "no links", "two": "layer1 and layer2", "all": 'layer1, layer2 and rest="float32"'}
    sides = {"none": stepper(None, None), "two": stepper(formats, None), "all": stepper(formats, "float32")}
    watch = Watch()
    timings = measure(sides, ROUNDS)
    rows = [[names[side], f"{1e3 * timings.median(side):.0f}", shown(timings.ratio(side, "none"))] for side in sides]
    lines = [
        "# Links in a torch model",
        "",
        described(),
        watch.said(),
        "",
        f"A training step of ResNet-18, {BATCH} images of {SIZE} x {SIZE}, SGD, in memory, one thread. Median of "
        f"{ROUNDS} rounds, sides in turn; quartiles of the rounds' ratios.",
        "",
        *table(["links on", "ms of CPU", "times as long as without"], rows),
    ]
    print("\n".join(lines))
    write(lines, "torch-links")


if __name__ == "__main__":
    main()
