"""The core that learns, in a simulator, against training in Python: messages, weights and traffic, to the bit."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from export import learning, verified
from lowbit_dtp.cli import main
from lowbit_dtp.data import Samples, load
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.learner import Training, first_steps
from lowbit_dtp.runs import run as run_experiment

SIMULATORS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"no {name}"))
    for name in ("iverilog", "verilator")
]


def experiment(sizes: list[int], batch: int, **settings: object) -> Experiment:
    overrides = {"sizes": sizes, "batch": batch, "epochs": 3}
    return Comparison.load("digits", **overrides, rules={"integer-dtp": settings}).experiment("integer-dtp", 3)


def taken(experiment: Experiment, steps: int) -> Training:
    """On 25 samples, so that an epoch ends soon."""
    digits = load("digits")
    few = Samples(digits.train.stored[:25], digits.train.labels[:25], digits.train.format)
    return first_steps(experiment, replace(digits, train=few), steps)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_core_learns_what_python_learns(tmp_path: Path, simulator: str) -> None:
    """Over the end of an epoch, whose last minibatch is short, with two decoders."""
    training = taken(experiment([64, 5, 4, 6, 10], 9), 5)
    assert training.core.messages[-2:] == [
        learning.Message("h2-h3", "forward", "noisy activations", 1, 4),
        learning.Message("h2-h3", "feedback", "reconstruction", 1, 6),
    ]
    training.write(tmp_path / "core")
    result = learning.verify(tmp_path / "core", simulator)
    assert result.status == "passed", result
    assert result.vectors == len(training.samples) == 9 + 9 + 7 + 9 + 9
    assert result.values == training.codes.size + training.core.weight_words
    assert (training.trained != training.core.flat(training.core.weights)).mean() > 0.1


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="no iverilog")
@pytest.mark.parametrize(
    ("sizes", "settings"),
    [([64, 4, 10], {}), ([64, 1, 3, 10], {"weight_bits": 8, "shifts": {}, "target_shift": 5, "noise_shift": 1})],
)
def test_one_hidden_layer_and_bytes(tmp_path: Path, sizes: list[int], settings: dict[str, object]) -> None:
    training = taken(experiment(sizes, 8, **settings), 2)
    training.write(tmp_path / "core")
    assert learning.verify(tmp_path / "core", "iverilog").status == "passed"


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="no iverilog")
def test_what_differs_is_named(tmp_path: Path) -> None:
    training = taken(experiment([64, 4, 3, 10], 8), 1)
    folder = tmp_path / "core"
    codes, trained = training.codes.copy(), training.trained.copy()
    codes[2, 4 + 3 + 3 + 3 + 1] ^= 1  # after activations of h1 and h2, error and state
    trained[64 * 4 + 1 * 4 + 3] += 1  # after the weights of h1
    replace(training, codes=codes).write(folder)
    failed = learning.verify(folder, "iverilog")
    assert failed.status == "failed at link h1-h2, neuron 1"
    assert re.fullmatch(r"target of sample 2: expected 040[01], got 040[01]", failed.detail), failed
    replace(training, trained=trained).write(folder)
    failed = learning.verify(folder, "iverilog")
    assert failed.status == "failed at layer h1, neuron 3"
    assert re.fullmatch(r"feedback 1 after training: expected [0-9a-f]{4}, got [0-9a-f]{4}", failed.detail), failed


def test_a_flipped_bit_is_located(tmp_path: Path) -> None:
    """In weights, before and after training, and in messages; elsewhere the file and the line are named."""
    training = taken(experiment([64, 4, 3, 10], 8), 1)
    for path, line, where in (
        ("weights.mem", 2, "link h1-h2, neuron 2"),
        ("weights.mem", 64 * 4 + 1 * 4 + 3, "link h1-h2, neuron 3"),  # feedback weights of h1
        ("bench/trained.mem", 64 * 4 + 3 * 4 + 4 * 3 + 11, "link output, neuron 1"),
        ("bench/messages.mem", 23 + 4 + 2, "link h2-output, neuron 2"),  # of the second sample
        ("program.mem", 5, "program.mem, line 6"),
        ("manifest.json", 3, "manifest.json, line 4"),
    ):
        folder = tmp_path / "core"
        training.write(folder)
        lines = (folder / path).read_bytes().splitlines(True)
        lines[line] = lines[line][:-2] + bytes([lines[line][-2] ^ 1]) + lines[line][-1:]
        (folder / path).write_bytes(b"".join(lines))
        assert verified(folder).status == f"failed at {where}"


def test_options_of_other_targets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_experiment(experiment([64, 4, 10], 200), tmp_path / "run", load("digits"))
    for option, value in (("fold", "4x4"), ("weights", "4")):
        command = ["lowbit-dtp", "export", str(tmp_path / "run"), "--target", "learner", f"--{option}", value]
        with mock.patch.object(sys, "argv", command), pytest.raises(SystemExit):
            main()
        message = f"target learner begins with the first weights, and has no option '{option}'"
        assert message in " ".join(capsys.readouterr().err.split())


def test_what_a_core_cannot_learn_is_refused() -> None:
    with pytest.raises(ValueError) as raised:
        taken(Comparison.load("digits").experiment("dtp", 0), 1)
    assert str(raised.value) == ("a core that learns needs the rule integer-dtp and the optimizer shift-sgd, not dtp")
    with pytest.raises(ValueError) as raised:
        taken(experiment([64, 10], 9), 1)
    assert str(raised.value) == "a core that learns needs a hidden layer; 64-10 has none"
    with pytest.raises(ValueError) as raised:
        made = experiment([64, 4, 3, 10], 9)
        ternary = {**made.links, "h1-h2": {"forward": "ternary", "feedback": "binary"}}
        taken(replace(made, links=ternary), 1)
    assert str(raised.value) == "link h1-h2: a core that learns sends binary activations and targets, not others"
    with pytest.raises(ValueError) as raised:
        taken(experiment([64, 4, 3, 10], 9), 50)
    assert str(raised.value) == "steps: the experiment has 9, not 50; give it more epochs"


@pytest.mark.skipif(shutil.which("verilator") is None, reason="no verilator")
def test_the_core_is_free_of_lint() -> None:
    folder = Path(learning.__file__).parent / "verilog_templates" / "learner"
    subprocess.run(
        ["verilator", "--lint-only", "-Wall", "--top-module", "learner", "learner.v", "philox.v"],
        cwd=folder,
        check=True,
    )
