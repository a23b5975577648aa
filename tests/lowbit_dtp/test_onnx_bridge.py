"""Networks in ONNX files, against qonnx' executor; what is no chain of dense layers, and damaged files."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("onnx", reason="no onnx: install lowbit-dtp[qonnx]")
pytest.importorskip("qonnx", reason="no qonnx: install lowbit-dtp[qonnx]")
import onnx
import torch
from brevitas.export.onnx import manager
from brevitas_examples.bnn_pynq.models.FC import FC
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx

from export import FixedNetwork, export_network
from lowbit_dtp.cli import main
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.onnx_bridge import network_from_onnx
from lowbit_dtp.storage import StorageError

QONNX = "qonnx.custom_op.general"
RNG = np.random.default_rng(0)


def graph(steps, batch=1, opset=13):
    """A model for [batch, 12] whose nodes follow each other: `(operator, {name: constant}, attributes)`."""
    nodes, tensors, given = [], [], "x"
    neurons, tensors_between = 12, [_rows("x", batch, 12)]
    for index, (op, constants, attributes) in enumerate(steps):
        tensors += [numpy_helper.from_array(np.asarray(x), f"{name}{index}") for name, x in constants.items()]
        domain = QONNX if op in ("Quant", "BipolarQuant", "MultiThreshold") else ""
        inputs = [given, *(f"{name}{index}" for name in constants)]
        given = f"y{index}"
        nodes.append(helper.make_node(op, inputs, [given], f"n{index}", domain=domain, **attributes))
        if op in ("MatMul", "Gemm"):
            neurons = constants["w"].shape[0 if attributes.get("transB") else 1]
        tensors_between.append(_rows(given, batch, neurons))
    made = helper.make_graph(
        nodes, "g", tensors_between[:1], tensors_between[-1:], tensors, value_info=tensors_between[1:-1]
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(QONNX, 1)]
    return helper.make_model(made, opset_imports=imports, ir_version=8)


def _rows(name, batch, neurons):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, neurons])


def signs(*shape):
    return RNG.choice([-1.0, 1.0], shape).astype(np.float32)


def numbers(*shape, low=-1.0, high=1.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


def quant(bits, scale=1.0, signed=1, narrow=0, rounding="ROUND"):
    constants = {"scale": np.float32(scale), "zero": np.float32(0), "bits": np.float32(bits)}
    return "Quant", constants, {"signed": signed, "narrow": narrow, "rounding_mode": rounding}


def normalization(neurons):
    parts = {"scale": numbers(neurons, low=-2, high=2), "bias": numbers(neurons), "mean": 2 * numbers(neurons)}
    return "BatchNormalization", parts | {"var": numbers(neurons, low=0.1, high=4)}, {}


BIPOLAR = ("BipolarQuant", {"scale": np.float32(1)}, {})
CHAINS = {
    "Brevitas": [
        ("Flatten", {}, {}),
        ("Mul", {"two": np.float32(2)}, {}),
        ("Sub", {"one": np.float32([1])}, {}),
        quant(2, narrow=1),
        ("Gemm", {"w": signs(8, 12)}, {"transB": 1}),
        normalization(8),
        quant(2, narrow=1),
        ("MatMul", {"w": signs(8, 7)}, {}),
        normalization(7),
        BIPOLAR,
        ("Gemm", {"w": signs(7, 5), "c": np.zeros(5, np.float32)}, {"alpha": 0.5}),
        ("Sub", {"mean": np.float32([0.4])}, {}),
        ("Div", {"deviation": np.float32([2.5])}, {}),
    ],
    "FINN": [
        ("MultiThreshold", {"t": np.float32([[0.25, 0.5, 0.75]])}, {"out_dtype": "UINT2"}),
        ("MatMul", {"w": RNG.integers(-1, 2, (12, 8)).astype(np.float32)}, {}),
        (
            "MultiThreshold",
            {"t": np.sort(RNG.integers(-6, 7, (8, 3)), 1).astype(np.float32)},
            {"out_dtype": "INT2", "out_bias": -2.0},
        ),
        ("MatMul", {"w": signs(8, 5)}, {}),
        ("Mul", {"scale": np.float32([-0.03])}, {}),
    ],
    "others": [
        quant(4, 2.0**-4, signed=0),
        ("Dropout", {}, {}),
        ("Gemm", {"w": RNG.integers(-3, 4, (12, 8)).astype(np.float32) / 4, "c": numbers(8)}, {"beta": 2.0}),
        ("Relu", {}, {}),
        quant(3, 0.3, signed=0, rounding="FLOOR"),
        ("MatMul", {"w": signs(8, 6)}, {}),
        ("Add", {"offset": numbers(6)}, {}),
        ("Div", {"by": numbers(6, low=0.5, high=2)}, {}),
        ("Tanh", {}, {}),
        quant(4, 2.0**-3, rounding="CEIL"),
        ("MatMul", {"w": RNG.integers(-7, 8, (6, 5)).astype(np.float32)}, {}),
    ],
}  # fmt: skip


def classes_of(steps, inputs):
    """Classes by qonnx' executor."""
    model = graph(steps, len(inputs))
    logits = execute_onnx(ModelWrapper(model), {"x": inputs})[model.graph.output[0].name]
    return logits.argmax(1).tolist()


