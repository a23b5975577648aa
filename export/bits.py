"""The fewest bits for the weights of each layer with which the integer network loses no more accuracy than allowed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt

from lowbit_dtp.storage import read_network

from .accuracy import accuracy_lost
from .fixed import FixedNetwork, formats_by_layer, is_rounded
from .scales import MOST_BITS

AUTO = "auto"
"""In place of the format of the weights of a layer: find its bits."""


@dataclass(frozen=True)
class Trial:
    """Bits that were tried, and what the network lost with them."""

    bits: Mapping[str, int]
    """By layer."""
    lost_percent: float
    """Error of the integer network minus that of the trained one, in percentage points."""


def fewest_bits(
    network_path: Path,
    weights: str | Mapping[str, str],
    signals: str,
    calibration: npt.ArrayLike,
    validation: tuple[npt.ArrayLike, npt.ArrayLike],
    max_loss: float,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> dict[str, str]:
    """`weights` by layer, with bits in place of each `auto`, as `FixedNetwork.load` takes them.

    First the fewest bits that all these layers can have, then fewer for one layer after the other, that with the most
    weights first. No more than `max_loss` percentage points of the error on `validation`, inputs and labels, may be
    lost. Layers that were trained with few bits keep them. Raises ValueError if 16 bits lose more.
    """
    _, description = read_network(Path(network_path))
    given = formats_by_layer(weights, [layer["name"] for layer in description["layers"]])
    widths = [description["input"]["neurons"], *(layer["neurons"] for layer in description["layers"])]
    sizes = {
        layer["name"]: below * layer["neurons"] for layer, below in zip(description["layers"], widths, strict=False)
    }
    named = [layer["name"] for layer in description["layers"] if given[layer["name"]] == AUTO]
    others = {name: "" if name in named else text for name, text in given.items()}
    searched = [x["name"] for x in description["layers"] if x["name"] in named and is_rounded(x)]

    def lost(bits: Mapping[str, int]) -> float:
        formats = others | {name: str(count) for name, count in bits.items()}
        network = FixedNetwork.load(network_path, formats, signals, calibration)
        trial = Trial(bits, accuracy_lost(network, network_path, *validation).lost_percent)
        on_trial(trial)
        return trial.lost_percent

    if not searched:
        return others
    too_few, enough = 0, MOST_BITS
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if lost(dict.fromkeys(searched, middle)) <= max_loss:
            enough = middle
        else:
            too_few = middle
    found = dict.fromkeys(searched, enough)
    if enough == MOST_BITS and (least := lost(found)) > max_loss:
        raise ValueError(
            f"{network_path}: weights of {MOST_BITS} bits lose {least:.2f} percentage points on validation data, more "
            f"than {max_loss:g}; allow more, or other formats for the links that are rounded"
        )
    for name in sorted(searched, key=lambda name: -sizes[name]):
        while found[name] > 1 and lost(found | {name: found[name] - 1}) <= max_loss:
            found[name] -= 1
    return others | {name: str(count) for name, count in found.items()}
