"""Searches: spaces, budgets, what is written, workers that die, storages that many use."""

import csv
import json
import re

import pytest
from typer.testing import CliRunner

from lowbit_dtp.cli import app
from lowbit_dtp.experiment import Comparison, ExperimentError, with_settings

pytest.importorskip("optuna", reason="a search needs Optuna")

from lowbit_dtp.search import Place, Search, outcomes, run_search
from lowbit_dtp.search_report import write_results

SMALL = {"sizes": [64, 8, 8, 10], "epochs": 2, "batch": 100, "links": {}}


def comparison(*rules, search=None, **more):
    content = SMALL | {"compare": list(rules or ("dtp", "straight-through"))} | more
    return Comparison.load("digits", **content, search=search)


def searched(tmp_path, *rules, trials=2, **more):
    keys = {"seeds", "sampler", "pruner", "seed"} & more.keys()
    wanted = Search(
        comparison(*rules, **{k: v for k, v in more.items() if k not in keys}), trials, **{k: more[k] for k in keys}
    )
    return wanted, Place(str(tmp_path / "journal.log"))


def settings_of(found):
    return {rule: [outcome.settings for outcome in each] for rule, each in found.items()}


def said(*arguments):
    result = CliRunner().invoke(app, ["search", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_a_search_writes_settings_that_a_comparison_takes(tmp_path):
    spec, table = "straight-through@ternary*0.05", {"low": 0.01, "high": 0.1, "log": True, "format": "ternary*{}"}
    space = {spec: {"learning_rate": {"low": 1e-3, "high": 1e-2}, "gradient": table}}
    wanted, place = searched(tmp_path, "dtp", "straight-through", spec, trials=3, search=space)
    found = run_search(wanted, place, jobs=1)
    rows = write_results(tmp_path, wanted, found, "here")
    assert {rule: len(each) for rule, each in found.items()} == {"dtp": 3, "straight-through": 3, spec: 3}
    loaded = Comparison.load(None, tmp_path / "best.toml")
    assert loaded.rules[:2] == ["dtp", "straight-through"]
    for row, rule in zip(rows, loaded.rules, strict=True):
        best = min(found[row.rule], key=lambda outcome: outcome.score)
        assert (row.trial, row.score, row.settings, row.epochs) == (best.number, best.score, best.settings, 6)
        changed, spec = with_settings(wanted.comparison, row.rule, best.settings)
        assert spec == rule and loaded.experiment(rule, 0) == changed.experiment(spec, 0)
        assert loaded.experiment(rule, 0).optimizer["learning_rate"] == best.settings["learning_rate"]
    assert loaded.experiment(loaded.rules[2], 0).settings["gradient"] == rows[2].settings["gradient"]
    lines = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [(x["rule"], x["trial"]) for x in lines] == [(rule, str(n)) for rule in found for n in range(3)]
    assert [float(x["valid_score"]) for x in lines] == [outcome.score for each in found.values() for outcome in each]
    written = json.loads((tmp_path / "search.json").read_text())
    assert written["budget"] == {"trials": 3, "epochs": 2, "seeds": 1} and len(written["rules"]) == 3


def test_the_same_command_goes_on_and_other_settings_are_refused(tmp_path):
    wanted, place = searched(tmp_path, "straight-through", trials=1)
    first = run_search(wanted, place, jobs=1)
    more, _ = searched(tmp_path, "straight-through", trials=3)
    told = []
    found = run_search(more, place, jobs=1, on_trial=told.append)
    assert found["straight-through"][:1] == first["straight-through"] and len(told) == 2
    assert outcomes(wanted, place) == first
    at_once = run_search(more, Place(str(tmp_path / "other.log")), jobs=1)
    assert settings_of(at_once) == settings_of(found)
    assert [x.score for x in at_once["straight-through"]] == [x.score for x in found["straight-through"]]
    refused = (
        "{}: holds a search of straight-through with {}; choose another folder, or repeat the settings of that search"
    )
    for change, words in (
        ({"epochs": 3}, "epochs = 2, not 3"),
        ({"seed": 1}, "seed = 0, not 1"),
        ({"search": {"straight-through": {"learning_rate": {"low": 0.1, "high": 1.0}}}},
         "space = {'learning_rate': {'low': 0.0001, 'high': 0.01, 'log': True}}, "
         "not {'learning_rate': {'low': 0.1, 'high': 1.0}}"),
    ):  # fmt: skip
        other, _ = searched(tmp_path, "straight-through", trials=3, **change)
        with pytest.raises(ExperimentError, match=re.escape(refused.format(place.storage, words))):
            run_search(other, place, jobs=1)
