"""Estimates of whole experiments, what they assume, how large they may be, and the command."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw_models import HardwareConfig, Machine, Technology, as_exported, price, price_on, time_on, with_static
from lowbit_dtp import Link, data, estimate, rules
from lowbit_dtp import ledger as ledgers
from lowbit_dtp.backends.shapes import ShapeError
from lowbit_dtp.estimation import Estimate
from lowbit_dtp.experiment import Experiment
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.runs import run
from lowbit_dtp.tasks import TASKS
from tests.conformance.test_estimates import check
from tests.lowbit_dtp.test_cli import Said, call

TRAIN, VALID, TEST = 7, 2, 1003
"""More samples than an evaluation takes at once."""
FEW_BITS = {"input-h1": {"forward": "ufixed(8,0)"}, "h1-h2": {"forward": "binary", "feedback": "binary"}}
BASE = {"data": "bytes", "sizes": [6, 7, 5, 3], "rule": "dtp", "epochs": 2, "batch": 3, "seed": 0, "links": FEW_BITS}
RMSPROP = {"name": "rmsprop", "learning_rate": 1e-3}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "dtp in alternating epochs": {
        "settings": {"schedule": "alternating-epochs", "half_noise_epoch": 2.0, "top": "output"},
        "optimizer": RMSPROP | {"schedule": "warmup(2)*cosine(3)", "feedback_learning_rate": 1e-4},
        "weights": {"rest": "ternary", "h1": {"feedback": "fixed(4):learned"}},
    },
    "straight-through": {
        "rule": "straight-through",
        "settings": {"gradient": "shared(4)"},
        "optimizer": {"name": "bop", "learning_rate": 1e-3},
        "weights": {"h1": "binary", "output": "fixed(3)"},
    },
    "integer-dtp": {
        "rule": "integer-dtp",
        "settings": {"weight_bits": 8},
        "optimizer": {"name": "shift-sgd", "learning_rate": 2.0**-5, "shifts": {"h1.weight": 8}},
    },
    "stochastic-dtp": {"rule": "stochastic-dtp", "settings": {"samples": 4}, "batch": 7},
    "dtp-fixed": {"rule": "dtp-fixed", "settings": {"weights": "mirror", "copied": "fixed(6,1)"}, "batch": 100},
    "direct-feedback-alignment": {
        "rule": "direct-feedback-alignment",
        "links": {"output-h1": {"feedback": "ternary"}},
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
    },
    "generec": {"rule": "generec", "settings": {"steps": 3}, "output_activation": "sigmoid"},
    "delta on values": {"data": "values", "rule": "delta", "sizes": [6, 3], "links": {}, "task": "associate"},
    "nothing trained": {"epochs": 0},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a data set of bytes and classes, and of one of numbers and values."""
    draw, folder, count = np.random.default_rng(0), tmp_path_factory.mktemp("data"), TRAIN + VALID + TEST
    split = [TRAIN, VALID, TEST]
    labels = np.arange(count) % 3
    np.savez(folder / "bytes.npz", inputs=draw.integers(0, 256, (count, 6), np.uint8), labels=labels, split=split)
    values = draw.random((count, 3))
    np.savez(folder / "values.npz", inputs=draw.random((count, 6)), labels=values, split=split)
    return {name: str(folder / f"{name}.npz") for name in ("bytes", "values")}


def experiment_of(given: dict[str, Any], files: dict[str, str]) -> Experiment:
    described = BASE | {"optimizer": RMSPROP} | given
    return Experiment(**described | {"data": files[described["data"]]})


