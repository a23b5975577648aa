"""Every target of exports writes every network of the table, and verifies what it wrote."""

import numpy as np
import pytest

from export import TARGETS, FixedNetwork, verified, write
from tests.conformance.cases import EXPORTS, REFUSED_EXPORTS
from tests.conformance.cases import TARGETS as CASES
from tests.export.targets import EACH

EVERY = {"c": 4, "verilog": 6}
"""Something is compiled for each network: every fourth or sixth is enough here. `tests/slow` has them all."""


def exported_network(case):
    random = np.random.default_rng(0)
    names, tensors = ("input", "h1", "output"), {}
    for name, below, neurons in zip(names[1:], case.sizes, case.sizes[1:], strict=False):
        tensors[f"{name}.weight"] = random.uniform(-1, 1, (below, neurons)).astype(np.float32)
        tensors[f"{name}.bias"] = random.uniform(-0.5, 0.5, neurons).astype(np.float32)
    formats = (case.inputs, case.hidden)
    description = {
        "input": {"name": "input", "neurons": case.sizes[0]},
        "layers": [
            {"name": "h1", "neurons": case.sizes[1], "activation": case.activation},
            {"name": "output", "neurons": case.sizes[2], "activation": "identity"},
        ],
        "links": [
            {"lower": lower, "upper": upper, "forward": fmt, "feedback": "float32"}
            for lower, upper, fmt in zip(names, names[1:], formats, strict=False)
        ],
    }
    return FixedNetwork.of(tensors, description, case.weights)


def check(target, name, folder):
    case = EXPORTS[name]
    network = exported_network(case)
    inputs = np.random.default_rng(1).uniform(-1, 1, (4, case.sizes[0])).astype(np.float32)
    try:
        write(network, target, folder, inputs)
    except ValueError as error:
        assert target in REFUSED_EXPORTS and str(error).startswith(REFUSED_EXPORTS[target]), (name, str(error))
        return 0
    result = verified(folder)
    if not result.status.startswith("not run"):
        assert result.passed and result.values > 0, (name, result)
    return 1


@pytest.mark.parametrize("target", EACH)
def test_a_target_writes_what_verifies(target, tmp_path):
    names = list(EXPORTS)[:: EVERY.get(target, 1)]
    written = sum(check(target, name, tmp_path / str(number)) for number, name in enumerate(names))
    assert written >= len(names) - 8 * (target in REFUSED_EXPORTS)


def test_every_target_is_a_case():
    assert sorted(TARGETS) == sorted(CASES)
