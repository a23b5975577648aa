"""Small networks, and an oracle that computes them in fractions, without thresholds or inverse functions."""

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import FixedNetwork
from lowbit_dtp.formats import FixedPoint, Format
from lowbit_dtp.storage import write_tensors

Network = tuple[dict[str, Any], dict[str, Any]]


def _network(
    links: Sequence[str] = ("ufixed(8,0)", "binary", "float32"),
    activations: Sequence[str] = ("tanh", "tanh"),
    sizes: Sequence[int] = (5, 4, 3, 3),
    seed: int = 0,
) -> Network:
    random = np.random.default_rng(seed)
    names = ["input", *(f"h{k}" for k in range(1, len(sizes) - 1)), "output"]
    tensors = {}
    for name, below, neurons in zip(names[1:], sizes, sizes[1:], strict=False):
        tensors[f"{name}.weight"] = random.uniform(-1, 1, (below, neurons)).astype(np.float32)
        tensors[f"{name}.bias"] = random.uniform(-0.5, 0.5, neurons).astype(np.float32)
    description = {
        "input": {"name": "input", "neurons": sizes[0]},
        "layers": [
            {"name": name, "neurons": neurons, "activation": activation}
            for name, neurons, activation in zip(names[1:], sizes[1:], [*activations, "identity"], strict=True)
        ],
        "links": [
            {"lower": lower, "upper": upper, "forward": forward, "feedback": "float32"}
            for lower, upper, forward in zip(names, names[1:], links, strict=False)
        ],
    }
    return tensors, description


@pytest.fixture
def make_network() -> Callable[..., Network]:
    """Random tensors and their description: `make_network(links, activations, sizes, seed)`."""
    return _network


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes what `make_network` makes; returns the path."""

    def save(**arguments: Any) -> Path:
        write_tensors(tmp_path / "network.safetensors", *_network(**arguments))
        return tmp_path / "network.safetensors"

    return save


def _activate(activation: str, pre_activation: Fraction) -> Fraction:
    if activation == "identity":
        return pre_activation
    if activation == "relu":
        return max(pre_activation, Fraction(0))
    if activation == "step":
        return Fraction(pre_activation >= 0)
    if activation == "hard-tanh":
        return min(max(pre_activation, Fraction(-1)), Fraction(1))
    if activation == "hard-sigmoid":
        return min(max((pre_activation + 1) / 2, Fraction(0)), Fraction(1))
    with localcontext() as context:
        context.prec = 80
        power = (
            Decimal(pre_activation.numerator) / Decimal(pre_activation.denominator) * (2 if activation == "tanh" else 1)
        ).exp()
        state = (power - 1) / (power + 1) if activation == "tanh" else power / (power + 1)
    return Fraction(state)


def _rank(fmt: Format, x: Fraction) -> int:
    """How many values of `fmt` are below what `x` is sent as."""
    if isinstance(fmt, FixedPoint):
        steps = x / Fraction(fmt.step)
        rounded = round(steps) if fmt.rounding == "nearest-even" else steps.__floor__()  # round: half to even
        return min(max(rounded, fmt.lowest_level), fmt.highest_level) - fmt.lowest_level
    return sum(x >= Fraction(threshold) for threshold in fmt.table().thresholds)


@pytest.fixture
def exact_rank() -> Callable[[Format, str, Fraction], int]:
    """Rank of the value that `activation(pre_activation)` is sent as, in real numbers."""
    return lambda fmt, activation, pre_activation: _rank(fmt, _activate(activation, pre_activation))


@pytest.fixture
def exact_inference() -> Callable[
    [FixedNetwork, dict[str, Any], np.ndarray], tuple[list[dict[str, list[int]]], list[int]]
]:
    """Codes of each link and class, for each row of inputs: from quantized weights and float biases, in fractions."""

    def infer(network: FixedNetwork, tensors: dict[str, Any], inputs: np.ndarray) -> Any:
        traces, classes = [], []
        for row in inputs.tolist():
            states, trace = [Fraction(x) for x in row], {}
            for layer in network.layers:
                fmt = layer.below.levels.format
                values = fmt.table().values
                ranks = [_rank(fmt, state) for state in states]
                low = fmt.lowest_level if isinstance(fmt, FixedPoint) else 0
                trace[layer.below.name] = [(rank + low) % 2**fmt.bits for rank in ranks]
                bias = tensors[f"{layer.name}.bias"].tolist()
                quantized = layer.weight_levels.format.quantize(tensors[f"{layer.name}.weight"]).tolist()
                sums = [
                    sum(
                        Fraction(values[rank]) * Fraction(weights[n])
                        for rank, weights in zip(ranks, quantized, strict=True)
                    )
                    for n in range(layer.neurons)
                ]
                if layer is not network.output:
                    states = [_activate(layer.activation, s + Fraction(b)) for s, b in zip(sums, bias, strict=True)]
            sixteenth = Fraction(2) ** (network.output.exponent - 4)
            logits = [s + round(Fraction(b) / sixteenth) * sixteenth for s, b in zip(sums, bias, strict=True)]
            traces.append(trace)
            classes.append(logits.index(max(logits)))
        return traces, classes

    return infer