@pytest.mark.parametrize("given", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_an_experiment_writes_its_estimate(given: dict[str, Any], files: dict[str, str], tmp_path: Path) -> None:
    experiment = experiment_of(given, files)
    run(experiment, tmp_path / "run", data.load(experiment.data))
    written = ledgers.load(tmp_path / "run" / "ledger.json")
    check(estimate(experiment).ledgers, written)
    made = estimate(experiment, like=tmp_path / "run")
    assert made.ledgers == written  # ones and toggles, too
    assert {source for sources in made.assumed.values() for source in sources.values()} == {str(tmp_path / "run")}


def test_first_weights_of_another_run_are_not_needed(files: dict[str, str]) -> None:
    experiment = experiment_of({}, files)
    assert estimate(replace(experiment, start="nowhere")).ledgers == estimate(experiment).ledgers


def test_coded_bits_are_not_estimated(files: dict[str, str]) -> None:
    made = estimate(experiment_of({"codings": ["all"]}, files))
    assert made.notes == ("coded bits depend on data and are not estimated",)
    assert made.ledgers == estimate(experiment_of({}, files)).ledgers


def thesis(rule: rules.LearningRule, **more: Any) -> Estimate:
    links = [Link("ufixed(8,0)"), Link("binary", "binary"), Link()]
    return estimate([784, 500, 500, 10], rule, links, **more)


def test_bits_are_those_of_the_thesis() -> None:
    """The table of README.md: 784-500-500-10 with h1-h2 binary both ways."""
    for rule, up, down in (
        (rules.DTP(), 1000, 1500),
        (rules.StraightThrough("fixed(4,-2)"), 500, 500 * 4),
        (rules.Backprop(), 16000, 16000),
    ):
        book = thesis(rule).training
        assert book.bits("h1-h2", Direction.FORWARD, per="sample") == up
        assert book.bits("h1-h2", Direction.FEEDBACK, per="sample") == down
    made = thesis(rules.DTP(), samples=50_030, epochs=3)
    assert (made.training.epochs, made.training.steps, made.training.samples) == (3, 3 * 501, 3 * 50_030)
    assert (made.inference.epochs, made.inference.steps, made.inference.samples) == (1, 10, 10_000)
    assert made.inference.bits("h1-h2", per="sample") == 500


# --- ones and toggles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activity", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_toggles_are_those_of_independent_bits(activity: float) -> None:
    """Against random bits that a link counts."""
    drawn = (np.random.default_rng(0).random((2000, 50)) < activity).astype(np.float32)
    real, sizes = Ledger(), [50, 2]
    Link("binary01", lower="input", upper="output").send(2 * drawn - 1, Direction.FORWARD, "activations", real)
    made = estimate(sizes, "backprop", [Link("binary01")], samples=1, inferences=2000, activity=activity)
    (found,), (expected,) = made.inference.traffic.values(), real.traffic.values()
    assert found.messages == expected.messages
    assert found.ones == activity * 2000 * 50
    assert found.toggles == round(2 * activity * (1 - activity) * 1999 * 50)
    assert found.ones == pytest.approx(expected.ones, rel=0.02)
    assert found.toggles == pytest.approx(expected.toggles, rel=0.05)


def test_the_first_message_on_each_wire_toggles_nothing() -> None:
    made = estimate([4, 3, 2], "dtp", [Link("binary"), Link("binary", "ternary")], batch=1, samples=2, inferences=1)
    toggles = {(m.link, m.direction, m.purpose): t.toggles for m, t in made.training.traffic.items()}
    assert toggles == {
        ("input-h1", "forward", "activations"): 4 / 2,
        ("h1-output", "forward", "activations"): round(3 / 2),
        ("h1-output", "feedback", "error"): 2 * 3 / 2,
    }
    assert made.inference.toggles() == 0


def test_a_run_is_used_where_messages_match(files: dict[str, str], tmp_path: Path) -> None:
    experiment = experiment_of({}, files)
    run(experiment, tmp_path, data.load(experiment.data))
    measured = ledgers.load(tmp_path / "ledger.json")["training"]
    wide = replace(experiment, sizes=[6, 70, 50, 3], links=FEW_BITS | {"h2-output": {"feedback": "ternary"}})
    made = estimate(wide, like=tmp_path, activity=0.25)
    for use, sources in made.assumed.items():
        for message_type, source in sources.items():
            is_new = (message_type.link, message_type.direction) == ("h2-output", Direction.FEEDBACK)
            assert source == ("activity 0.25" if is_new else str(tmp_path)), (use, message_type)
    for direction in Direction:
        found, expected = (
            (book.ones("h1-h2", direction) / book.bits("h1-h2", direction)) for book in (made.training, measured)
        )
        assert found == pytest.approx(expected, rel=0.01)


def test_what_is_assumed_is_saved_with_the_ledgers(tmp_path: Path) -> None:
    made = estimate([4, 3, 2], rules.GeneRec(tolerance=0.1), batch=1, samples=2)
    made.save(tmp_path / "ledger.json")
    assert ledgers.load(tmp_path / "ledger.json") == made.ledgers
    assumed = json.loads((tmp_path / "ledger.json").read_text())["assumed"]
    assert assumed == made.assumptions()
    assert assumed[0] == {
        "ledger": "training",
        "link": "input-h1",
        "direction": "forward",
        "purpose": "activations",
        "format": "float32",
        "ones_and_toggles": "activity 0.5",
    }
    assert assumed[-1] == {"note": "generec decides by its data when to stop; the most that it may do is counted"}


# --- size -------------------------------------------------------------------------------------------------------------

LARGE = """
import resource
from pathlib import Path
from lowbit_dtp import Link, estimate, optimizers, rules
from lowbit_dtp.rules.single_layer import SingleLayerRule
MILLION = 10**6
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
for name, kind in rules.RULES.items():
    rule = kind(rows=1000, columns=1000) if name == "som" else kind()
    sizes, more = [784, MILLION, MILLION, 10], {}
    links = [Link("ufixed(8,0)"), Link("binary", "binary"), Link()]
    if issubclass(kind, SingleLayerRule):
        sizes, links = [MILLION, MILLION], [Link()]
    elif name == "dtp-autoencoder":
        sizes, links = [MILLION, MILLION, MILLION], [Link(), Link()]
    elif name == "integer-dtp":
        more = {"optimizer": optimizers.ShiftSGD(0.5)}
    else:
        more = {"weights": {"h2": "fixed(4):learned"}}
    made = estimate(sizes, rule, links, samples=10**9, epochs=1000, **more)
    most = max(made.training.accesses.values())
    assert type(most) is int and most >= 10**12 * 10**9 * 1000 > 2**63, name
status = Path("/proc/self/status").read_text()
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_a_million_million_weights_of_every_rule_take_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300_000  # kB


# --- errors -----------------------------------------------------------------------------------------------------------


class Asks(rules.StraightThrough):
    """Decides by a number."""

    def step(self, *arguments: Any) -> Any:
        step = super().step(*arguments)
        return step if step.loss > 0 else None


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (
            lambda: estimate("dtp"),
            ValueError,
            "sizes must be two or more positive whole numbers, input first, not ['d', 't', 'p']",
        ),
        (lambda: estimate(784), TypeError, "estimate needs an Experiment, or the sizes of layers, not int"),
        (
            lambda: estimate([4, 3, 2], rules.DTP(), task=TASKS["quantize"]),
            ValueError,
            "dtp does not learn to quantize; it learns to classify, associate, reconstruct",
        ),
        (lambda: estimate([4, 3, 2], batch=0), ValueError, "batch must be a whole number, 1 or more, not 0"),
        (lambda: estimate([4, 3, 2], samples=1.5), ValueError, "samples must be a whole number, 1 or more, not 1.5"),
        (lambda: estimate([4, 3, 2], epochs=-1), ValueError, "epochs must be a whole number, 0 or more, not -1"),
        (
            lambda: estimate([4, 3, 2], inferences=True),
            ValueError,
            "inferences must be a whole number, 1 or more, not True",
        ),
        (
            lambda: estimate([4, 3, 2], activity=float("nan")),
            ValueError,
            "activity must be a fraction of ones, a number from 0 to 1, not nan",
        ),
        (
            lambda: estimate([4, 3, 2], Asks()),
            ShapeError,
            "an array of shapes alone has no numbers: what decides by numbers cannot be estimated "
            "(a learning rule can say by `without_data` what it does at most)",
        ),
    ],
)
def test_mistakes(act: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        act()


# --- the command ------------------------------------------------------------------------------------------------------

LINE = ("estimate", "--sizes", "784-500-500-10", "--rule", "dtp", "--link", "h1-h2=binary")


def test_the_command_prints_what_the_ledgers_say(tmp_path: Path) -> None:
    said = call(*LINE, "--placement", "h1-h2=board", "--save", tmp_path / "ledger.json", "--reuse", 50,
                "--weights", "fixed(4,1)", "--json")  # fmt: skip
    assert (said.status, said.err) == (0, "")
    found, books = json.loads(said.out), ledgers.load(tmp_path / "ledger.json")
    assert books["training"].samples == 40 * 50_000
    assert found["links"]["h1-h2"]["forward"]["bits_per_sample"] == 1000
    assert found["links"]["h1-h2"]["feedback"]["bits_per_sample"] == 1500
    assert found["links"]["h1-h2"]["forward"]["bits_per_inference"] == 500
    for key, use in (("training", "training"), ("inference", "inference")):
        counted = books[use].work, books[use].accesses
        for rows, kinds in zip((found["operations"], found["memory_words"]), counted, strict=True):
            assert sum(row[key] for row in rows) == pytest.approx(sum(kinds.values()) / books[use].samples)
    where = HardwareConfig.parse("h1-h2=board", reuse=50.0)
    priced = {"training": books["training"], "inference": as_exported(books["inference"], "fixed(4,1)")}
    for row in found["joules"]:
        bill = price(priced[row["use"]], where, Technology.load(row["technology"])).per(row["unit"])
        assert row["total"]["typical"] == bill.total.typical
        assert sum(part["typical"] for part in row["by_part"].values()) == pytest.approx(bill.total.typical)
    assert [(row["technology"], row["use"], row["unit"]) for row in found["joules"][:4]] == [
        ("45nm", "training", "sample"),
        ("45nm", "training", "step"),
        ("45nm", "training", "epoch"),
        ("45nm", "inference", "sample"),
    ]
    assert found["assumed"][0]["ones_and_toggles"] == "activity 0.5"


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--link", "h2-output=fixed(2,-3,saturate-symmetric)", "--weight", "rest=ternary", "--samples", 10**15),
        ("--set", "rules.dtp.schedule=alternating-epochs", "--epochs", 0, "--placement", "h1-h2=board"),
    ],
)
def test_tables_are_whole_in_80_columns(options: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = call(*LINE, *options)
    assert (said.status, said.err) == (0, "")
    assert max(map(len, said.out.splitlines())) <= 80
    assert "…" not in said.out
    assert "What dtp would send, compute and cost; nothing was trained." in said.out
    assert "ones and toggles: activity 0.5" in said.out


def test_the_command_says_what_a_run_gives(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = experiment_of({}, files)
    run(experiment, Path("mine"), data.load(experiment.data))
    line = ("--sizes", "6-7-5-3", "--link", "input-h1=ufixed(8,0)", "--link", "h1-h2=binary/ternary")
    said = call("estimate", "--data", experiment.data, *line, "--like", "mine", "--activity", 0.2)
    assert (said.status, said.err) == (0, "")
    words = " ".join(said.out.split())
    assert (
        "ones and toggles: mine; activity 0.2 for h1-h2 feedback 'state', h1-h2 feedback 'target', h1-h2 feedback "
        "'reconstruction'"
    ) in words
    assert f"{TRAIN} samples to train on, {TEST:,} to test with" in words


def test_no_data_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path))
    said: Said = call("estimate", "--data", "mnist", "--rule", "straight-through", "--json")
    assert (said.status, said.err) == (0, "")
    assert json.loads(said.out)["data"] == {
        "name": "mnist", "inputs": 784, "classes": 10, "train": 50_000, "test": 10_000, "label_kind": "classes",
    }  # fmt: skip


def test_an_estimate_on_a_machine(tmp_path: Path) -> None:
    """Its bill is that of `price_on` with static power, and its time is told."""
    said: Said = call(*LINE, "--machine", "loihi", "--save", tmp_path / "ledger.json", "--json")
    found, training = json.loads(said.out), ledgers.load(tmp_path / "ledger.json")["training"]
    assert {(row["technology"], row["use"], row["unit"]) for row in found["joules"]} == {
        ("loihi", "training", "sample"), ("loihi", "inference", "sample"),
    }  # fmt: skip
    machine = Machine.load("loihi")
    config = machine.place(training)
    bill = with_static(price_on(training, machine, config).per("sample"), time_on(training, machine, config))
    [row] = [row for row in found["joules"] if row["use"] == "training"]
    assert row["total"]["typical"] == pytest.approx(bill.total.typical)
    assert row["by_part"]["static"]["typical"] > 0
    assert any(note.startswith("training: ") and " a sample; " in note for note in found["notes"])
