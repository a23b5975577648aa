"""Baselines beside a run: their ledgers against real runs, and what `price` says of them."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from hw_models import HardwareConfig, Technology, price
from hw_models.baselines import BASELINES
from lowbit_dtp import ledger as ledgers
from lowbit_dtp.baselines import FIRST, as_baseline, baselines_of, data_of, same_network
from lowbit_dtp.cli import app
from lowbit_dtp.comparison import compare
from lowbit_dtp.experiment import Comparison, Experiment

RULES = ["dtp", "backprop", "straight-through", "straight-through@fixed(4,-2)"]
NAMES = [baseline.name for baseline in BASELINES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A comparison of two seeds on a small network, with a binary link."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    links = {"h1-h2": {"forward": "binary", "feedback": "binary"}}
    content = {"sizes": [64, 9, 8, 10], "epochs": 2, "seeds": 2, "compare": RULES, "links": links, "batch": 100}
    compare(Comparison.load("digits", placement="h1-h2=board", **content), path, export=False)
    return path


def run(folder, rule):
    """The experiment of the first seed of a rule, and the ledgers over both seeds."""
    paths = sorted((folder / rule).glob("seed-*"))
    books = [ledgers.load(path / "ledger.json") for path in paths]
    together = [ledgers.merged(book[use] for book in books) for use in ("training", "inference")]
    return Experiment.load(paths[0] / "experiment.toml"), *together


def of(folder, rule="dtp"):
    experiment, training, inference = run(folder, rule)
    return baselines_of(experiment, data_of(experiment, training, inference), like=folder)


def one_seed(folder, rule, use):
    return ledgers.load(folder / rule / "seed-0" / "ledger.json")[use]


def without_data(ledger):
    messages = {message: traffic.messages for message, traffic in ledger.traffic.items()}
    return messages, ledger.work, ledger.accesses, (ledger.epochs, ledger.steps, ledger.samples, ledger.batch)


@pytest.mark.parametrize(
    ("name", "rule", "use"),
    [
        ("backprop float32", "backprop", "training"),
        ("backprop float32", "backprop", "inference"),
        ("straight-through 32 bit", "straight-through", "training"),
        ("straight-through 4 bit", "straight-through_fixed_4_-2", "training"),
    ],
)
def test_baselines_of_dtp_are_those_of_real_runs(name, rule, use, folder):
    assert without_data(of(folder).ledgers[name][use]) == without_data(one_seed(folder, rule, use))


def test_ones_and_toggles_are_those_of_the_run(folder):
    """Both seeds together have sent as many messages as each seed twice."""
    made = of(folder).ledgers["straight-through 4 bit"]["training"]
    _, training, _ = run(folder, "straight-through_fixed_4_-2")
    for message, traffic in training.traffic.items():
        if message.link != "input-h1":
            assert abs(made.traffic[message].ones - traffic.ones / 2) <= 1
            assert abs(made.traffic[message].toggles - traffic.toggles / 2) <= 1


def test_widths_send_in_proportion(folder):
    found = of(folder).ledgers
    assert list(found) == NAMES and all("inference" in found[name] for name in NAMES[:3])
    assert not any("inference" in found[name] for name in NAMES[3:])
    bits = [found[name]["training"].bits("h1-h2", per="sample") for name in NAMES[3:]]
    assert bits == [9 + 9 * width for width in (1, 2, 3, 4, 8, 16, 32)]  # 9 neurons in h1
    bits = [found[name]["training"].bits("h1-h2", per="sample") for name in NAMES[:3]]
    assert bits == [2 * 9 * width for width in (32, 16, 8)]


def test_gradients_that_no_link_carries_in_few_bits_are_one_baseline(folder):
    experiment, training, inference = run(folder, "dtp")
    floats = replace(experiment, links={"h1-h2": {"forward": "binary", "feedback": "float32"}})
    found = baselines_of(floats, data_of(experiment, training, inference))
    assert list(found.ledgers) == [*NAMES[:3], "straight-through 1 bit"] and found.missing == {}


def test_experiments_of_one_network_have_the_same_baselines(folder):
    experiment, *_ = run(folder, "dtp")
    for rule in ("backprop", "straight-through_fixed_4_-2"):
        assert same_network(experiment, run(folder, rule)[0])
    for change in ({"sizes": [64, 8, 8, 10]}, {"batch": 99}, {"links": {}}, {"weights": {"rest": "ternary"}}):
        assert not same_network(experiment, replace(experiment, **change))
    assert same_network(experiment, replace(experiment, seed=5, settings={"noise": 0.1}))


@pytest.mark.parametrize(("given", "used"), [("sgd", "sgd"), ("bop", "rmsprop"), ("shift-sgd", "rmsprop")])
def test_optimizers_that_train_no_floats_are_replaced(given, used, folder):
    experiment = replace(run(folder, "dtp")[0], optimizer={"name": given, "learning_rate": 0.1})
    baseline = as_baseline(replace(experiment, links={"output-h1": {}} | experiment.links), "backprop")
    assert baseline.optimizer == {"name": used} and list(baseline.links) == list(experiment.links)


def test_task_that_backpropagation_does_not_learn(folder):
    experiment, training, inference = run(folder, "dtp")
    som = replace(experiment, rule="som", sizes=[64, 10], links={}, settings={}, task="quantize")
    found = baselines_of(som, data_of(experiment, training, inference))
    why = "task: backprop does not learn to quantize; it learns to classify, associate, reconstruct"
    assert found.ledgers == {} and found.missing["backprop float32"] == why and list(found.missing) == NAMES


def test_what_cannot_be_priced_says_why(folder, tmp_path):
    few = tmp_path / "few.toml"
    source = 'unit = "joule"\nsource = "A. Author, 2000"\nevidence = "assumed"\ntypical = 1e-12\n'
    few.write_text(f'description = "Only sums."\n[constants."add float32"]\nper = "operation"\n{source}')
    made = of(folder)
    assert made.priced(HardwareConfig(), [Technology.load(str(few))]) == []
    assert list(made.missing) == NAMES
    assert made.missing[FIRST].startswith("technology 'few' has no constant 'multiply float32', which ")


def called(*arguments):
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


def rows(folder, *arguments):
    return called("price", str(folder), *arguments)


@pytest.fixture(scope="module")
def priced(folder):
    return rows(folder, "--technology", "45nm")


def test_price_has_baselines_beside_each_bill(priced):
    found = {(row["rule"], row["use"]): row for row in priced}
    for (rule, use), row in found.items():
        assert [x["rule"] for x in row["baselines"]] == (NAMES if use == "training" else NAMES[:3])
        first = row["baselines"][0]
        assert row["bands"]["against"] == first["rule"] == FIRST
        assert row["bands"]["ratio_of_typical"] == row["total"]["typical"] / first["total"]["typical"]
        assert first["bands"]["ratio"] == {"low": 1.0, "typical": 1.0, "high": 1.0}
        if use == "training" and rule in ("backprop", "straight-through"):
            name = FIRST if rule == "backprop" else "straight-through 32 bit"
            [own] = [x for x in row["baselines"] if x["rule"] == name]
            assert own["total"]["typical"] == pytest.approx(row["total"]["typical"], rel=1e-2)
    bfloat16, int8 = (row["bands"]["ratio"] for row in found["dtp", "training"]["baselines"][1:3])
    assert int8["high"] < bfloat16["low"] < bfloat16["high"] < 1


def test_straight_through_breaks_even_with_itself(priced):
    for row in priced:
        widths = {"straight-through": 32, "straight-through@fixed(4,-2)": 4}
        if row["use"] == "training" and row["rule"] in widths:
            for of in ("total", "links"):
                found = row["break_even_joules"][of]
                assert found["typical"] == pytest.approx(widths[row["rule"]], rel=0.02)
        assert (row["break_even_joules"] is None) == (row["use"] == "inference")


def test_dtp_breaks_even_on_links_at_its_bits_on_a_wire_per_bit(folder):
    """All of h1-h2 costs by the bit; other links are the same, up to toggles."""
    [row] = rows(folder, "--rule", "dtp", "--technology", "45nm", "--placement", "rest=board")[:1]
    ledger = one_seed(folder, "dtp", "training")
    bits = ledger.bits(per="sample") - price_of_straight_through(folder, 0)
    assert row["break_even_joules"]["links"]["typical"] == pytest.approx(bits / 9)


def price_of_straight_through(folder, width):
    """Bits a sample on all links, with a gradient of `width` bits over h1-h2."""
    ledger = of(folder).ledgers["straight-through 4 bit"]["training"]
    return ledger.bits(per="sample") - 9 * (4 - width)


def test_ratio_and_tornado_to_a_baseline(folder):
    arguments = ("--against", "backprop int8", "--tornado", "--rule", "dtp", "--technology", "7nm")
    training, inference = rows(folder, *arguments)
    for row in (training, inference):
        assert row["bands"]["against"] == "backprop int8"
        assert row["tornado"]["typical"] == row["bands"]["ratio_of_typical"]


def test_without_baselines(folder):
    for row in rows(folder, "--no-baselines", "--technology", "45nm"):
        assert row["baselines"] == [] and row["bands"]["ratio"] is None and row["break_even_joules"] is None


def test_tables_are_whole_at_80_columns(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = CliRunner().invoke(app, ["price", str(folder), "--technology", "7nm"]).stdout
    after = text[text.index("constants used") :].split("\n")[1:]
    assert max(map(len, after)) <= 80 and "…" not in text
    assert "dtp: as many joules on links as straight-through with a gradient of" in text


def test_priced_bills_are_a_sample_of_the_ledger(folder):
    made, board, process = of(folder), HardwareConfig.parse("h1-h2=board"), Technology.load("45nm")
    for each in made.priced(board, [process]):
        whole = price(made.ledgers[each.rule][each.use], board, process)
        assert each.bill == whole.per("sample")


def test_estimate_has_the_baselines_of_a_run(folder, priced):
    """What `price` says of a run, `estimate` says before it, up to toggles on wires per transition."""
    line = ("estimate", "--data", "digits", "--sizes", "64-9-8-10", "--link", "h1-h2=binary", "--epochs", "2")
    line += ("--batch", "100", "--technology", "45nm", "--placement", "h1-h2=board", "--like", str(folder))
    found = called(*line)
    assert found["without"] == {}
    for row, run in zip(found["bands"], priced[:2], strict=True):
        assert (row["rule"], row["use"]) == (run["rule"], run["use"])
        assert [x["rule"] for x in row["baselines"]] == [x["rule"] for x in run["baselines"]]
        assert row["bands"]["ratio_of_typical"] == pytest.approx(run["bands"]["ratio_of_typical"], rel=0.05)
        for one, other in zip(row["baselines"], run["baselines"], strict=True):
            assert one["total"]["typical"] == pytest.approx(other["total"]["typical"], rel=0.01)
    [row, _] = called(*line, "--no-baselines")["bands"]
    assert row["baselines"] == [] and row["bands"]["total"] == found["bands"][0]["bands"]["total"]
