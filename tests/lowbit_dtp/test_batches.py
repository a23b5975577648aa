"""Runs of a comparison, several at once: the same bits however they were trained."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from lowbit_dtp import Comparison, compare
from lowbit_dtp.jobs import JobsError
from lowbit_dtp.observer import Observer

RULES = ("dtp", "straight-through")
EPOCHS = 8


def small(epochs: int = EPOCHS) -> Comparison:
    return Comparison.load("digits", sizes=[64, 16, 16, 10], epochs=epochs, seeds=1, compare=list(RULES),
                           links={"h1-h2": {"forward": "binary", "feedback": "binary"}})  # fmt: skip


def results(folder: Path) -> dict[str, Any]:
    """Everything in the runs of `folder` but times, commands and machines."""
    found: dict[str, Any] = {}
    for rule in RULES:
        run = folder / rule / "seed-0"
        for name in ("network.safetensors", "ledger.json", "experiment.toml"):
            found[f"{rule} {name}"] = (run / name).read_bytes()
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found[f"{rule} metrics"] = [{key: x for key, x in line.items() if key != "seconds"} for line in lines]
    return found


class Followed(Observer):
    """Notes what happens, and kills the process that `chosen` finds when a run of dtp has done 2 epochs."""

    def __init__(self, chosen: Any = None) -> None:
        self.chosen, self.begun, self.epochs = chosen, [], {rule: [] for rule in RULES}

    def begin(self, rule, experiments, folders, samples):
        self.begun.append(rule)
        watching = Followed(self.chosen)
        watching.epochs, watching.rule, watching.parent = self.epochs, rule, self
        return watching

    def evaluated(self, index, evaluation):
        self.epochs[self.rule].append(evaluation.epoch)
        if self.parent.chosen and self.rule == "dtp" and evaluation.epoch == 2:
            os.kill(self.parent.chosen(), signal.SIGKILL)
            self.parent.chosen = None


def in_this_process(folder: Path) -> dict[str, Any]:
    """`results` of a comparison in this process."""
    followed = Followed()
    compare(small(), folder, technologies=["7nm"], export=False, observer=followed)
    assert followed.begun == list(RULES)
    assert followed.epochs == {rule: list(range(1, EPOCHS + 1)) for rule in RULES}
    return results(folder)


@pytest.fixture(scope="module")
def one_after_the_other(tmp_path_factory):
    """What a comparison gives in this process."""
    return in_this_process(tmp_path_factory.mktemp("one"))


def test_a_run_whose_process_is_killed_is_named_and_goes_on_with_the_same_command(one_after_the_other, tmp_path):
    def trainer() -> int:
        return int((tmp_path / "dtp" / "seed-0" / ".lock").read_text())

    followed = Followed(trainer)
    with pytest.raises(JobsError, match=r"^dtp seed 0: its process was killed by SIGKILL$"):
        compare(small(), tmp_path, technologies=["7nm"], export=False, jobs=2, observer=followed)
    assert sorted(followed.begun) == sorted(RULES)
    assert followed.epochs["straight-through"] == list(range(1, EPOCHS + 1))
    assert not (tmp_path / "summary.json").exists()
    followed = Followed()
    compare(small(), tmp_path, technologies=["7nm"], export=False, jobs=2, observer=followed)
    assert followed.begun == ["dtp"]
    assert followed.epochs["dtp"][0] > 1
    assert results(tmp_path) == one_after_the_other


def test_a_scheduler_that_is_not_there_is_named(tmp_path):
    dask = pytest.importorskip("dask", reason="Dask is not installed")
    pytest.importorskip("distributed", reason="Dask is not installed")
    message = "no Dask scheduler at tcp://127.0.0.1:9: "
    with dask.config.set({"distributed.comm.timeouts.connect": "100ms"}), pytest.raises(OSError) as raised:
        compare(small(1), tmp_path, technologies=["7nm"], export=False, dask="tcp://127.0.0.1:9")
    assert re.match(re.escape(message) + ".*; give its address, tcp://host:8786 say$", str(raised.value))
