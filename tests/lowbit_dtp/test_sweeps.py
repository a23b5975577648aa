"""Sweeps from the command: runs, tables, pages, and what is computed again."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hw_models.sweep import read_rows
from lowbit_dtp.cli import app
from lowbit_dtp.figures import Point, front_figure
from lowbit_dtp.storage import StorageError

OLD = Path(__file__).parents[1] / "data" / "run-0.1.0"
"""A comparison: dtp and straight-through@fixed(4,-2) on digits, 64-12-12-10, two epochs."""
RULES = ["dtp", "straight-through@fixed(4,-2)"]
FILE = """
runs = "old"
use = ["training", "inference"]
[hardware]
technology = ["45nm", "7nm"]
placement = ["h1-h2=board", "rest=on-die:2mm"]
"""


def said(*arguments, command="sweep"):
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture
def file(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    return path


def test_runs_are_priced_as_price_does(file, tmp_path):
    rows = json.loads(said(file, "--out", tmp_path / "out", "--json"))
    assert rows == read_rows(tmp_path / "out" / "sweep.csv") and len(rows) == 2 * 2 * 2 * 2
    assert [row["rule"] for row in rows] == [rule for rule in RULES for _ in range(8)]
    totals = {
        (bill["rule"], bill["use"], bill["technology"], placement): bill["total"]
        for placement in ("h1-h2=board", "rest=on-die:2mm")
        for bill in json.loads(said(OLD, "--placement", placement, "--json", command="price"))
    }
    for row in rows:
        total = totals[tuple(row[name] for name in ("rule", "use", "technology", "placement"))]
        assert {end: float(row[f"joules_{end}"]) for end in total} == total
        assert (row["run"], row["data"], row["sizes"]) == ("old", "digits", "64-12-12-10")
        assert row["measure"] == "error_percent" and (row["use"] == "inference") == (float(row["bits"]) < 500)
        assert row["links"].endswith("h1-h2=binary/binary")
    scores = {
        row["rule"]: row["test_error_percent"]["mean"] for row in json.loads((OLD / "summary.json").read_text())["rows"]
    }
    assert {row["rule"]: float(row["score"]) for row in rows} == scores


ESTIMATES = """
use = ["training", "inference"]
[estimates]
rule = ["dtp", "straight-through@fixed(4,-2)"]
sizes = "784-50-50-10"
link = "input-h1=fixed(8,1), h1-h2=binary"
batch = 20
activity = 0.25
[hardware]
placement = "rest=on-die:5mm"
"""


def test_estimates_are_priced_as_estimate_does(file, tmp_path):
    file.write_text(ESTIMATES)
    rows = json.loads(said(file, "--out", tmp_path / "out", "--json"))
    assert [(row["rule"], row["use"]) for row in rows] == [(r, use) for r in RULES for use in ("training", "inference")]
    for row in rows:
        assert (row["run"], row["score"], row["sizes"], row["data"]) == ("", "", "784-50-50-10", "")
        options = ("--rule", row["rule"], "--sizes", row["sizes"], "--link", "input-h1=fixed(8,1)", "--link",
                   "h1-h2=binary", "--batch", 20, "--activity", 0.25, "--technology", "45nm", "--placement",
                   "rest=on-die:5mm", "--json")  # fmt: skip
        found = json.loads(said(*options, command="estimate"))
        (total,) = (x["total"] for x in found["joules"] if (x["use"], x["unit"]) == (row["use"], "sample"))
        assert {end: float(row[f"joules_{end}"]) for end in total} == total
    training = [row for row in rows if row["use"] == "training"]
    assert [float(row["bits"]) for row in training] == [8 * 784 + 50 * (5 + 32 + 32), 8 * 784 + 50 * (1 + 4 + 32 + 32)]
    again = said(file, "--out", tmp_path / "out").splitlines()[-1]
    assert again.startswith("0 points computed, 4 were there: ")


def test_runs_and_estimates_are_in_one_table(file, tmp_path):
    file.write_text('runs = "old"\n[estimates]\ndata = "digits"\nsizes = ["64-12-12-10", "64-8-10"]\n')
    rows = json.loads(said(file, "--out", tmp_path / "out", "--json"))
    assert [(row["run"], row["data"], row["sizes"], bool(row["score"])) for row in rows] == [
        ("old", "digits", "64-12-12-10", True),
        ("old", "digits", "64-12-12-10", True),
        ("", "digits", "64-12-12-10", False),
        ("", "digits", "64-8-10", False),
    ]


def test_second_call_computes_what_is_missing(file, tmp_path):
    out = tmp_path / "out"
    assert "16 points computed, 0 were there: " in said(file, "--out", out)
    table, page = (out / "sweep.csv").read_text(), (out / "sweep.html").read_text()
    assert "0 points computed, 16 were there: " in said(file, "--out", out)
    assert (out / "sweep.csv").read_text() == table and (out / "sweep.html").read_text() == page
    file.write_text(FILE + "reuse = [1, 2]\n")
    assert "16 points computed, 16 were there: " in said(file, "--out", out)
    # another ledger of the same run
    path = next((tmp_path / "old" / "dtp").glob("seed-*/ledger.json"))
    path.write_text(path.read_text().replace('"messages": ', '"messages": 1', 1))
    assert "16 points computed, 16 were there: " in said(file, "--out", out)


class Words(HTMLParser):
    """Texts of the page, and the tags that are open where it ends."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_page(file, tmp_path):
    file.write_text(FILE.replace("[hardware]", '[hardware]\nmemory = ["sram", "hbm2"]'))
    text = said(file, "--out", tmp_path / "out")
    page = Words((tmp_path / "out" / "sweep.html").read_text())
    assert page.open == []
    rows = read_rows(tmp_path / "out" / "sweep.csv")
    for use in ("training", "inference"):
        best = sum(row["use"] == use and row["front"] == "1" for row in rows)
        assert f"{use}, error: 16 points, {best} on the front" in page.texts
        assert f"{use}, error: {best} of 16 points, front of error, bits, joules" in text
    assert {"rule", "technology", "placement", "bits a sample", "error %", *RULES} <= set(page.texts)
    # 45 nm has no HBM2: a point for each rule, use and placement
    assert any(each.startswith("8: technology '45nm' has no constant 'hbm2', ") for each in page.texts)
    assert "points have no price: technology '45nm' has no constant 'hbm2', " in text


