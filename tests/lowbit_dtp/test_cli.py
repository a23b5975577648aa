"""The command, as a person meets it: what it writes and prints, says of mistakes, and does when it is stopped."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

from lowbit_dtp import __version__
from lowbit_dtp.cli import main

COMPARE = ("compare", "--data", "digits", "--rules", "dtp,straight-through", "--seeds", "1", "--epochs", "2", "--json")
LONG = (
    "train",
    "--data",
    "digits",
    "--sizes",
    "64-16-16-10",
    "--batch",
    "100",
    "--epochs",
    "30",
    "--link",
    "h1-h2=binary",
)
"""A run that is stopped in the middle."""

HELD = """
import runpy, sys, time
from pathlib import Path

last, sys.argv[1:] = int(sys.argv[1]), sys.argv[2:]


def hold(event, arguments):
    if event == "open" and str(arguments[0]).endswith("metrics.jsonl") and arguments[1] == "a":
        while Path(arguments[0]).read_text().count("\\n") >= last:
            time.sleep(1)


sys.addaudithook(hold)
runpy.run_module("lowbit_dtp", run_name="__main__", alter_sys=True)
"""
"""The command, but after as many epochs as the first argument says, a run waits: it does not end, it is stopped."""


class Said(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


def start(*arguments: object, held: int | None = None) -> subprocess.Popen:
    """The command, in a process of its own; a run is `held` after so many epochs."""
    line = [sys.executable, *(("-m", "lowbit_dtp") if held is None else ("-c", HELD, str(held))), *map(str, arguments)]
    environment = os.environ | {"NUMBA_NUM_THREADS": "2"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> Said:
    out, err = process.communicate(timeout=600)
    return Said(process.returncode, out, err)


def call(*arguments: object) -> Said:
    """The command, in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", ["lowbit-dtp", *map(str, arguments)]), redirect_stdout(out):
        try:
            with redirect_stderr(err):
                main()
        except SystemExit as end:
            status = int(end.code or 0)
    return Said(status, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file under `folder`."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A comparison's folder, and what the command said."""
    folder = tmp_path_factory.mktemp("comparison") / "digits"
    return folder, finish(start(*COMPARE, "--out", folder))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder of the run `LONG` that nothing happened to."""
    folder = tmp_path_factory.mktemp("long") / "run"
    assert call(*LONG, "--out", folder).status == 0
    return folder


def test_compare_prints_only_json_and_writes_what_it_prints(comparison):
    folder, said = comparison
    assert said.status == 0, said.err
    summary = json.loads(said.out)
    assert json.loads((folder / "summary.json").read_text()) == {"format_version": 2, **summary}
    assert (folder / "report.html").read_text().lower().startswith("<!doctype html>")
    compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    assert summary["exported"]["verify"] == ("passed" if compiler else "not run: no C compiler")
    line = " ".join(("lowbit-dtp", *COMPARE, "--out", str(folder)))
    assert summary["command"] == line
    assert summary["versions"]["lowbit-dtp"] == __version__
    assert {"python", "numpy", "numba", "scikit-learn"} <= set(summary["versions"])


@pytest.mark.parametrize(("index", "rule", "up", "down"), [(0, "dtp", 200, 300), (1, "straight-through", 100, 3200)])
def test_summary_keeps_its_contract(index, rule, up, down, comparison):
    row = json.loads(comparison[1].out)["rows"][index]
    assert (row["rule"], row["seeds"]) == (rule, 1)
    for part in ("test_error_percent", "valid_error_percent"):
        assert row[part].keys() == {"mean", "std"}
        assert 0 < row[part]["mean"] < 60
        assert row[part]["std"] == 0
    assert list(row["links"]) == ["input-h1", "h1-h2", "h2-output"]
    link = row["links"]["h1-h2"]
    assert (link["up_bits_per_sample"], link["down_bits_per_sample"]) == (up, down)
    assert (link["up_bits_per_inference"], link["down_bits_per_inference"]) == (100, 0)
    assert row["joules_per_sample"].keys() == {"45nm", "7nm"}
    for joules in row["joules_per_sample"].values():
        assert 0 < joules["low"] <= joules["typical"] <= joules["high"]
    assert row["seconds_per_epoch"] > 0


def test_same_compare_again_leaves_finished_runs(comparison):
    folder, _ = comparison
    runs = [folder / rule for rule in ("dtp", "straight-through")]
    before = [contents(run) for run in runs]
    assert all(before)
    assert call(*COMPARE, "--out", folder).status == 0
    assert [contents(run) for run in runs] == before


def wait_for_lines(process: subprocess.Popen, metrics: Path, lines: int) -> None:
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= lines):
        time.sleep(0.002)


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("network.safetensors", "ledger.json", "experiment.toml"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    histories = [[json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for line in [*histories[0], *histories[1]]:
        del line["seconds"]
    assert histories[0] == histories[1]


def test_run_killed_again_and_again_ends_as_uninterrupted(uninterrupted, tmp_path):
    moments = [random.SystemRandom().uniform(0, 0.1) for _ in range(2)]
    for lines, held, context in zip((1, 5), (10, 20), moments, strict=True):
        process = start(*LONG, "--out", tmp_path / "run", held=held)
        wait_for_lines(process, tmp_path / "run" / "metrics.jsonl", lines)
        time.sleep(context)
        process.kill()
        assert finish(process).status == -signal.SIGKILL
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert call(*LONG, "--out", tmp_path / "run").status == 0, moments
    assert_same_run(tmp_path / "run", uninterrupted)


def test_run_interrupted_says_how_to_go_on_and_does(uninterrupted, tmp_path):
    process = start(*LONG, "--out", tmp_path / "run", held=20)
    wait_for_lines(process, tmp_path / "run" / "metrics.jsonl", 2)
    process.send_signal(signal.SIGINT)
    said = finish(process)
    assert said.status == 130
    assert said.err.splitlines()[-1] == "stopped; the same command goes on from the last checkpoint"
    assert "Traceback" not in said.err
    assert call(*LONG, "--out", tmp_path / "run").status == 0
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_folder_into_which_another_process_trains_is_refused(tmp_path):
    line = ("compare", "--data", "digits", "--rules", "backprop", "--seeds", 1, "--epochs", 3, "--out", tmp_path)
    folder = tmp_path / "backprop" / "seed-0"
    process = start(*line, held=1)
    try:
        wait_for_lines(process, folder / "metrics.jsonl", 1)
        for second in (line, ("train", "--data", "digits", "--rule", "backprop", "--epochs", 3, "--out", folder)):
            said = call(*second)
            assert (said.status, said.out, said.err.splitlines()[-1]) == (
                2,
                "",
                f"lowbit-dtp: {folder}: process {process.pid} is writing to this folder; "
                "wait for it to end, or choose another folder",
            )
    finally:
        process.kill()
        process.wait()
    assert call(*line).status == 0


def test_threads_change_no_number(tmp_path):
    line = ("train", "--data", "digits", "--epochs", "2", "--sizes", "64-300-300-10", "--link", "h1-h2=binary")
    line += ("--batch", "300")
    processes = [start(*line, "--threads", n, "--out", tmp_path / str(n)) for n in (1, 2)]
    assert [finish(process).status for process in processes] == [0, 0]
    assert_same_run(tmp_path / "1", tmp_path / "2")


def test_config_goes_before_the_data_set_and_options_before_it(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text(
        'data = "digits"\nsizes = [64, 8, 8, 10]\nepochs = 3\nlinks.h1-h2.feedback = "ternary"\n'
        'links.h1-h2.forward = "binary"\n'
        "rules.dtp.noise = 0.125\n"
    )
    said = call("train", "--config", config, "--epochs", 1, "--out", tmp_path / "run", "--json")
    assert said.status == 0, said.err
    link = json.loads(said.out)["links"]["h1-h2"]
    assert (link["forward_format"], link["feedback_format"]) == ("binary", "ternary")
    assert (link["up_bits_per_sample"], link["down_bits_per_sample"]) == (2 * 8, 3 * 8 * 2)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert "noise = 0.125\n" in (tmp_path / "run" / "experiment.toml").read_text()


COMMANDS = {
    "evaluate": ("evaluate", "{run}"),
    "evaluate valid": ("evaluate", "{run}", "--rule", "dtp", "--seed", "0", "--part", "valid"),
    "evaluate a run": ("evaluate", "{run}/dtp/seed-0"),
    "price": ("price", "{run}"),
    "price elsewhere": ("price", "{run}", "--placement", "h1-h2=on-die:5mm", "--weights", "fixed(8,1)"),
    "export mem": ("export", "{run}", "--target", "mem", "--out", "{out}"),
    "export c": ("export", "{run}", "--rule", "straight-through", "--weights", "fixed<8,1>", "--out", "{out}"),
    "report": ("report", "{run}"),
    "data": ("data",),
}


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
def test_commands_print_for_people_and_for_programs(line, as_json, comparison, tmp_path):
    line = [part.format(run=comparison[0], out=tmp_path / "out") for part in line]
    said = call(*line, *["--json"] * as_json)
    assert said.status == 0, said.err
    assert said.out.strip()
    if as_json:
        assert json.loads(said.out)
        assert said.err == ""


def test_evaluate_repeats_the_error_that_training_found(comparison):
    folder, compared = comparison
    for part in ("test", "valid"):
        rows = json.loads(call("evaluate", folder, "--part", part, "--json").out)
        found = [row["error_percent"] for row in rows]
        assert found == [row[f"{part}_error_percent"]["mean"] for row in json.loads(compared.out)["rows"]]
        assert [row["bits_per_inference"]["h1-h2"] for row in rows] == [100, 100]


def test_price_repeats_the_joules_of_the_comparison(comparison):
    bills = json.loads(call("price", comparison[0], "--json").out)
    totals = {(bill["rule"], bill["technology"]): bill["total"] for bill in bills if bill["use"] == "training"}
    rows = json.loads(comparison[1].out)["rows"]
    assert totals == {(row["rule"], name): x for row in rows for name, x in row["joules_per_sample"].items()}


def test_module_and_command_are_the_same():
    assert finish(start("--version")) == call("--version") == Said(0, f"lowbit-dtp {__version__}\n", "")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['lowbit-dtp', '--help']\n"
        "from lowbit_dtp.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lowbit-dtp compare --data digits" in done.stdout
    loaded = set(done.stderr.split())
    assert "lowbit_dtp.cli" in loaded
    assert not loaded & {"torch", "numba", "matplotlib", "sklearn", "brevitas"}


RULES = "backprop, backprop-then-sign, dtp, fixed-lower, integer-dtp, straight-through, target-prop"
KEYS = "activation, batch, compare, data, epochs, links, optimizer, placement, rules, seeds, sizes"
FORMATS = "binary, binary01, ternary, float32, float64, fixed(W,I), ufixed(W,I), fixed(W,I,floor|stochastic,wrap), " + (
    "table(-1,0,0.5)"
)
TECHNOLOGIES = "45nm, 7nm, board, chip-to-chip, interposer, on-die, serdes"
MISTAKES = {
    "rule": ("train --rule dpt", f"no rule 'dpt'; there are: {RULES}"),
    "rules": ("compare --rules dtp,dpt", f"no rule 'dpt'; there are: {RULES}"),
    "gradient": (
        "compare --rules dtp@binary",
        "rule 'dtp@binary': dtp sends no gradients over links, so it takes no format",
    ),
    "format": ("train --link h1-h2=bin", f"no format 'bin'; there are: {FORMATS}"),
    "link syntax": ("train --link h1-h2", "--link 'h1-h2': write LINK=FORMAT or LINK=UP/DOWN, h1-h2=binary say"),
    "link": (
        "train --link h1-h9=binary",
        "links: no link 'h1-h9' in a network 64-100-100-10; there are: input-h1, h1-h2, h2-output",
    ),
    "sizes": (
        "train --sizes 64x10",
        "--sizes '64x10': write the neurons of each layer with dashes between, 784-500-10 say",
    ),
    "config": ("train --config {config}", f"{{config}}: no key 'epoch'; there are: {KEYS}"),
    "placement in config": (
        "compare --config {placed}",
        "{placed}: no link 'h1-h9'; there are: h1-h2, h2-output, input-h1",
    ),
    "no config": ("train --config {nowhere}", "{nowhere}: no such file"),
    "data set": ("train --data cifar", "no data set 'cifar'; there are: cifar10, digits, fashion-mnist, mnist"),
    "copies": ("data convert {nowhere}", "{nowhere}: no such folder or archive"),
    "epochs": ("train --epochs -1", "epochs must be a whole number, 0 or more, not -1"),
    "fixed-lower": (
        "train --rule fixed-lower --link h1-h2=float32",
        "fixed-lower needs a few-bit link between two layers, for what lies under it to stay fixed; "
        "the links carry input-h1 ufixed(5,1), h1-h2 float32, h2-output float32",
    ),
    "seeds": ("compare --seeds 0", "compare needs at least one rule and one seed"),
    "placement": ("compare --placement h1-h9=board", "no link 'h1-h9'; there are: h1-h2, h2-output, input-h1"),
    "price placement": (
        "price {run} --placement h1-h9=board",
        "no link 'h1-h9'; there are: h1-h2, h2-output, input-h1",
    ),
    "technology": ("price {run} --technology 3nm", f"no technology '3nm'; there are: {TECHNOLOGIES}"),
    "compare technology": ("compare --technology 3nm", f"no technology '3nm'; there are: {TECHNOLOGIES}"),
    "part": ("evaluate {run} --part x", "no part 'x'; there are: test, train, valid"),
    "target": ("export {run} --target q --out {out}", "no target 'q'; there are: c, mem"),
    "run's rule": (
        "evaluate {run} --rule backprop",
        "{run}: no run with rule backprop and seed None; there are: dtp seed 0, straight-through seed 0",
    ),
    "report": ("report {nowhere}", "{nowhere}/summary.json: no such file"),
    **{
        f"{command} nowhere": (
            f"{command} {{nowhere}}",
            "{nowhere}: no finished run here; a run folder has network.safetensors, a comparison summary.json",
        )
        for command in ("evaluate", "price", "export")
    },
}


@pytest.mark.parametrize(("line", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_in_one_line(line, message, comparison, tmp_path):
    names = {
        "run": comparison[0],
        "nowhere": tmp_path / "nowhere",
        "config": tmp_path / "x.toml",
        "placed": tmp_path / "placed.toml",
        "out": tmp_path / "o",
    }
    names["config"].write_text("epoch = 3\n")
    names["placed"].write_text('placement = "h1-h9=board"\n')
    arguments = line.format(**names).split()
    if arguments[0] in ("train", "compare"):
        arguments += ["--out", str(tmp_path / "run")]
    assert call(*arguments) == Said(2, "", f"lowbit-dtp: {message.format(**names)}\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--seed", 1), "holds a run with seed = 0, not 1; choose another folder, or remove this one"),
        (("--epochs", 1), "has done 2 epochs, more than 1; give as many or more, or choose another folder"),
    ],
)
def test_folder_of_another_run_is_refused(option, message, comparison):
    folder = comparison[0] / "dtp" / "seed-0"
    said = call("train", "--data", "digits", "--epochs", 2, *option, "--out", folder)
    assert said.status == 2
    assert said.err.splitlines()[-1] == f"lowbit-dtp: {folder}: {message}"


def test_newer_run_is_refused_by_name(comparison, tmp_path):
    folder = shutil.copytree(comparison[0], tmp_path / "newer")
    path = folder / "dtp" / "seed-0" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 3}))
    message = f"lowbit-dtp: {path}: format version 3 is newer than 2, the newest this program reads; upgrade lowbit-dtp"
    for line in (("evaluate",), ("price",), ("export", "--out", tmp_path / "out")):
        for where in (folder, path.parent):
            assert call(line[0], where, *line[1:]) == Said(2, "", f"{message}\n")
    said = call(*COMPARE, "--out", folder)
    assert (said.status, said.out, said.err.splitlines()[-1]) == (2, "", message)


def test_compare_trains_all_seeds_of_a_rule_at_a_time_on_a_device(tmp_path):
    """Errors agree where no bit depends on what is learned; one that rounding turns moves those of DTP by percents."""
    rules = {"dtp": 5.0, "backprop": 0.5, "fixed-lower": 0.5}
    line = ("compare", "--data", "digits", "--rules", ",".join(rules), "--seeds", "3", "--epochs", "1", "--json")
    summaries = []
    for name, options in {
        "all": ("--device", "cpu"),
        "two": ("--device", "cpu", "--ensemble", 2),
        "kernels": (),
    }.items():
        said = call(*line, *options, "--out", tmp_path / name)
        assert said.status == 0, said.err
        summaries.append(json.loads(said.out)["rows"])
    devices = [[row["device"] for row in rows] for rows in summaries]
    assert devices == [["cpu (torch), 3 at a time"] * 3, ["cpu (torch), 2 at a time, cpu (torch)"] * 3, ["cpu"] * 3]
    for *rows, within in zip(*summaries, rules.values(), strict=True):
        errors = [row["test_error_percent"]["mean"] for row in rows]
        assert errors[:2] == pytest.approx([errors[2]] * 2, abs=within)
        assert rows[0]["links"]["h1-h2"]["up_bits_per_sample"] == rows[2]["links"]["h1-h2"]["up_bits_per_sample"]
    assert "cpu (torch), 3 at a time" in (tmp_path / "all" / "report.html").read_text()
    seen = [call("evaluate", tmp_path / "all", "--device", x, "--json") for x in ("numpy", "cpu")]
    rows = [json.loads(said.out) for said in seen]
    assert [row["bits_per_inference"] for row in rows[0]] == [row["bits_per_inference"] for row in rows[1]]
    assert [row["error_percent"] for row in rows[0]] == pytest.approx(
        [row["error_percent"] for row in rows[1]], abs=0.5
    )


@pytest.mark.parametrize("command", ["train", "compare", "evaluate"])
def test_a_device_that_cannot_be_used_is_told_before_anything_starts(command, tmp_path):
    arguments = (tmp_path,) if command == "evaluate" else ("--out", tmp_path / "run")
    said = call(command, *arguments, "--device", "cuda:99")
    assert said.status == 2
    assert said.err.startswith("lowbit-dtp: device cuda:99 cannot be used: ")
    assert said.err.endswith(". Leave --device out to train on the CPU\n")
    assert list(tmp_path.iterdir()) == []
    said = call(command, *arguments, "--tf32")
    assert (said.status, said.err) == (
        2, "lowbit-dtp: --tf32 is for products on a GPU: give --device cuda, not numpy\n"
    )  # fmt: skip


def test_a_run_on_data_of_ones_own_stays_under_runs(tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", inputs=np.eye(8), labels=np.arange(8) % 2, split=[4, 2, 2])
    monkeypatch.chdir(tmp_path)
    assert call("train", "--data", "mine.npz", "--rule", "backprop", "--epochs", 1).status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.npz", "runs"]
    monkeypatch.chdir(tmp_path / "runs")
    found = json.loads(call("evaluate", tmp_path / "runs" / "mine-train", "--json").out)
    assert [row["samples"] for row in found] == [2]
