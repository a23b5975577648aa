"""Bands, ratios and tornadoes from the command `price`, and their figures."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hw_models.baselines import BASELINES
from hw_models.timing import Point, Roof, Roofline
from hw_models.uncertainty import Swing
from lowbit_dtp.bands import Tornado
from lowbit_dtp.cli import app
from lowbit_dtp.figures import roofline_figure, save_figure, tornado_figure

OLD = Path(__file__).parents[1] / "data" / "run-0.1.0"
"""A comparison: dtp and straight-through@fixed(4,-2) on digits, 64-12-12-10, two epochs."""
BESIDE = "straight-through@fixed(4,-2)"


def said(*arguments):
    result = CliRunner().invoke(app, ["price", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def rows(*arguments):
    return json.loads(said(*arguments, "--json"))


def test_bands_lie_within_the_sums_of_lows_and_highs():
    for row in rows(OLD):
        for of in ("total", "links_share"):
            band, ends = row["bands"][of], row[of]
            assert ends["low"] <= band["low"] <= band["typical"] <= band["high"] <= ends["high"]
        assert row["bands"]["ratio"] is None and "tornado" not in row
        assert row["baselines"] == [] and row["break_even_joules"] in (None, {"total": None, "links": None})


def test_ratio_to_a_rule_of_the_run():
    found = {(row["rule"], row["use"], row["technology"]): row for row in rows(OLD, "--against", BESIDE)}
    for (rule, use, technology), row in found.items():
        bands, other = row["bands"], found[BESIDE, use, technology]
        assert bands["against"] == BESIDE
        assert bands["ratio_of_typical"] == row["total"]["typical"] / other["total"]["typical"]
        if rule == BESIDE:
            assert bands["ratio"] == {"low": 1.0, "typical": 1.0, "high": 1.0}
    bands = found["dtp", "training", "45nm"]["bands"]
    assert 1 < bands["ratio"]["low"] < bands["ratio"]["typical"] < bands["ratio"]["high"] < 3


def test_ratio_to_another_folder_is_rule_by_rule_unless_it_has_one_rule(tmp_path):
    shutil.copytree(OLD, tmp_path / "other")
    assert [row["bands"]["against"] for row in rows(OLD, "--against", tmp_path / "other")] == ["dtp"] * 4 + [BESIDE] * 4
    one = tmp_path / "other" / "dtp" / "seed-0"
    against = rows(OLD, "--against", one)
    assert [row["bands"]["against"] for row in against] == ["dtp"] * 8
    assert against[0]["bands"]["ratio"]["high"] == 1.0
    assert rows(one, "--rule", "dtp", "--against", one)[0]["bands"]["ratio"]["low"] == 1.0


def test_no_such_rule_or_folder():
    with pytest.raises(ValueError) as error:
        said(OLD, "--against", "backprop")
    known = ", ".join(["dtp", BESIDE, *(baseline.name for baseline in BASELINES)])
    message = f"--against backprop: no such folder, and no rule of {OLD} or baseline; there are: {known}"
    assert str(error.value) == message


def test_old_ledgers_have_no_baselines():
    text = said(OLD)
    why = "its ledger is of an older version, which counted fewer accesses"
    assert f"Backpropagation for dtp is not beside it: {why}" in " ".join(text.split())


def test_seed_of_the_draws():
    first, again, other = (rows(OLD, "--draws", 100, "--draws-seed", seed)[0]["bands"] for seed in (0, 0, 1))
    assert first == again and first["total"] != other["total"]
    with pytest.raises(ValueError, match=r"^the number of draws must be 1 or more, not 0$"):
        said(OLD, "--draws", 0)


def test_tornado():
    row = rows(OLD, "--tornado")[0]
    swings = row["tornado"]["swings"]
    sizes = [abs(swing["at_high"] - swing["at_low"]) for swing in swings]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
    assert row["tornado"]["typical"] == row["total"]["typical"]
    assert {swing["quantity"] for swing in swings} >= {"45nm/add float32", "45nm/wire on-die"}


def test_tornado_of_a_ratio_is_of_other_bills_only():
    found = rows(OLD, "--against", BESIDE, "--tornado")
    assert [row["tornado"] is None for row in found] == [False, False, False, False, True, True, True, True]
    assert found[0]["tornado"]["typical"] == found[0]["bands"]["ratio_of_typical"]


def test_tables_are_whole_at_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = said(OLD, "--against", BESIDE, "--tornado")
    after = text[text.index("constants used") :].split("\n")[1:]
    assert max(map(len, after)) <= 80
    assert "training, 45nm: joules a sample, typical (90 % of draws)" in text
    assert "ratio to" in text and "dtp, training, 45nm" in text and "…" not in text


def test_figures_are_drawn_into_a_folder(tmp_path):
    said(OLD, "--technology", "7nm", "--rule", "dtp", "--figures", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dtp-inference-7nm.svg", "dtp-training-7nm.svg"]
    drawn = (tmp_path / "dtp-training-7nm.svg").read_text()
    assert "dtp, training, 7nm: joules a sample" in drawn and "7nm/" in drawn
    said(OLD, "--technology", "7nm", "--rule", "dtp", "--figures", tmp_path)
    assert (tmp_path / "dtp-training-7nm.svg").read_text() == drawn


def test_bars_of_a_tornado(tmp_path):
    swings = [Swing(f"process/constant {i}", 1 - 0.04 * (13 - i), 1 + 0.06 * (13 - i)) for i in range(14)]
    figure = tornado_figure(Tornado("A title", 1.0, "", swings))
    [axes] = figure.axes
    ends = [(bar.get_x() + bar.get_width(), bar.get_y()) for bar in axes.patches]
    lows, highs = ends[::2], ends[1::2]
    assert [x for x, _ in lows] == pytest.approx([swing.at_low for swing in swings[:12]])
    assert [x for x, _ in highs] == pytest.approx([swing.at_high for swing in swings[:12]])
    assert [label.get_text() for label in axes.get_yticklabels()] == [swing.quantity for swing in swings[:12]]
    assert axes.get_xlabel() == "ratio; not drawn: 1 that move it less"  # the last one does not move it at all
    save_figure(figure, tmp_path / "figure.svg")
    assert re.search(r"<text[^>]*>A title</text>", (tmp_path / "figure.svg").read_text())
    assert tornado_figure(Tornado("Nothing moves", 2e-9, "J", swings[13:])).axes[0].get_xlabel() == "nJ"


def test_a_roofline_has_a_roof_for_each_traffic_and_a_point_for_each_layer():
    roofs = Roof("memory", 1e10), Roof("wire board", 1e8)
    points = Point("h1", "memory", 0.5, 4e9), Point("h1", "wire board", 20.0, 4e9), Point("h2", "memory", 2.0, 1e10)
    figure = roofline_figure(Roofline("mine", 1e10, roofs, points))
    axes = figure.axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines if line.get_label() in dict(roofs)}
    assert drawn == {
        "memory": [[0.125, 1.25e9], [1.0, 1e10], [400.0, 1e10]],
        "wire board": [[0.125, 1.25e7], [100.0, 1e10], [400.0, 1e10]],
    }
    dots = [line.get_xydata()[0].tolist() for line in axes.lines if len(line.get_xydata()) == 1]
    assert dots == [[point.intensity, point.products_per_second] for point in points]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["memory", "wire board", "h1", "h2"]