def test_tables_are_whole_at_80_columns(file, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = said(file, "--out", tmp_path)
    assert "…" not in text
    assert max(map(len, text.splitlines()[:-1])) <= 80


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('runs = "nowhere"', "runs: {folder}/nowhere: no finished run here; a run folder has network.safetensors, a "
         "comparison summary.json"),
        ('[estimates]\nbatch = "x"', "estimates: batch must be a whole number, not 'x'"),
        ("[estimates]\nactivity = 2", "estimates: activity must be a fraction of ones, a number from 0 to 1, not 2.0"),
        (
            "[estimates]\nepochs = [1, 2]",
            "estimates: epochs must be one value, since the table has no column for it, not 1, 2",
        ),
        ('[estimates]\nlink = "h1-h9=binary"', "estimates: links: no link 'h1-h9' in a network 64-100-100-10; there "
         "are: input-h1, h1-h2, h2-output"),
        ('[estimates]\nlinks = "h1-h2=binary"', "estimates: no key 'links'; there are: activation, activity, batch, "
         "data, epochs, link, optimizer, rule, samples, sizes, weight"),
        ('[estimates]\ndata = "./mine.npz"', "estimates: {folder}/mine.npz: no such file or folder"),
        ('runs = "old"\n[hardware]\nreuse = 0', "hardware.reuse: reuse must be 1 or more, not 0.0"),
    ],
)  # fmt: skip
def test_mistakes_name_the_file(text, message, file, tmp_path):
    file.write_text(text)
    with pytest.raises(StorageError) as error:
        said(file, "--out", tmp_path / "out")
    assert str(error.value) == f"{file}: {message.format(folder=tmp_path)}"


def test_points_of_a_figure():
    points = [Point((3.0, 1e-9), "a", "x", 1), Point((1.0, 2e-9), "b", "x", 2), Point((4.0, 9e-9), "b", "y")]
    [axes] = front_figure(points, [("error %", ""), ("joules a sample", "J")]).axes
    drawn = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
    assert sorted(drawn) == [(1e-9, 3.0), (2e-9, 1.0), (9e-9, 4.0)]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("joules a sample, nJ", "error %")
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    three = front_figure([Point((1.0, 2.0, 3.0), "a", "", 1)], [("a", ""), ("b", ""), ("c", "")])
    assert [axes.get_xlabel() for axes in three.axes] == ["b", "c"]
