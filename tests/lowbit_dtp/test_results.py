"""Results of runs: what is saved, what it says, and the pictures and tables that are drawn from it."""

import json
import re
from itertools import pairwise, product
from math import isclose
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lowbit_dtp import ledger as ledgers
from lowbit_dtp.cli import app
from lowbit_dtp.curves import Curve, Tradeoff, curve_figure, front, tradeoff_figure
from lowbit_dtp.data import load as load_data
from lowbit_dtp.events import Direction, MessageType
from lowbit_dtp.experiment import Comparison
from lowbit_dtp.findings import changed, pages
from lowbit_dtp.formats import parse
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.network import Network
from lowbit_dtp.results import Result, load_all, save
from lowbit_dtp.runs import curves, run
from lowbit_dtp.storage import StorageError, write_json
from lowbit_dtp.training import evaluate

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "data" / "run-0.1.0"
"""A comparison: dtp and straight-through@fixed(4,-2) on digits, two epochs."""
FILES = ["experiment.toml", "ledger.json", "metrics.jsonl", "run.json"]
DTP = {
    ("forward", "noisy activations"): "binary",
    ("feedback", "reconstruction"): "binary",
    ("forward", "activations"): "binary",
    ("feedback", "state"): "binary",
    ("feedback", "target"): "binary",
}
"""What DTP sends over h1-h2."""


