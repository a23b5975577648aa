"""The short benchmark: its output, not its timings."""

import json

import pytest
from typer.testing import CliRunner

from lowbit_dtp import benchmark
from lowbit_dtp.cli import app


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SHAPES", ((4, 70, 65),))
    monkeypatch.setattr(benchmark, "_ROUNDS", 1)
    monkeypatch.setattr(benchmark, "_TURN", 1e-4)
    monkeypatch.setattr(benchmark, "_SETTLE", 0)


def test_bench_times_products_beside_numpy_and_steps() -> None:
    result = CliRunner().invoke(app, ["bench", "--threads", "1", "--json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["threads"] == 1
    assert set(told["target"]) == {"registers", "bit counts", "byte products"}
    names = [row["what"] for row in told["timings"]]
    assert names == [
        *(f"binary x {other}, 4 x 70 x 65" for other in ("binary", "ternary", "int8", "float32")),
        *(f"a minibatch of {rule}, 784-500-500-10" for rule in ("dtp", "straight-through")),
    ]
    assert all(row["microseconds"] > 0 for row in told["timings"])
    assert [row["numpy_ratio"] is None for row in told["timings"]] == [False] * 4 + [True] * 2


def test_bench_for_a_reader() -> None:
    result = CliRunner().invoke(app, ["bench", "--threads", "1"])
    first, *rest = result.stdout.splitlines()
    assert first.startswith("1 thread; registers: ")
    assert len(rest) == 6 and rest[0].startswith("binary x binary, 4 x 70 x 65") and "NumPy's float32" in rest[0]
