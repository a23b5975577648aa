"""Searches: spaces, budgets, what is written, workers that die, storages that many use."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lowbit_dtp import data
from lowbit_dtp.cli import app
from lowbit_dtp.experiment import Comparison, ExperimentError, rule_keys, with_settings
from lowbit_dtp.rules import RULES
from lowbit_dtp.storage import StorageError

optuna = pytest.importorskip("optuna", reason="a search needs Optuna")

from lowbit_dtp import search as searching  # noqa: E402
from lowbit_dtp.search import Place, Search, outcomes, run_search  # noqa: E402
from lowbit_dtp.search_report import write_results  # noqa: E402
from lowbit_dtp.spaces import default_space  # noqa: E402

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
    rows = write_results(tmp_path, wanted, place, found)
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


def test_a_search_of_an_older_version_goes_on(tmp_path):
    wanted, place = searched(tmp_path, "straight-through")
    study = place.study(wanted, "straight-through")
    older = {name: value for name, value in study.user_attrs["definition"].items() if name != "codings"}
    study.set_user_attr("definition", older)
    place.study(wanted, "straight-through")
    other, _ = searched(tmp_path, "straight-through", codings=["events"])
    with pytest.raises(
        ExperimentError, match=r"holds a search of straight-through with codings = \[\], not \['events'\]"
    ):
        place.study(other, "straight-through")


def quick(monkeypatch, score):
    """Replace training by `score` of an experiment, after each of its epochs."""

    def scores(experiments, train, valid, device):
        return ([score(x, epoch) for x in experiments] for epoch in range(1, experiments[0].epochs + 1))

    monkeypatch.setattr(searching, "_scores", scores)


def distance(experiment, epoch=0):
    """How far the learning rate is from 0.003, in powers of ten."""
    return abs(np.log10(experiment.optimizer["learning_rate"]) - np.log10(0.003))


def test_tpe_learns_from_trials_and_random_does_not(tmp_path, monkeypatch):
    quick(monkeypatch, distance)
    means = {}
    for sampler in ("random", "tpe"):
        wanted, _ = searched(tmp_path, "straight-through", trials=25, sampler=sampler)
        found = run_search(wanted, Place(str(tmp_path / sampler)), jobs=1)["straight-through"]
        means[sampler] = np.mean([outcome.score for outcome in found[15:]])
        assert [x.score for x in found] == [distance(wanted.experiments(x.rule, x.settings)[0]) for x in found]
    assert means["tpe"] < 0.75 * means["random"]


def test_a_trial_that_lags_behind_is_ended_by_the_median_pruner(tmp_path, monkeypatch):
    quick(monkeypatch, lambda experiment, epoch: distance(experiment) / epoch)
    wanted, place = searched(tmp_path, "straight-through", trials=12, pruner="median", epochs=3)
    found = run_search(wanted, place, jobs=1)["straight-through"]
    ended = [outcome for outcome in found if outcome.note]
    assert all(not outcome.note for outcome in found[:5]) and 0 < len(ended) < 7
    for outcome in ended:
        epoch = len(outcome.curve)
        others = [other.curve[epoch] for other in found[: outcome.number] if other.score is not None]
        assert outcome.score is None and outcome.note == f"above the median of the others after epoch {epoch}"
        assert epoch < 3 and min(outcome.curve.values()) > np.median(others)
    [row] = write_results(tmp_path, wanted, place, {"straight-through": found})
    assert row.stopped == len(ended) and row.epochs == sum(len(outcome.curve) for outcome in found) < 36


def test_a_trial_that_diverges_is_no_error(tmp_path, monkeypatch):
    def score(experiment, epoch):
        if experiment.optimizer["learning_rate"] > 2e-3:
            raise ValueError("link h1-h2: NaN")
        return float("nan") if experiment.optimizer["learning_rate"] > 1e-3 else 1.0

    quick(monkeypatch, score)
    wanted, place = searched(tmp_path, "straight-through", trials=8)
    found = run_search(wanted, place, jobs=1)["straight-through"]
    rates = [outcome.settings["learning_rate"] for outcome in found]
    assert max(rates) > 2e-3 and any(1e-3 < rate < 2e-3 for rate in rates)
    for rate, outcome in zip(rates, found, strict=True):
        if rate > 1e-3:
            reason = "link h1-h2: NaN" if rate > 2e-3 else "the score is not finite"
            assert outcome.score is None and outcome.note == f"diverged: {reason}"
        else:
            assert outcome.score == 1.0 and outcome.note == ""
    none = {"straight-through": [outcome for outcome in found if outcome.note]}
    [row] = write_results(tmp_path, wanted, place, none)
    assert (row.trial, row.score, row.settings) == (None, None, {})
    before = wanted.comparison.experiment("straight-through", 0)
    assert Comparison.load(None, tmp_path / "best.toml").experiment("straight-through", 0) == before


def test_a_trial_without_signs_of_life_is_done_again(tmp_path, monkeypatch):
    wanted, place = searched(tmp_path, "straight-through")
    study, now = place.study(wanted, "straight-through"), 0.0
    monkeypatch.setattr(searching.time, "monotonic", lambda: now)
    watch = searching._Watch()
    [trial] = searching._asked(wanted, "straight-through", study, 1)
    trial.set_user_attr("worker", "elsewhere 0 1")

    def states():
        watch.give_back_dead(study, study.get_trials())
        return [trial.state.name for trial in study.get_trials()]

    assert states() == ["RUNNING"]
    trial.set_user_attr("beat", 1)
    now = 170.0
    assert states() == ["RUNNING"]
    now = 340.0
    assert states() == ["RUNNING"]
    now = 351.0
    assert states() == ["FAIL", "WAITING"]
    for tries in (2, 3):
        [again] = searching._asked(wanted, "straight-through", study, 1)
        assert again.params == trial.params and again.user_attrs["tries"] == tries
        searching._give_back(study, study.trials[again.number])
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL"] * 3
    [other] = searching._asked(wanted, "straight-through", study, 1)
    assert other.params != trial.params


def test_a_search_that_is_stopped_goes_on_with_the_same_trial(tmp_path, monkeypatch):
    def stopped(experiment, epoch):
        raise KeyboardInterrupt

    wanted, place = searched(tmp_path, "straight-through", trials=1)
    for _ in range(4):
        quick(monkeypatch, stopped)
        with pytest.raises(KeyboardInterrupt):
            run_search(wanted, place, jobs=1)
    quick(monkeypatch, distance)
    [outcome] = run_search(wanted, place, jobs=1)["straight-through"]
    assert outcome.number == 4
    trials = place.study(wanted, "straight-through").trials
    assert [trial.state.name for trial in trials] == ["FAIL"] * 4 + ["COMPLETE"]
    assert all(trial.params == trials[0].params for trial in trials)


def test_no_more_trials_than_asked_for(tmp_path):
    wanted, place = searched(tmp_path, "straight-through", trials=3)
    study = place.study(wanted, "straight-through")
    assert len(searching._asked(wanted, "straight-through", study, 5)) == 3
    assert searching._asked(wanted, "straight-through", study, 1) == []
    assert [trial.state.name for trial in study.trials] == ["RUNNING"] * 3 + ["FAIL"] * 2


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_the_test_samples_are_not_used(tmp_path, monkeypatch, device):
    if device == "cpu":
        pytest.importorskip("torch")
    digits = data.load("digits")
    without = replace(digits)
    object.__delattr__(without, "test")
    with pytest.raises(AttributeError):
        without.test  # noqa: B018
    scores = []
    for each in (digits, without):
        monkeypatch.setattr(data, "load", lambda name, folder=None, each=each: each)
        wanted, _ = searched(tmp_path, "dtp", epochs=1)
        found = run_search(wanted, Place(str(tmp_path / str(len(scores)))), jobs=1, device=device)
        scores.append([outcome.score for outcome in found["dtp"]])
    assert scores[0] == scores[1] and all(0 < score < 100 for score in scores[0])


def test_trials_of_one_batch_are_as_trained_alone(tmp_path):
    pytest.importorskip("torch")
    space = {
        "learning_rate": {"low": 1e-4, "high": 1e-3}, "feedback_learning_rate": {"low": 1e-4, "high": 1e-3},
        "target_step": {"low": 0.1, "high": 1.0}, "noise": {"low": 0.1, "high": 0.5},
        "schedule": {"choices": ["minibatch", "alternating-epochs"]},
    }  # fmt: skip
    found = {}
    for ensemble in (1, 4):
        wanted, _ = searched(tmp_path, "dtp", trials=4, seeds=2, search={"dtp": space})
        place = Place(str(tmp_path / str(ensemble)))
        found[ensemble] = run_search(wanted, place, jobs=1, device="cpu", ensemble=ensemble)["dtp"]
    assert [x.settings for x in found[1]] == [x.settings for x in found[4]]
    assert {x.settings["schedule"] for x in found[4]} == {"minibatch", "alternating-epochs"}
    alone, together = ([x.score for x in found[n]] for n in (1, 4))
    assert together == pytest.approx(alone, abs=1.0) and np.ptp(alone) > 2.0  # rounding may turn one or two of 300


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_has_a_space(rule):
    wanted = Comparison.load("digits", compare=[rule], epochs=1)
    experiments = []
    space = default_space(wanted, rule)
    for end in (0, -1):
        chosen = {name: values.extremes()[end] for name, values in space.items()}
        changed, spec = with_settings(wanted, rule, chosen)
        experiments.append(changed.experiment(spec, 0))
        experiments[-1].built()
    assert space and experiments[0] != experiments[1]


NO_ENDS = "there must be low and high, or choices of which there is at least one"
WRONG = {
    "noise = { low = 1.0, high = 0.1 }": "low must be below high, not 1 to 0.1",
    "noise = { low = 0.0, high = 0.1, log = true }": "low must be above 0 where log = true, not 0",
    "noise = { low = 0.1 }": NO_ENDS,
    "noise = { choices = [] }": NO_ENDS,
    "noise = { choices = [0.1], low = 0.1 }": "choices are given, so there can be no low, high, log, int or format",
    "noise = { low = 0.5, high = 2, int = true }": "low and high must be whole where int = true, not 0.5 and 2",
    "noise = { low = 'x', high = 2 }": "low must be a number, not 'x'",
    "noise = { low = 0.1, hihg = 2 }": "no key 'hihg'; there are: low, high, log, int, choices, format",
    "noise = { low = 0.1, high = 2, format = 'x' }": "format must have {} once, 'ternary*{}' for example, not 'x'",
    "noise = { low = -1.0, high = 2 }": "-1.0 cannot be tried: rules.dtp: dtp: noise must be a finite number, zero or "
    "more, not -1.0",
    "schedule = { choices = ['minibatch', 'never'] }": "'never' cannot be tried: rules.dtp: no schedule 'never'; there "
    "are: minibatch, alternating-epochs",
}


@pytest.mark.parametrize("given", WRONG)
def test_a_wrong_range_is_refused(tmp_path, given):
    name = given.partition(" ")[0]
    with pytest.raises(ExperimentError, match=f"^{re.escape(f'search.dtp.{name}: {WRONG[given]}')}$"):
        searched(tmp_path, "dtp", search={"dtp": tomllib.loads(given)})


def test_a_space_without_settings_of_the_rule_is_refused(tmp_path):
    known = ", ".join(key for key in rule_keys("dtp") if key not in ("epochs", "task"))
    for table, message in (
        ({"nois": {"low": 0.1, "high": 1.0}}, f"search.dtp: no setting 'nois' of dtp to search; there are: {known}"),
        ({"epochs": {"low": 1, "high": 3}}, f"search.dtp: no setting 'epochs' of dtp to search; there are: {known}"),
        ({}, "search.dtp: nothing to search; give ranges of settings in a table [search.dtp]"),
    ):
        with pytest.raises(ExperimentError, match=f"^{re.escape(message)}$"):
            searched(tmp_path, "dtp", search={"dtp": table})


def test_what_cannot_be_searched_is_refused(tmp_path):
    for rules, more, message in (
        (["dtp"], {"search": {"backprop": {}}}, "search.backprop: backprop is not searched; the rules are: dtp"),
        (["dtp"], {"trials": 0}, "trials must be 1 or more, not 0"),
        (["dtp"], {"sampler": "grid"}, "no sampler 'grid'; there are: random, tpe"),
        (["dtp"], {"pruner": "mean"}, "no pruner 'mean'; there are: median, none"),
        (["dtp"], {"epochs": 0}, "epochs must be 1 or more, not 0"),
        (["dtp", "dtp"], {}, "rule 'dtp' is named 2 times; each rule is compared once"),
        (["dtp"], {"optimizer": {"learning_rate": 0.1}, "search": {"dtp": {"learning_rate": {"low": 0, "high": 1}}}},
         "search.dtp.learning_rate: optimizer.learning_rate = 0.1 is set for all rules; leave one of them out"),
        (["dtp", "backprop"], {"rules": {"backprop": {"epochs": 5}}},
         "rules.backprop.epochs = 5, and those of other rules are 2: a search has the same budget for every rule; "
         "give --epochs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            searched(tmp_path, *rules, **more)


def test_the_command_prints_and_draws(tmp_path, monkeypatch):
    quick(monkeypatch, distance)
    file = tmp_path / "mine.toml"
    file.write_text(
        'data = "digits"\nepochs = 1\n[search.dtp]\nlinks.h1-h2.feedback = { choices = ["binary", "ternary"] }\n'
    )
    options = (file, "--rules", "dtp,straight-through", "--trials", "6", "--jobs", "1", "--out", tmp_path / "out")
    rows = json.loads(said(*options, "--json"))
    assert [row["rule"] for row in rows] == ["dtp", "straight-through"] and rows[0]["trials"] == 6
    assert "6 trials of each rule, each 1 run(s) of 1 epoch(s)" in said(*options)
    page = (tmp_path / "out" / "search.html").read_text()
    assert "6 trials, each of 1 run of 1 epoch." in page and "The test samples were not used." in page
    assert page.count("<svg") == 4 and "links.h1-h2.feedback one of binary, ternary" in page
    best = Comparison.load(None, tmp_path / "out" / "best.toml").experiment("dtp", 0)
    assert best.links["h1-h2"]["feedback"] == rows[0]["settings"]["links.h1-h2.feedback"]
    said(*options)
    assert (tmp_path / "out" / "search.html").read_text() == page


def test_a_broken_storage_is_named(tmp_path):
    wanted, place = searched(tmp_path, "dtp")
    (tmp_path / "journal.log").write_text("{}\n{\n{}\n")
    with pytest.raises(StorageError, match=f"^{re.escape(place.storage)}: not a journal of trials \\(KeyError\\)$"):
        run_search(wanted, place, jobs=1)
    url = "postgresql://me:secret@localhost:1/none"
    assert Place(url).shown == "postgresql://me:***@localhost:1/none"
    with pytest.raises(StorageError, match=r"^postgresql: not a storage that can be used \(.*\)$") as error:
        run_search(wanted, Place(url), jobs=1)
    assert "secret" not in str(error.value)


# --- several commands on one storage, and one of them is killed -------------------------------------------------------

PATIENT = """
import os
import time
from dataclasses import dataclass
from pathlib import Path

