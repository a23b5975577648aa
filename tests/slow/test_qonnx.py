"""The multilayer perceptrons of Brevitas and FINN on every MNIST test image, and the thesis net through hls4ml."""

import warnings

import numpy as np
import pytest

pytest.importorskip("qonnx", reason="no qonnx: install lowbit-dtp[qonnx]")
import onnx
import torch
from brevitas.export import export_qonnx
from brevitas.export.onnx import manager
from brevitas_examples.bnn_pynq.models.FC import FC
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.util.cleanup import cleanup_model

from export import FixedNetwork, write
from lowbit_dtp.brevitas_bridge import network_from_brevitas
from lowbit_dtp.data import find, load
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.onnx_bridge import network_from_onnx
from lowbit_dtp.optimizers import RMSprop
from lowbit_dtp.rules import StraightThrough
from lowbit_dtp.training import fit

MISSING = [file.name for file, path in find("mnist") if path is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs MNIST; not found: {', '.join(MISSING)}")

SIZES = {"TFC": [64, 64, 64], "SFC": [256, 256, 256], "LFC": [1024, 1024, 1024]}
BITS = {"1W1A": (1, 1, 1), "1W2A": (1, 2, 2), "2W2A": (2, 2, 2)}


def trained(sizes, bits, data):
    """A network of `bnn_pynq` with its classes, after 60 steps of its training."""
    torch.manual_seed(0)
    model = FC(10, *bits, 1, sizes)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for start in range(0, 6000, 100):
        rows = slice(start, start + 100)
        images = torch.from_numpy(np.asarray(data.train.inputs[rows])).view(-1, 1, 28, 28)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), torch.from_numpy(np.asarray(data.train.labels[rows])))
        loss.backward()
        optimizer.step()
        model.clip_weights(-1, 1)
    return model.eval()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", SIZES)
def test_every_test_image_has_the_class_that_brevitas_and_qonnx_give_it(size, bits, tmp_path, monkeypatch):
    data = load("mnist")
    model = trained(SIZES[size], BITS[bits], data)
    images = np.asarray(data.test.inputs)
    with torch.no_grad():
        classes = model(torch.from_numpy(images).view(-1, 1, 28, 28)).argmax(1).numpy()
    assert (classes != np.asarray(data.test.labels)).mean() < 0.35
    monkeypatch.setattr(manager, "onnx", onnx)  # Brevitas asks for onnxoptimizer, too, which this export does not use
    monkeypatch.setattr(manager, "opt", object())
    export_qonnx(model, torch.rand(1, 1, 28, 28), export_path=str(tmp_path / "net.onnx"))
    for network in (network_from_brevitas(model), network_from_onnx(tmp_path / "net.onnx")):
        np.testing.assert_array_equal(network.forward(images, Ledger()).output.argmax(1), classes)
        fixed = FixedNetwork.of(network.tensors(), network.describe())
        np.testing.assert_array_equal(fixed.infer(images).classes, classes)
    wrapped = cleanup_model(cleanup_model(ModelWrapper(str(tmp_path / "net.onnx"))), override_inpsize=1000)
    for start in range(0, 10_000, 1000):
        given = {wrapped.graph.input[0].name: images[start : start + 1000].reshape(-1, 1, 28, 28)}
        (logits,) = execute_onnx(wrapped, given).values()
        np.testing.assert_array_equal(logits.argmax(1), classes[start : start + 1000])


def test_hls4ml_simulates_the_export_bit_for_bit(tmp_path):
    """C simulation of 1,000 images, with the precisions that hls4ml derives itself; needs g++."""
    hls4ml = pytest.importorskip("hls4ml", reason="no hls4ml: pip install hls4ml")
    data = load("mnist")
    net = Network.build([784, 500, 500, 10], [Link("ufixed(8,0)"), Link("binary"), Link("ufixed(1,1)")], seed=0)
    list(fit(net, StraightThrough(), RMSprop(0.002), data.train, epochs=1))
    fixed = FixedNetwork.of(net.tensors(), net.describe(), "fixed(4,1)")
    images = np.ascontiguousarray(np.asarray(data.test.inputs[:1000]), np.float32)
    write(fixed, "qonnx", tmp_path / "out", images[:5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cleanup_model(ModelWrapper(str(tmp_path / "out/network.onnx")))
        config = hls4ml.utils.config.config_from_onnx_model(
            model, granularity="name", backend="Vitis", default_precision="fixed<32,16>"
        )
        made = hls4ml.converters.convert_from_onnx_model(
            model, output_dir=str(tmp_path / "hls"), backend="Vitis", io_type="io_parallel", hls_config=config
        )
        made.compile()
    trace = fixed.infer(images)
    logits = np.ldexp(made.predict(images).astype(np.float64), 4 - fixed.output.exponent)
    np.testing.assert_array_equal(logits, trace.logits)
    assert len(np.unique(trace.classes)) == 10
