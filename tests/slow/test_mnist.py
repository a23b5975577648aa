"""The discrete network of the thesis on MNIST, as `lowbit-dtp compare --data mnist --epochs 5 --seeds 1` trains it."""

import json
import resource
import subprocess
import sys

import pytest

from lowbit_dtp.data import find

MISSING = [file.name for file, path in find("mnist") if path is None]
MOST_PERCENT = {"dtp": 7.0, "straight-through": 4.0, "fixed-lower": 5.0, "integer-dtp": 8.0}
"""Test error after 5 epochs of seed 0 that a correct implementation stays under (measured: 5.8, 2.9, 3.6, 4.9)."""


@pytest.mark.skipif(bool(MISSING), reason=f"needs MNIST; not found: {', '.join(MISSING)}")
def test_errors_and_memory_after_five_epochs(tmp_path):
    arguments = ["compare", "--data", "mnist", "--rules", ",".join(MOST_PERCENT), "--epochs", "5", "--seeds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "lowbit_dtp", *arguments, "--out", str(tmp_path / "run"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {row["rule"]: row for row in json.loads(done.stdout)["rows"]}
    errors = {rule: rows[rule]["test_error_percent"]["mean"] for rule in MOST_PERCENT}
    assert all(errors[rule] <= most for rule, most in MOST_PERCENT.items()), errors
    link = rows["dtp"]["links"]["h1-h2"]
    assert (link["forward"]["bits_per_sample"], link["feedback"]["bits_per_sample"]) == (1000, 1500)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 1.5e9


@pytest.mark.skipif(bool(MISSING), reason=f"needs MNIST; not found: {', '.join(MISSING)}")
def test_weights_rounded_to_four_bits_after_training_lose_little(tmp_path):
    run = tmp_path / "run"
    trained = ["train", "--data", "mnist", "--rule", "straight-through", "--epochs", "3", "--out", str(run)]
    subprocess.run([sys.executable, "-m", "lowbit_dtp", *trained], check=True, capture_output=True)
    lost = {}
    for bits in ("4", "2"):
        exported = ["export", str(run), "--weights", bits, "--target", "mem", "--no-verify", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "lowbit_dtp", *exported], check=True, capture_output=True, text=True
        )
        row = json.loads(done.stdout)
        lost[bits] = row["test_error_percent_integer"] - row["test_error_percent_float"]
    assert lost["4"] <= 0.5 and lost["2"] <= 2.0, lost