from lowbit_dtp.rules import StraightThrough

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Patient(StraightThrough):
    name = "patient"

    def step(self, *given):
        (HERE / f"begun-{os.getpid()}").touch()
        while not (HERE / "go").exists():
            time.sleep(0.01)
        return super().step(*given)
"""
"""A rule that waits for a file before each step, so that a process can be killed while it trains."""
SHARE = """
import sys
from lowbit_dtp.experiment import Comparison
from lowbit_dtp.plugins import load
from lowbit_dtp.search import Place, Search, run_search

if __name__ == "__main__":
    load(["patient.py"])
    wanted = Search(Comparison.load("data.npz", compare=["patient"], epochs=1, sizes=[6, 4, 2]), 3)
    run_search(wanted, Place(sys.argv[1]), jobs=int(sys.argv[2]), on_trial=lambda outcome: print(outcome.number))
"""
"""What the command does, but for its results, whose figures take longer to draw than the trials to train."""


@pytest.fixture
def patient(tmp_path):
    """A folder with the rule, and data that needs no package to be read."""
    (tmp_path / "patient.py").write_text(PATIENT)
    random = np.random.default_rng(0)
    parts = {"train": 40, "valid": 20, "test": 20}
    arrays = {f"{part}_inputs": random.random((n, 6), np.float32) for part, n in parts.items()}
    labels = {f"{part}_labels": random.integers(0, 2, n) for part, n in parts.items()}
    np.savez(tmp_path / "data.npz", **arrays, **labels)
    return tmp_path


def begun(folder, *arguments):
    """A Python that has been started in `folder`."""
    environment = os.environ | {"LOWBIT_DTP_KERNELS": "plain"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, text=True, **pipes)


def waits_for(condition, *processes):
    """What `condition` finds, while `processes` run."""
    while not (found := condition()):
        assert all(process.poll() is None for process in processes), [x.communicate()[1] for x in processes]
        time.sleep(0.02)
    return found


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL server that is started for the tests, by a user who is not root."""
    folders = [os.environ["PATH"], *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]
    initdb, server = (shutil.which(name, path=os.pathsep.join(folders)) for name in ("initdb", "postgres"))
    if not initdb or not server:
        pytest.skip("needs the programs initdb and postgres")
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # not in pytest's, which other users cannot enter
    if user:
        try:
            shutil.chown(folder, "postgres")
        except LookupError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    subprocess.run(
        [*user, initdb, "-D", folder / "data", "-A", "trust", "-U", "tester", "--no-sync"], check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    running = subprocess.Popen(
        [*user, server, "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
        stderr=subprocess.DEVNULL,
    )
    waits_for((folder / ".s.PGSQL.5432").exists, running)
    yield f"postgresql://tester@/postgres?host={folder}"
    running.terminate()
    running.wait()
    shutil.rmtree(folder)


@pytest.fixture(params=["journal", "postgres"])
def storage(request):
    return "shared.log" if request.param == "journal" else request.getfixturevalue("postgres")


def test_processes_share_the_trials_and_one_may_be_killed(patient, storage):
    first, second = (begun(patient, "-c", SHARE, storage, "1") for _ in range(2))
    waits_for(lambda: len(list(patient.glob("begun-*"))) == 2, first, second)
    first.kill()
    first.communicate()
    (patient / "go").touch()
    told, error = second.communicate()
    assert second.returncode == 0, error
    with chdir(patient):
        trials = optuna.load_study(study_name="patient", storage=Place(storage).opened()).trials
    assert sorted(trial.state.name for trial in trials) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert sorted(map(int, told.split())) == [trial.number for trial in done]
    [lost] = [trial for trial in trials if trial not in done]
    again = [trial for trial in done if trial.params == lost.params]
    assert len(again) == 1 and again[0].user_attrs["tries"] == 2


def test_a_worker_may_be_killed(patient):
    search = begun(patient, "-c", SHARE, "sqlite:///shared.db", "2")
    workers = waits_for(lambda: len(found := list(patient.glob("begun-*"))) == 2 and found, search)
    os.kill(int(workers[0].name.partition("-")[2]), signal.SIGKILL)
    (patient / "go").touch()
    told, error = search.communicate()
    assert search.returncode == 0, error
    assert len(told.split()) == 3
    with chdir(patient):
        trials = optuna.load_study(study_name="patient", storage=Place("sqlite:///shared.db").opened()).trials
    assert sorted(trial.state.name for trial in trials) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]