@pytest.mark.parametrize("name", CHAINS)
def test_classes_are_those_of_qonnx(name, tmp_path):
    onnx.save(graph(CHAINS[name]), tmp_path / "net.onnx")
    network = network_from_onnx(tmp_path / "net.onnx")
    inputs = np.concatenate([RNG.random((60, 12)), RNG.integers(0, 9, (60, 12)) / 8]).astype(np.float32)
    classes = classes_of(CHAINS[name], inputs)
    assert network.forward(inputs, Ledger()).output.argmax(1).tolist() == classes
    network.save(tmp_path / "network.safetensors")
    assert FixedNetwork.load(tmp_path / "network.safetensors").infer(inputs).classes.tolist() == classes
    assert len(set(classes)) > 1
    if name == "FINN":
        assert [link.forward.name for link in network.links] == ["table(0,1,2,3;0.25,0.5,0.75)", "fixed(2,2)"]
        assert network.layers[0].projection.number == "ternary"


def test_inputs_that_the_file_does_not_quantize_have_a_given_format(tmp_path):
    steps = [("MatMul", {"w": signs(12, 8)}, {}), normalization(8), BIPOLAR, ("MatMul", {"w": signs(8, 5)}, {})]
    onnx.save(graph(steps), tmp_path / "net.onnx")
    network = network_from_onnx(tmp_path / "net.onnx", "ufixed(8,0)", 256.0)
    pixels = RNG.integers(0, 256, (50, 12)).astype(np.float32)
    assert network.forward(pixels / 256, Ledger()).output.argmax(1).tolist() == classes_of(steps, pixels)
    with pytest.raises(StorageError) as error:
        network_from_onnx(tmp_path / "net.onnx")
    assert str(error.value) == (
        f"{tmp_path / 'net.onnx'}: no Quant, BipolarQuant or MultiThreshold quantizes its inputs; give an input format"
    )