def said(*arguments, status=0):
    result = CliRunner().invoke(app, ["results", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status
    return result.stdout


def test_runs_are_saved_in_their_places_without_weights(tmp_path):
    rows = json.loads(said("save", OLD, "--out", tmp_path / "old", "--json"))
    places = [tmp_path / "old" / rule / "seed-0" for rule in ("dtp", "straight-through_fixed_4_-2")]
    assert rows == [{"folder": str(place), "epochs": 2, "planned": 2} for place in places]
    for place, rule in zip(places, ("dtp", "straight-through_fixed_4_-2"), strict=True):
        run = OLD / rule / "seed-0"
        assert sorted(path.name for path in place.iterdir()) == FILES
        assert ledgers.load(place / "ledger.json") == ledgers.load(run / "ledger.json")
        kept, lines = (
            [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            for folder in (place, run)
        )
        assert [line | {"train_loss": float(f"{line['train_loss']:.6g}")} for line in lines] == kept
    first = {path: path.read_text() for path in tmp_path.rglob("*.*") if path.is_file()}
    save(tmp_path / "old", tmp_path / "old")  # results are saved as they are
    assert {path: path.read_text() for path in first} == first


def test_a_single_run_is_saved_in_a_folder_of_its_seed(tmp_path):
    save(OLD / "dtp" / "seed-0", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["seed-0"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(OLD / "dtp" / "seed-0")
    save(tmp_path / "runs" / "mine", tmp_path / "two")
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["seed-0"]


def test_a_command_names_the_new_folder(tmp_path):
    save(OLD, tmp_path / "old")
    for path in (tmp_path / "old").rglob("run.json"):
        content = json.loads(path.read_text())
        content["command"] = f"lowbit-dtp compare --out {tmp_path / 'old'}"
        path.write_text(json.dumps(content))
    save(tmp_path / "old", tmp_path / "new")
    commands = [json.loads(path.read_text())["command"] for path in (tmp_path / "new").rglob("run.json")]
    assert commands == [f"lowbit-dtp compare --out {tmp_path / 'new'}"] * 2


def test_a_run_under_way_is_saved_as_far_as_it_has_come(tmp_path):
    experiment = Comparison.load("digits", epochs=3, sizes=[64, 8, 8, 10]).experiment("dtp", 1)
    data = load_data("digits")

    def stop(step):
        if step > 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path / "runs", data, on_step=stop)
    [saved] = save(tmp_path / "runs", tmp_path / "kept")
    done = len((tmp_path / "runs" / "metrics.jsonl").read_text().splitlines())
    assert 0 < done < 3 and (saved.epochs, saved.planned) == (done, 3)
    assert sorted(path.name for path in saved.folder.iterdir()) == sorted({*FILES} - {"run.json"})
    result = Result.load(tmp_path, "kept")
    assert result.epochs == done and result.training.samples >= done * len(data.train)
    run(experiment, tmp_path / "runs", data)
    [saved] = save(tmp_path / "runs", tmp_path / "kept")
    assert sorted(path.name for path in saved.folder.iterdir()) == FILES
    assert "3 of" not in said("save", tmp_path / "runs", "--out", tmp_path / "kept")


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(StorageError) as error:
        save(tmp_path, tmp_path / "out")
    assert str(error.value) == f"{tmp_path}: no run here has done an epoch; a run folder has experiment.toml"
    for name in ("a", "a/seed-0"):
        (tmp_path / name).mkdir()
        for file in FILES:
            (tmp_path / name / file).write_bytes((OLD / "dtp" / "seed-0" / file).read_bytes())
    with pytest.raises(StorageError) as error:
        save(tmp_path, tmp_path / "out")
    place, runs = tmp_path / "out" / "a" / "seed-0", f"{tmp_path / 'a'} and {tmp_path / 'a' / 'seed-0'}"
    assert str(error.value) == f"{place}: is the place of two runs, {runs}; save them into two folders"


# --- results of known runs -------------------------------------------------------------------------------------------


def write_result(root, folder, rule, sent, scores, epochs=None, finished=True):
    """Results of `rule` that sent messages of 10 codes over h1-h2 for each of 4 samples.

    `sent` are formats by direction and purpose, `scores` for each seed pairs of validation and test error by epoch.
    """
    for seed, pairs in enumerate(scores):
        ledger = Ledger(epochs=len(pairs), steps=1, samples=4, codings=["events", "flips"])
        for (direction, purpose), name in {("forward", "inputs"): "ufixed(8,0)", **sent}.items():
            fmt, link = parse(name), "input-h1" if purpose == "inputs" else "h1-h2"
            kind = MessageType(link, Direction(direction), purpose, name, fmt.bits, 10)
            ledger.crossed(kind, 4, 0, 0)
            ledger.coded_counts.count(kind, fmt, np.zeros((4, 10), fmt.code_dtype), None)
        place = root / folder / f"seed-{seed}"
        content = Comparison.load("digits", sizes=[64, 10, 10, 10], epochs=epochs or len(pairs))
        experiment = content.experiment(rule, seed)
        place.mkdir(parents=True)
        (place / "experiment.toml").write_text(experiment.as_toml())
        lines = [
            {"epoch": i, "valid_error_percent": valid, "test_error_percent": test}
            for i, (valid, test) in enumerate(pairs, 1)
        ]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        ledgers.save(place / "ledger.json", training=ledger, inference=Ledger())
        if finished:
            write_json(place / "run.json", {"measure": "error_percent", "command": ""})


@pytest.fixture
def root(tmp_path):
    results = tmp_path / "results"
    write_result(
        results, "mine/dtp", "dtp", DTP, [[(9, 8), (3, 4)], [(5, 6), (5, 7), (1, 1)]], epochs=4, finished=False
    )
    up = {("forward", "activations"): "binary"}
    for folder, name, error in (("ternary", "ternary", 3.0), ("float", "float32", 5.0)):
        rule = f"straight-through@{name}" if name != "float32" else "straight-through"
        write_result(results, f"mine/{folder}", rule, up | {("feedback", "error"): name}, [[(error, error)]])
    (results / "findings.toml").write_text(
        '[pictures.a]\nruns = ["mine/*"]\n[pictures.b]\nkind = "bits"\nruns = ["mine/*"]\nbreak_even = "mine/dtp"\n'
        '[tables.t]\nruns = ["mine/dtp", "mine/*"]\nbreak_even = "mine/dtp"\nlabels = { "mine/float" = "plain" }\n'
    )
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "findings.md").write_text("# F\n<!-- table t -->\nold\n<!-- end -->\nend\n")
    return tmp_path


def test_scores_are_those_of_epochs_that_all_seeds_have_done(root):
    [result] = load_all(root / "results", ["mine/dtp"])
    assert result.scores("valid") == {1: [9, 5], 2: [3, 5]} and (result.seeds, result.epochs) == (2, 2)
    assert (result.last("test").mean, result.last("valid").mean) == (5.5, 4)
    assert isclose(result.last("test").std, 4.5**0.5)
    assert result.chosen.mean == (4 + 6) / 2  # after epoch 2 of seed 0, and epoch 1 of seed 1
    assert result.training.samples == 8 and result.links["h1-h2"].feedback.bits_per_sample == 30


def test_scores_of_runs_that_stopped_early_are_those_of_their_own_ends(tmp_path):
    write_result(tmp_path, "r", "dtp", DTP, [[(9, 8), (3, 4)], [(5, 6), (5, 7), (1, 1)]], epochs=9)
    result = Result.load(tmp_path, "r")
    assert (result.last("test").mean, result.last("valid").mean, result.chosen.mean) == (2.5, 2, 2.5)
    assert (result.ends, result.epochs, list(result.scores("test"))) == ([2, 3], 2, [1, 2])
    assert [saved.planned for saved in save(tmp_path / "r", tmp_path / "kept")] == [2, 3]


def test_seeds_under_way_are_left_out_if_others_are_finished(tmp_path):
    write_result(tmp_path, "r", "dtp", DTP, [[(9, 8), (3, 4)], [(5, 6)]], epochs=2)
    (tmp_path / "r" / "seed-1" / "run.json").unlink()
    result = Result.load(tmp_path, "r")
    assert (result.seeds, result.epochs, result.last("test").mean, result.training.samples) == (1, 2, 4, 4)


def test_the_training_error_is_that_of_the_network_on_all_training_samples(tmp_path):
    data = load_data("digits")

    def trained(epochs, seed=0, **more):
        comparison = Comparison.load("digits", sizes=[64, 10, 10, 10], epochs=epochs, compare=["dtp"], **more)
        folder = tmp_path / "runs" / f"seed-{seed}"
        run(comparison.experiment("dtp", seed), folder, data)
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    assert "train_error_percent" not in trained(1)[0]
    assert "training_error" not in (tmp_path / "runs" / "seed-0" / "experiment.toml").read_text()
    lines = trained(3, training_error=True)  # goes on with the run
    assert ["train_error_percent" in line for line in lines] == [False, True, True]
    for seed in (1, 2):
        trained(3, seed, training_error=True)
    result = Result.load(tmp_path, "runs")
    assert list(result.scores("train")) == [2, 3] and list(result.scores("test")) == [1, 2, 3]
    networks = [Network.load(tmp_path / "runs" / f"seed-{seed}" / "network.safetensors") for seed in range(3)]
    errors = [evaluate(network, data.train) for network in networks]
    assert result.scores("train")[3] == pytest.approx(errors)
    assert isclose(result.training_error.mean, np.mean(errors))
    columns = curves(tmp_path / "runs" / "seed-0")
    assert [line["train_error_percent"] for line in columns] == [None, *(x["train_error_percent"] for x in lines[1:])]


def test_training_errors_are_shown_where_they_are_known(root):
    page, settings = root / "docs" / "findings.md", root / "results" / "findings.toml"
    settings.write_text('[pictures.a]\npart = "train"\nruns = ["mine/float"]\n[tables.t]\nruns = ["mine/*"]\n')
    with pytest.raises(StorageError) as caught:
        pages(root)
    assert str(caught.value) == (
        f"{settings}: pictures.a.part: mine/float has no score on train samples; "
        "train it with training_error = true, or draw test or valid"
    )
    line = {"epoch": 1, "valid_error_percent": 5.0, "test_error_percent": 5.0, "train_error_percent": 0.25}
    (root / "results" / "mine" / "float" / "seed-0" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    drawn = pages(root)
    cells = [[x.strip() for x in row.split("|")] for row in drawn[page].splitlines() if row.startswith("| ")]
    column = cells[0].index("training error, %")
    assert [row[column] for row in cells[2:]] == ["", "0.25", ""]  # dtp, float, ternary
    assert "straight-through" in drawn[root / "docs" / "pictures" / "a.svg"]


def test_errors_are_drawn_over_the_number_of_hidden_layers(root):
    settings = root / "results" / "findings.toml"
    asked = '[pictures.d]\nkind = "depth"\nruns = ["mine/*"]\ngroups = { "straight-through@ternary" = "two bits" }\n'
    settings.write_text(f'{asked}[tables.t]\nruns = ["mine/*"]\n')
    drawn = pages(root)[root / "docs" / "pictures" / "d.svg"]
    assert all(f">{text}</text>" in drawn for text in ("two bits", "dtp", "hidden layers", "straight-through"))
    up = {("forward", "activations"): "binary"}
    write_result(root / "results", "mine/again", "straight-through", up, [[(1, 1)]])
    with pytest.raises(StorageError) as caught:
        pages(root)
    assert str(caught.value) == (
        f"{settings}: pictures.d.runs: mine/float is a second result of straight-through with 2 hidden layers"
    )


def test_tables_and_pictures_are_written(root):
    page = root / "docs" / "findings.md"
    shown = [page, *(root / "docs" / "pictures" / f"{name}.svg" for name in "ab")]
    assert said("draw", "--root", root, "--check", "--json", status=1).count("docs/") == 3
    assert page.read_text().splitlines()[2] == "old"
    assert {*json.loads(said("draw", "--root", root, "--json"))["written"]} == set(map(str, shown))
    assert said("draw", "--root", root, "--check").split() == ["would", "change"] and not changed(root)
    text = page.read_text()
    assert text.startswith("# F\n<!-- table t -->\n\n| ") and text.endswith("\n\n<!-- end -->\nend\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    columns = "|  | bits up / down | coded bits up / down | validation error, % | test error, % | test, best epoch |"
    assert rows[0] == columns + " seeds | epochs |"
    # idle words: a bit that says that events follow, and 4 bits for their number, none; code 0 of ternary is -1
    assert (
        rows[2]
        == "| dtp | 20 / 30 | 10 (events) / 15 (events) | 4.00 ± 1.41 | 5.50 ± 2.12 | 5.00 ± 1.41 | 2 | 2 of 4 |"
    )
    assert rows[3:] == [
        "| plain | 10 / 320 | 5 (events) / 5 (events) | 5.00 | 5.00 | 5.00 | one | 1 |",
        "| straight-through@ternary | 10 / 20 | 5 (events) / 20 (plain) | 3.00 | 3.00 | 3.00 | one | 1 |",
    ]
    assert (
        "**Break-even.** dtp sends 30 bits down, as many as straight-through with a gradient of 3 bits; up and down "
        "together, with one of 4 bits. Straight-through with at most its validation error sends 20 bits down or more "
        "(straight-through@ternary). Coded, it sends 15 bits down. Straight-through with at most its validation error "
        "sends 20 coded bits down or more (straight-through@ternary)."
    ) in text
    for name, labels in (("a", ["dtp", "straight-through"]), ("b", ["dtp", "ternary", "straight-through"])):
        svg = (root / "docs" / "pictures" / f"{name}.svg").read_text()
        assert all(f">{label}<" in svg for label in labels)
        assert "Matplotlib" not in svg and "<dc:date>" not in svg
    assert ">dtp: a gradient of 3 bits sends as many<" in (root / "docs" / "pictures" / "b.svg").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[figures]\n", "no key 'figures'; there are: pictures, tables"),
        ("[tables.t]\n", "tables.t.runs must name folders of results, at least one"),
        ('[tables.t]\nruns = "a"\n', "tables.t.runs must be a list of texts, not 'a'"),
        ('[tables.t]\nrun = ["a"]\n', "no key of tables.t 'run'; there are: break_even, labels, links, runs"),
        (
            '[pictures.p]\nruns = ["mine/dtp"]\nkind = "bars"\n',
            "pictures.p.kind must be one of epochs, bits, depth, not 'bars'",
        ),
        (
            '[tables.t]\nruns = ["no/*"]\n',
            "tables.t.runs: {results}/no/*: no results here; a folder of results has seed-0, seed-1, ...",
        ),
        (
            '[tables.t]\nruns = ["mine/dtp"]\nbreak_even = "mine/no"\n',
            "tables.t.break_even: mine/no is not among its runs",
        ),
        (
            '[tables.t]\nruns = ["mine/dtp"]\nbreak_even = "mine/dtp"\n',
            "tables.t.break_even: straight-through is not among its runs",
        ),
    ],
)
def test_a_file_of_findings_that_is_wrong_is_named(root, content, message):
    path = root / "results" / "findings.toml"
    path.write_text(content)
    with pytest.raises(StorageError) as error:
        pages(root)
    assert str(error.value) == f"{path}: {message.format(results=root / 'results')}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table t -->\n", "of 1 lines <!-- table NAME -->, 0 have an <!-- end --> after them"),
        ("<!-- table u -->\n<!-- end -->\n", "no table 'u' in results/findings.toml; there are: t"),
    ],
)
def test_a_page_that_is_wrong_is_named(root, text, message):
    path = root / "docs" / "findings.md"
    path.write_text(text)
    with pytest.raises(StorageError) as error:
        pages(root)
    assert str(error.value) == f"{path}: {message}"


