"""Exports of networks as large as those of the thesis."""

import re

import numpy as np
import pytest

from export import FixedNetwork, verified, write
from export.checksums import CHECKSUMS
from tests.conformance.cases import EXPORTS
from tests.conformance.test_targets import EVERY, check
from tests.export.targets import EACH

SIZES = (784, 500, 500, 10)


@pytest.fixture(scope="module")
def network():
    random = np.random.default_rng(0)
    names = ["input", "h1", "h2", "output"]
    tensors = {}
    for name, below, neurons in zip(names[1:], SIZES, SIZES[1:], strict=False):
        tensors[f"{name}.weight"] = random.uniform(-0.1, 0.1, (below, neurons)).astype(np.float32)
        tensors[f"{name}.bias"] = random.uniform(-0.1, 0.1, neurons).astype(np.float32)
    description = {
        "input": {"name": "input", "neurons": SIZES[0]},
        "layers": [
            {"name": name, "neurons": neurons, "activation": "identity" if name == "output" else "tanh"}
            for name, neurons in zip(names[1:], SIZES[1:], strict=True)
        ],
        "links": [
            {"lower": lower, "upper": upper, "forward": forward, "feedback": "float32"}
            for lower, upper, forward in zip(names, names[1:], ("ufixed(8,0)", "binary", "binary"), strict=False)
        ],
    }
    return FixedNetwork.of(tensors, description, "4")


@pytest.mark.parametrize("target", EACH)
def test_flipped_bits_are_found(network, target, tmp_path):
    """500 bits, drawn from all bits of all files."""
    random = np.random.default_rng(1)
    write(network, target, tmp_path / target, random.random((20, SIZES[0])))
    paths = sorted(path for path in (tmp_path / target).rglob("*") if path.is_file())
    sizes = np.array([path.stat().st_size for path in paths])
    located = 0
    for byte in random.choice(sizes.sum(), 500, replace=False).tolist():
        index = int(np.searchsorted(sizes.cumsum(), byte, side="right"))
        path, offset = paths[index], byte - int(sizes[:index].sum())
        right = path.read_bytes()
        path.write_bytes(right[:offset] + bytes([right[offset] ^ 1 << byte % 8]) + right[offset + 1 :])
        result = verified(tmp_path / target)
        path.write_bytes(right)
        name, line = path.relative_to(tmp_path / target).as_posix(), right.count(b"\n", 0, offset) + 1
        assert result.detail.startswith(f"line {line} of {path}: ") or name == CHECKSUMS
        assert re.fullmatch(rf"failed at (link \S+, neuron \d+|{re.escape(name)}, [\w /]+)", result.status)
        located += "neuron" in result.status
    assert located > 450
    assert verified(tmp_path / target).passed


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize("name", EXPORTS)
def test_every_network_of_the_table(name, target, tmp_path):
    check(target, name, tmp_path / target)
