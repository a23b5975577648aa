"""The ONNX file: run by qonnx, read again, changed, and refused where float32 would round."""

import sys

import numpy as np
import pytest

from export import TARGETS, FixedNetwork, write
from export.fixed import HiddenLayer
from lowbit_dtp.storage import StorageError
from tests.export.targets import NEEDS

pytestmark = NEEDS["qonnx"]

PIXELS = np.random.default_rng(3).random((4, 5)).astype(np.float32)

NETWORKS = {
    "binary, ternary": (("ufixed(8,0)", "binary", "ternary"), "fixed(8,1)"),
    "{0,1}": (("ufixed(8,0)", "ufixed(1,1)", "binary01"), "ternary"),
    "4 bits": (("binary", "fixed(4,1)", "ufixed(3,1)"), "binary"),
    "tables": (("table(-1,1;0.25)", "table(-1,0,0.5)", "fixed(3,-2,saturate-symmetric)"), "fixed(4,1)"),
    "floor": (("fixed(4,1,floor)", "fixed(4,3,floor)", "binary"), "fixed(3,1)"),
}


def _written(make_network, folder, name, **arguments):
    links, weights = NETWORKS[name]
    network = FixedNetwork.of(*make_network(links=links, **arguments), weights)
    write(network, "qonnx", folder, PIXELS)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_is_the_integer_network_and_is_read_as_such(make_network, tmp_path, name):
    """Run as a whole by qonnx; and the import of the export is the integer network that was exported."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    from lowbit_dtp.onnx_bridge import network_from_onnx

    network = _written(make_network, tmp_path / "out", name, activations=("tanh", "relu"))
    model = ModelWrapper(str(tmp_path / "out/network.onnx"))
    inputs = np.random.default_rng(0).normal(0, 0.7, (8, 5)).astype(np.float32)
    inputs[0] = 0.25
    trace = network.infer(inputs)
    for row, logits in zip(inputs, trace.logits, strict=True):
        made = execute_onnx(model, {"inputs": row[None]})["logits"][0]
        assert np.array_equal(np.ldexp(made.astype(np.float64), 4 - network.output.exponent), logits)
    back = network_from_onnx(tmp_path / "out/network.onnx")
    again = FixedNetwork.of(back.tensors(), back.describe())
    for old, new in zip(network.layers, again.layers, strict=True):
        assert (new.name, new.exponent, new.below.levels.exponent) == (
            old.name,
            old.exponent,
            old.below.levels.exponent,
        )
        assert new.below.levels.values == old.below.levels.values
        assert np.array_equal(new.weight, old.weight)
        if isinstance(old, HiddenLayer):
            assert np.array_equal(new.thresholds, old.thresholds)
    assert np.array_equal(again.output.bias, network.output.bias)
    assert np.array_equal(again.infer(inputs).classes, trace.classes)


@pytest.mark.parametrize("name", ["binary, ternary", "tables"])
def test_a_changed_constant_is_located(make_network, tmp_path, name):
    import onnx
    from onnx import numpy_helper

    folder = tmp_path / "out"
    network = _written(make_network, folder, name)
    right = (folder / "network.onnx").read_bytes()
    steps = {layer.name: 2.0**layer.weight_levels.exponent for layer in network.layers}
    changes = {f"{layer}_weights": ((0, 1), step) for layer, step in steps.items()}
    changes["output_bias"] = (0, 1), 2.0 ** (network.output.exponent - 4)
    for constant, (place, step) in changes.items():
        model = onnx.load_from_string(right)
        tensor = next(x for x in model.graph.initializer if x.name == constant)
        values = numpy_helper.to_array(tensor).copy()
        values[place] += step if values[place] <= 0 else -step
        tensor.CopyFrom(numpy_helper.from_array(values, constant))
        (folder / "network.onnx").write_bytes(model.SerializeToString())
        layer = next(x for x in network.layers if constant.startswith(x.name))
        assert TARGETS["qonnx"].verify(folder).status == f"failed at link {layer.output_name}, neuron 1"
    model = onnx.load_from_string(right)
    model.producer_name = "lowbit-dtq"
    (folder / "network.onnx").write_bytes(model.SerializeToString())
    changed = TARGETS["qonnx"].verify(folder)
    assert (changed.status, changed.detail) == ("failed: not the file that was written", "network.onnx")


def test_files_that_cannot_be_run_are_named(make_network, tmp_path):
    folder = tmp_path / "out"
    _written(make_network, folder, "{0,1}")
    path = folder / "network.onnx"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match=rf"^{path}: not a whole ONNX file \("):
        TARGETS["qonnx"].verify(folder)
    path.unlink()
    with pytest.raises(StorageError) as error:
        TARGETS["qonnx"].verify(folder)
    assert str(error.value) == f"{path}: no such file"


def test_sums_that_float32_would_round_are_refused(make_network, tmp_path):
    network = FixedNetwork.of(*make_network(links=("ufixed(16,0)", "binary"), sizes=(5, 3, 2), activations=("tanh",)))
    with pytest.raises(ValueError) as error:
        write(network, "qonnx", tmp_path / "out", PIXELS)
    bits = network.layers[0].sum_bits + 1
    assert bits > 25
    assert str(error.value) == (
        f"layer h1: its sums take {bits} bits, which the float32 of ONNX does not hold; use fewer bits for its weights "
        "or for link input-h1"
    )


def test_without_the_packages_it_is_said_what_to_install(make_network, tmp_path, monkeypatch):
    _written(make_network, tmp_path / "out", "{0,1}")
    monkeypatch.setattr("export.qonnx_check.can_run_qonnx", lambda: False)
    result = TARGETS["qonnx"].verify(tmp_path / "out")
    assert result.status == "not run: no qonnx; pip install lowbit-dtp[qonnx]"
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError) as error:
        _written(make_network, tmp_path / "other", "{0,1}")
    assert str(error.value) == "target qonnx needs the package onnx: pip install lowbit-dtp[qonnx]"
