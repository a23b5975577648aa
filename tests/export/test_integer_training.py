"""Networks trained in whole numbers are exported without rounding."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.accuracy import simulate
from export.fixed import FixedNetwork
from lowbit_dtp.formats import parse, ufixed
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.network import Network
from lowbit_dtp.rules import IntegerDTP


def integer_network(sizes: list[int], bits: int) -> Network:
    rule = IntegerDTP(weight_bits=bits)
    net = Network.build(sizes, [Link("ufixed(8,0)"), *[Link() for _ in sizes[2:]]])
    rule.prepare(net, 0)
    return net.with_links(rule.inference_links(net.links))


@pytest.mark.parametrize("bits", [8, 16])
def test_the_exported_network_is_the_trained_one(bits: int, tmp_path: Path) -> None:
    net, path = integer_network([12, 30, 20, 4], bits), tmp_path / "network.safetensors"
    net.save(path)
    exported = FixedNetwork.load(path)
    for layer in exported.layers:
        np.testing.assert_array_equal(layer.weight, net.layer(layer.name).weight)
    codes = np.random.default_rng(0).integers(0, 256, (500, 12), np.uint8)
    made, trained = exported.infer(codes / 256), net.forward(Signal(codes, ufixed(8, 0), codes), Ledger())
    for link in ("h1-h2", "h2-output"):
        np.testing.assert_array_equal(made.codes[link], trained.received[link].codes)
    np.testing.assert_array_equal(made.classes, trained.output.argmax(-1))
    np.testing.assert_array_equal(made.classes, simulate(path, codes / 256).argmax(-1))


def test_what_training_rounds_is_refused(tmp_path: Path) -> None:
    net, path = integer_network([12, 30, 20, 4], 16), tmp_path / "network.safetensors"
    net.with_links([net.links[0], replace(net.links[1], forward=parse("fixed(4,1)")), net.links[2]]).save(path)
    message = (
        f"{path}: link h1-h2: fixed(4,1) on a link of a network trained in whole numbers cannot be exported exactly; "
        "binary and ternary can"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FixedNetwork.load(path)
    integer_network([12, 4], 16).save(path)
    message = (
        f"{path}: layer output: sums in units of 2^-20 were rounded to 2^-12 in training, which exported logits are "
        "not; use fewer bits after the point for its weights or inputs"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FixedNetwork.load(path)