def test_the_multilayer_perceptrons_of_brevitas_as_it_exports_them(tmp_path, monkeypatch, capsys):
    """TFC, briefly trained: imported by the command, then evaluated, exported and priced like a run."""
    from brevitas.export import export_qonnx

    monkeypatch.setattr(manager, "onnx", onnx)  # Brevitas asks for onnxoptimizer, too, which this export does not use
    monkeypatch.setattr(manager, "opt", object())
    torch.manual_seed(0)
    model = FC(10, 1, 2, 2, 1, [16, 16], in_features=(8, 8))
    for _ in range(3):
        model(torch.rand(100, 1, 8, 8))
    export_qonnx(model.eval(), torch.rand(1, 1, 8, 8), export_path=str(tmp_path / "tfc.onnx"))
    network = network_from_onnx(tmp_path / "tfc.onnx")
    x = RNG.integers(0, 17, (1000, 64)).astype(np.float32) / 16
    with torch.no_grad():
        classes = model(torch.from_numpy(x).view(-1, 1, 8, 8)).argmax(1).numpy()
    np.testing.assert_array_equal(network.forward(x, Ledger()).output.argmax(1), classes)

    folder = tmp_path / "run"
    capsys.readouterr()
    for command in (
        ["import", tmp_path / "tfc.onnx", "--out", folder, "--json"],
        ["import", tmp_path / "tfc.onnx", "--out", folder, "--json"],  # again, in its place
        ["evaluate", folder, "--json"],
        ["price", folder, "--json", "--technology", "7nm", "--draws", "10"],
    ):
        monkeypatch.setattr(sys, "argv", ["lowbit-dtp", *map(str, command)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        told = json.loads(capsys.readouterr().out)
        if command[0] == "import":
            imported = told
    assert imported["sizes"] == [64, 16, 16, 10]
    assert imported["data"] == "digits"
    assert told[0]["use"] == "inference"
    for target in ("mem", "qonnx"):
        report = export_network(
            folder / "network.safetensors", target, tmp_path / target, None, "fixed(8,1)", x[:5], True
        )
        assert report.verification.passed
    assert report.weights == dict.fromkeys(("h1", "h2", "output"), "table(-1,1)")


def test_a_trained_run_is_not_replaced_and_unknown_inputs_need_data(tmp_path, monkeypatch, capsys):
    onnx.save(graph(CHAINS["FINN"]), tmp_path / "net.onnx")
    np.savez(
        tmp_path / "own.npz", inputs=RNG.random((30, 12), np.float32), labels=np.arange(30) % 5,
        split=[10, 10, 10],
    )  # fmt: skip
    run = tmp_path / "run"

    def told(*options, command=("import", str(tmp_path / "net.onnx"), "--out")):
        monkeypatch.setattr(sys, "argv", ["lowbit-dtp", *command, str(run), *options])
        with pytest.raises(SystemExit) as end:
            main()
        out = capsys.readouterr()
        return end.value.code, out.err or out.out

    assert told() == (
        2, f"lowbit-dtp: {tmp_path / 'net.onnx'}: it takes 12 inputs, as no data set of the package has; give --data\n"
    )  # fmt: skip
    own = ("--data", str(tmp_path / "own.npz"), "--json")
    code, printed = told(*own)
    assert code == 0, printed
    assert json.loads(printed)["links"] == {"input-h1": "table(0,1,2,3;0.25,0.5,0.75)", "h1-output": "fixed(2,2)"}
    assert told("--json", command=["evaluate"])[0] == 0
    written = json.loads((run / "run.json").read_text())
    del written["imported"]
    (run / "run.json").write_text(json.dumps(written))
    assert told(*own) == (2, f"lowbit-dtp: {run}: holds a run that was trained; choose another folder\n")


def _with(change):
    """The chain of Brevitas, changed."""
    model = graph(CHAINS["Brevitas"])
    change(model.graph)
    return model


def _node(index, **fields):
    def change(given):
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(given.node[index], name)[:] = value
            else:
                setattr(given.node[index], name, value)

    return change


def _replaced(name, value):
    def change(given):
        tensor = next(x for x in given.initializer if x.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))

    return change


def _external(given):
    given.initializer[2].data_location = TensorProto.EXTERNAL


def _huge(given):
    given.initializer[2].dims[:] = [1 << 20, 1 << 20]


REFUSED = [
    (_node(5, op_type="Conv"), "node n5 (Conv): not part of a chain of dense layers; there are: MatMul, Gemm, "),
    (_node(3, domain="mine"), "node n3 (Quant): its domain must be qonnx.custom_op.general, not 'mine'"),
    (_node(7, input=["w7", "y6"]), "node n7 (MatMul): its first input must be the chain, its second the weights"),
    (
        _node(7, input=["y6", "y5"]),
        "'y5' must be used by one node, once, for a chain of layers, not by node n6 (Quant), ",
    ),
    (_node(2, input=["y12", "one2"]), "'y1' must be used by one node, once, for a chain of layers, not by no node"),
    (_node(12, output=["y1"]), "node n12 (Div): 'y1' is given twice"),
    (
        _node(5, input=["y4", "scale5", "none", "mean5", "var5"]),
        "node n5 (BatchNormalization): input 'none' is neither the chain nor a constant",
    ),
    (
        _replaced("two1", numbers(12)),
        "node n1 (Mul): it has 12 constants for inputs; a link has one format for all neurons",
    ),
    (_replaced("two1", np.float32(-2)), "the quantizer of inputs: every input is sent alike, or larger ones as less"),
    (_replaced("scale6", np.float32(0)), "node n6 (Quant): its scale must be above zero"),
    (
        _replaced("scale6", numbers(8, low=1, high=2)),
        "node n6 (Quant): it has a scale for each channel; a link has one for all neurons",
    ),
    (
        _replaced("bits6", np.float32(2.5)),
        "node n6 (Quant): its bit width must be one whole number from 1 to 32, not 2.5",
    ),
    (
        _replaced("var8", -numbers(7, low=1, high=2)),
        "node n8 (BatchNormalization): its variances must not be negative",
    ),
    (
        _replaced("w7", numbers(8, 7)),
        "node n7 (MatMul): its weights are not whole numbers from -127 to 127 times a scale of the layer or "
        "the neuron; quantize them to at most 8 bits",
    ),
    (_replaced("w7", signs(9, 7)), "node n7 (MatMul): its weights are for 9 inputs, but it is given 8"),
    (_replaced("w7", np.full((8, 7), np.nan, np.float32)), "node n7 (MatMul): its constants must be finite numbers"),
    (
        _replaced("mean8", numbers(6)),
        "node n8 (BatchNormalization): a constant must be one number or one for each of 7 neurons, not [6]",
    ),
    (
        _external,
        "tensor 'scale3': its numbers are in another file; save the model with them, by "
        "onnx.save(onnx.load(FILE), OTHER) say",
    ),
    (_huge, "tensor 'scale3': of shape [1048576, 1048576]; it may have 67108864 numbers at most"),
    (
        _node(6, op_type="Relu", domain="", input=["y5"]),
        "node n4 (Gemm): nothing quantizes what it gives to the next layer",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_is_no_chain_of_dense_layers_is_refused_by_name(change, message, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(_with(change).SerializeToString())
    with pytest.raises(StorageError) as error:
        network_from_onnx(path)
    told = str(error.value).removeprefix(f"{path}: ")
    assert told.startswith(message) if message.endswith(", ") else told == message


def test_a_cycle_of_constants_wrong_versions_and_other_files_are_refused(tmp_path):
    path = tmp_path / "net.onnx"

    def told(content):
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        with pytest.raises(StorageError) as error:
            network_from_onnx(path)
        return str(error.value)

    def cycle(given):
        given.node.append(helper.make_node("Mul", ["a", "two1"], ["b"], "loop"))
        given.node.append(helper.make_node("Mul", ["b", "two1"], ["a"], "pool"))
        given.node[7].input[1] = "a"

    assert told(_with(cycle)) == f"{path}: node pool (Mul): its input depends on its output"
    assert (
        told(graph(CHAINS["FINN"], opset=3)) == f"{path}: its operators must be of one version of ONNX, 7 to 26, not 3"
    )
    assert told(b"") == f"{path}: its operators must be of one version of ONNX, 7 to 26, not none"
    assert told(b"not a model").startswith(f"{path}: not a whole ONNX file (DecodeError: ")
    with pytest.raises(StorageError) as error:
        network_from_onnx(tmp_path / "none.onnx")
    assert str(error.value) == f"{tmp_path / 'none.onnx'}: no such file"


@pytest.mark.parametrize("name", CHAINS)
def test_a_damaged_file_is_refused_or_read_but_breaks_nothing(name, tmp_path):
    right, path = graph(CHAINS[name]).SerializeToString(), tmp_path / "net.onnx"
    random = np.random.default_rng(1)
    refused = 0
    for trial in range(150):
        content = bytearray(right)
        if trial % 3 == 0:
            del content[random.integers(len(content)) :]
        else:
            for place in random.integers(0, len(content), 1 + trial % 4):
                content[place] ^= 1 << random.integers(8)
        path.write_bytes(content)
        try:
            network_from_onnx(path)
        except StorageError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
    assert refused > 50


def test_without_onnx_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError) as error:
        network_from_onnx(tmp_path / "net.onnx")
    assert str(error.value) == "reading ONNX files needs the package onnx: pip install lowbit-dtp[qonnx]"