def test_the_documentation_is_what_the_results_give():
    """Numbers of a picture may differ by what another processor rounds."""
    for path, text in pages(ROOT).items():
        assert path.exists(), f"{path}: run make results"
        numbers = re.compile(r"-?\d+\.\d+")
        there = path.read_text()
        if path.suffix == ".svg":
            for a, b in zip(numbers.findall(there), numbers.findall(text), strict=True):
                assert isclose(float(a), float(b), abs_tol=0.02), path
            there, text = numbers.sub("#", there), numbers.sub("#", text)
        assert there == text, f"{path}: run make results"


# --- figures ---------------------------------------------------------------------------------------------------------


def ways(number, seed=0):
    draw = np.random.default_rng(seed)
    return [
        Tradeoff(
            f"way {i}", f"group {i % 3}", e + 0.1, 0.1, e, 0.0 if i == 3 else 2.0**b, None if i % 4 else 2.0**b / 3
        )
        for i, (e, b) in enumerate(zip(draw.integers(1, 9, number), draw.integers(0, 12, number), strict=True))
    ]


@pytest.mark.parametrize("coded", [False, True])
def test_no_way_beats_one_on_the_front(coded):
    for seed in range(20):
        points = ways(9, seed)
        best = front(points, coded)
        for way in points:
            beaten = any(
                other.valid_error <= way.valid_error
                and other.sent(coded) <= way.sent(coded)
                and (other.valid_error, other.sent(coded)) != (way.valid_error, way.sent(coded))
                for other in points
            )
            assert beaten == (way not in best)
        assert all(a.sent(coded) <= b.sent(coded) and a.valid_error >= b.valid_error for a, b in pairwise(best))


@pytest.mark.parametrize("number", [1, 5, 16])
def test_every_way_is_drawn_and_named_where_there_is_room(number):
    points = ways(number)
    figure = tradeoff_figure(points, "bits", "error", "title", marks={"even": 7.0})
    [axes] = figure.axes
    drawn = {(round(x, 6), round(y, 6)) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
    nothing = min(axes.get_xlim()) * 1.6
    for way, coded in product(points, (False, True)):
        assert (round(way.sent(coded) or nothing, 6), round(way.error, 6)) in drawn
    names = [text for text in axes.texts if text.get_text().startswith("way")]
    assert [text.get_text() for text in names] == [way.label for way in points]
    boxes = [text.get_window_extent() for text in names]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert (axes.get_xticks()[0] == nothing) == (number > 3)


def test_a_curve_is_the_mean_of_the_seeds():
    curve = Curve.of("rule", 0, {2: [1.0, 3.0], 1: [4.0]})
    assert (curve.epochs, curve.mean.tolist(), curve.std.tolist()) == ([1, 2], [4, 2], [0, 2**0.5])
    assert [text.get_text() for text in curve_figure([curve], title="title").texts] == ["title"]
