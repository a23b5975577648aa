"""The command line: files, output, error messages, and stopped runs."""

import csv
import html
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

from export import TARGETS
from hw_models import Machine, Technology
from lowbit_dtp import Comparison, Summary, __version__, compare
from lowbit_dtp.cli import main
from lowbit_dtp.commands.options import takes_gradient
from lowbit_dtp.commands.printing import print_bills, print_summary
from lowbit_dtp.experiment import OF_ONE_RULE, OPTIMIZER_KEYS, Experiment
from lowbit_dtp.formats import SPELLINGS
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.optimizers import OPTIMIZERS
from lowbit_dtp.report import all_links, discrete_links, traffic
from lowbit_dtp.rules import RULES, Step, StraightThrough
from lowbit_dtp.runs import folder_name
from lowbit_dtp.storage import FORMAT_VERSION

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
    assert json.loads((folder / "summary.json").read_text()) == {"format_version": FORMAT_VERSION, **summary}
    assert (folder / "report.html").read_text().lower().startswith("<!doctype html>")
    compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    assert summary["exported"]["verify"] == ("passed" if compiler else "not run: no C compiler")
    line = " ".join(("lowbit-dtp", *COMPARE, "--out", str(folder)))
    assert summary["command"] == line
    assert summary["versions"]["lowbit-dtp"] == __version__
    assert {"python", "numpy", "numba", "scikit-learn"} <= set(summary["versions"])


@pytest.mark.parametrize(
    ("index", "rule", "forward", "feedback"), [(0, "dtp", 200, 300), (1, "straight-through", 100, 3200)]
)
def test_summary_keeps_its_contract(index, rule, forward, feedback, comparison):
    row = json.loads(comparison[1].out)["rows"][index]
    assert (row["rule"], row["seeds"]) == (rule, 1)
    for part in ("test_error_percent", "valid_error_percent"):
        assert row[part].keys() == {"mean", "std"}
        assert 0 < row[part]["mean"] < 60
        assert row[part]["std"] == 0
    assert list(row["links"]) == ["input-h1", "h1-h2", "h2-output"]
    link = row["links"]["h1-h2"]
    assert [link[way]["bits_per_sample"] for way in ("forward", "feedback")] == [forward, feedback]
    assert [link[way]["bits_per_inference"] for way in ("forward", "feedback")] == [100, 0]
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
    assert said.err.splitlines()[-1] == "stopped; the same command continues from the last checkpoint"
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
        'data = "digits"\nsizes = [64, 8, 8, 10]\nepochs = 3\n'
        'links.h1-h2.forward = "binary"\nlinks.h1-h2.feedback = "ternary"\n'
        "rules.dtp.noise = 0.125\n"
    )
    said = call("train", "--config", config, "--epochs", 1, "--out", tmp_path / "run", "--json")
    assert said.status == 0, said.err
    link = json.loads(said.out)["links"]["h1-h2"]
    assert [link[way]["format"] for way in ("forward", "feedback")] == ["binary", "ternary"]
    assert [link[way]["bits_per_sample"] for way in ("forward", "feedback")] == [2 * 8, 3 * 8 * 2]
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
    "export nir": ("export", "{run}", "--target", "nir", "--signals", "binary", "--machine", "loihi", "--out", "{out}"),
    "export aer": ("export", "{run}", "--target", "aer", "--out", "{out}"),
    "price a run": ("price", "{run}/dtp/seed-0"),
    "export a run": ("export", "{run}/dtp/seed-0", "--out", "{out}"),
    "report": ("report", "{run}"),
    "report of a run": ("report", "{run}/dtp/seed-0"),
    "rules": ("rules",),
    "price on a machine": ("price", "{run}", "--machine", "loihi", "--placement", "h1-h2=loihi:3hops"),
    "machines": ("machines",),
    "technology": ("technology",),
    "technology 45nm": ("technology", "45nm", "--save", "{out}/45nm.yaml"),
    "qtools": ("qtools", "{run}", "--parameters", "fixed"),
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


def test_price_writes_the_same_joules_as_a_table(comparison, tmp_path):
    bills = json.loads(call("price", comparison[0], "--csv", tmp_path / "bills.csv", "--json").out)
    with (tmp_path / "bills.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(item["terms"]) for bill in bills for item in bill["items"])
    for bill in bills:
        own = [row for row in rows if all(row[key] == bill[key] for key in ("rule", "use", "technology"))]
        for end in ("low", "typical", "high"):
            assert sum(float(row[end]) for row in own) == pytest.approx(bill["total"][end])
        constants = {(constant["technology"], constant["name"], constant["per"]) for constant in bill["constants"]}
        assert {(row["constant_of"], row["constant"], row["per"]) for row in own} == constants


def test_qtools_counts_the_exported_network(comparison):
    rows = json.loads(call("qtools", comparison[0], "--rule", "dtp", "--weights", "fixed(4,1)", "--json").out)
    assert [row["rule"] for row in rows] == ["dtp"]
    layers = rows[0]["layers"]
    assert list(layers) == ["h1", "h2", "output"]
    same = call("qtools", comparison[0], "--rule", "dtp", "--weights", "fixed(4,1)", "--parameters", "fixed", "--json")
    fixed = json.loads(same.out)[0]["layers"]
    assert all(layer["parameters"] > 0 for layer in layers.values())
    assert all(layer == fixed[name] | {"parameters": layer["parameters"]} for name, layer in layers.items())
    mux, adder = 0.3 * 0.003125e-12 * 4, 0.003125e-12 * (4 + 7)  # of 100 products, 4 bits each, no bias
    assert layers["h2"]["operations"] == pytest.approx(100 * 100 * (mux + adder))


def test_a_technology_prices_alike_by_its_table_for_accelergy(comparison, tmp_path):
    table = tmp_path / "mine.yaml"
    assert call("technology", "45nm", "--save", table).status == 0
    first, second = (
        json.loads(call("price", comparison[0], "--technology", name, "--json").out) for name in ("45nm", table)
    )
    assert [bill["total"] for bill in first] == [bill["total"] for bill in second]
    listed, again = (json.loads(call("technology", name, "--json").out) for name in ("45nm", table))
    assert [{**row, "technology": "45nm"} for row in again] == listed


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


RULE_NAMES = ", ".join(sorted(RULES))
KEYS = ", ".join(sorted(Comparison.TYPES))
FORMATS = ", ".join(SPELLINGS)
TECHNOLOGIES = ", ".join(Technology.names())
MISTAKES = {
    "rule": ("train --rule dpt", f"no rule 'dpt'; there are: {RULE_NAMES}"),
    "rules": ("compare --rules dtp,dpt", f"no rule 'dpt'; there are: {RULE_NAMES}"),
    "gradient": (
        "compare --rules dtp@binary",
        "rule 'dtp@binary': dtp takes no gradient format",
    ),
    "gradient of fixed-lower": (
        "compare --rules fixed-lower@ternary",
        "rule 'fixed-lower@ternary': fixed-lower takes no gradient format",
    ),
    "activity": (
        "estimate --sizes 784-10-10 --activity 2",
        "activity must be a fraction of ones, a number from 0 to 1, not 2.0",
    ),
    "run that is like": (
        "estimate --like {nowhere}",
        "{nowhere}: no finished run here; a run folder has network.safetensors, a comparison summary.json",
    ),
    "link of an estimate": (
        "estimate --sizes 784-10-10 --link h1-h2=binary",
        "links: no link 'h1-h2' in a network 784-10-10; there are: input-h1, h1-output",
    ),
    "wire of an estimate": (
        "estimate --sizes 784-10-10 --placement h1-h2=board",
        "no link 'h1-h2'; there are: h1-output, input-h1",
    ),
    "technologies of an estimate": (
        "estimate --technology ,",
        f"no technology ','; there are: {TECHNOLOGIES}",
    ),
    "samples of an estimate": (
        "estimate --samples 0",
        "samples must be a whole number, 1 or more, not 0",
    ),
    "sizes of an estimate": (
        "estimate --data mnist --sizes 64-10-10",
        "sizes: mnist has 784 inputs, not 64",
    ),
    "gradient option": (
        "train --rule fixed-lower --gradient ternary",
        "--gradient ternary: fixed-lower takes no gradient format; rules that take one: "
        + ", ".join(sorted(name for name in RULES if takes_gradient(name))),
    ),
    "two gradients": (
        "train --rule straight-through@binary --gradient ternary",
        "--gradient ternary: rule 'straight-through@binary' names a gradient format already",
    ),
    "gradient of no rule": (
        "compare --rules dtp,backprop --gradient ternary",
        "--gradient is the format of straight-through, which is not among the rules: dtp, backprop",
    ),
    "rule twice": (
        "compare --rules dtp,straight-through@fixed(4,-2),straight-through@fixed<4,-2>",
        "rule 'straight-through@fixed(4,-2)' is named 2 times; each rule is compared once",
    ),
    "set": ("train --set epochs", "--set 'epochs': write KEY=VALUE, rules.dtp.target_step=2.8 say"),
    "set key": (
        "compare --set epoch=3",
        f"--set epoch=3: no key 'epoch' in an experiment file; there are: {KEYS.replace(' data,', '')}",
    ),
    "set rule": (
        "train --set rules.dpt.noise=3",
        f"--set rules.dpt.noise=3: no key 'dpt' in table rules; there are: {RULE_NAMES}",
    ),
    "set rule's key": (
        "train --set rules.backprop.step=3",
        "--set rules.backprop.step=3: no key 'step' in table rules.backprop; there are: "
        + ", ".join(sorted({"gradient", "optimizer", *OF_ONE_RULE, *OPTIMIZER_KEYS})),
    ),
    "set table": ("train --set rules.dtp=3", "--set rules.dtp=3: rules.dtp is a table; write rules.dtp.KEY=VALUE"),
    "set in no table": ("train --set epochs.x=3", "--set epochs.x=3: epochs is no table, so it has no keys"),
    "set value": (
        "train --set batch={{",
        "--set batch={{: '{{' is no TOML value: a number, a word, \"text\", [1, 2]",
    ),
    "optimizer": ("train --optimizer ada", f"no optimizer 'ada'; there are: {', '.join(sorted(OPTIMIZERS))}"),
    "format": ("train --link h1-h2=bin", f"no format 'bin'; there are: {FORMATS}"),
    "link syntax": (
        "train --link h1-h2",
        "--link 'h1-h2': write LINK=FORMAT or LINK=FORWARD/FEEDBACK, h1-h2=binary say",
    ),
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
    "machine": ("price {run} --machine abacus", f"no machine 'abacus'; there are: {', '.join(Machine.names())}"),
    "machine's widths": (
        "price {run} --machine finn",
        "machine 'finn' multiplies numbers of at most 1 bits; layer h1 multiplies ufixed(5,1) x float32",
    ),
    "no machine": ("price {run} --machine {nowhere}.toml", "{nowhere}.toml: no such file"),
    "no place": ("price {run} --machine loihi --placement {nowhere}.toml", "{nowhere}.toml: no such file"),
    "no technology": ("price {run} --technology=", f"no technology ''; there are: {TECHNOLOGIES}"),
    "compare no technology": ("compare --technology=", f"no technology ''; there are: {TECHNOLOGIES}"),
    "save no technology": (
        "technology --save {out}",
        f"--save {{out}} needs the name of a technology; there are: {TECHNOLOGIES}",
    ),
    "table of a technology": (
        "technology 45nm --save {out}",
        "--save {out}: an energy reference table is a .yaml file",
    ),
    "no table": ("technology {nowhere}/a.yaml", "{nowhere}/a.yaml: no such file"),
    "memory of qtools": (
        "qtools {run} --parameters flash",
        "no memory of parameters 'flash'; there are: dram, fixed, sram",
    ),
    "compare technology": ("compare --technology 3nm", f"no technology '3nm'; there are: {TECHNOLOGIES}"),
    "part": ("evaluate {run} --part x", "no part 'x'; there are: test, train, valid"),
    "target": ("export {run} --target q --out {out}", f"no target 'q'; there are: {', '.join(sorted(TARGETS))}"),
    "cores": (
        "export {run} --target c --machine loihi --out {out}",
        "--machine says which cores spiking neurons take, so it is for --target nir, not c",
    ),
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
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": FORMAT_VERSION + 1}))
    message = (
        f"lowbit-dtp: {path}: format version {FORMAT_VERSION + 1} is newer than {FORMAT_VERSION}, the newest this "
        "program reads; upgrade lowbit-dtp"
    )
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
        links = [row["links"]["h1-h2"]["forward"] for row in rows]
        assert links[0]["bits_per_sample"] == links[2]["bits_per_sample"]
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


OLD = Path(__file__).parents[1] / "data" / "run-0.1.0"
"""A comparison that version 0.1.0 wrote: dtp and straight-through@fixed(4,-2) on digits, 64-12-12-10, two epochs."""


@pytest.mark.parametrize("run", [".", "dtp/seed-0"])
@pytest.mark.parametrize("line", [("report",), ("evaluate",), ("price",), ("export", "--out", "{out}")])
def test_folders_of_version_0_1_0_are_read(line, run, tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    arguments = [part.format(out=tmp_path / "out") for part in line[1:]]
    said = call(line[0], tmp_path / "old" / run, *arguments, "--json")
    assert (said.status, said.err) == (0, "")
    assert json.loads(said.out)


def test_numbers_of_version_0_1_0_are_kept(tmp_path):
    recorded = json.loads((OLD / "summary.json").read_text())
    rows = Summary.load(OLD).rows
    assert [row.rule for row in rows] == ["dtp", "straight-through@fixed(4,-2)"]
    for row, old in zip(rows, recorded["rows"], strict=True):
        assert list(row.links) == list(old["links"])
        for link, told in row.links.items():
            for name, direction in (("up", told.forward), ("down", told.feedback)):
                for count in ("bits_per_sample", "ones_per_sample", "toggles_per_sample", "bits_per_inference"):
                    assert getattr(direction, count) == old["links"][link][f"{name}_{count}"]
        for technology, joules in old["joules_per_sample"].items():
            assert asdict(row.joules_per_sample[technology]) == joules
    errors = [row["error_percent"] for row in json.loads(call("evaluate", OLD, "--json").out)]
    assert errors == [row["test_error_percent"]["mean"] for row in recorded["rows"]]
    bills = json.loads(call("price", OLD, "--json").out)
    even = {bill["rule"]: bill["break_even_gradient_bits"] for bill in bills if bill["use"] == "training"}
    assert even == {row["rule"]: row["break_even_gradient_bits"] for row in recorded["rows"]}
    shutil.copytree(OLD, tmp_path / "old")
    assert call("report", tmp_path / "old").status == 0
    page = (tmp_path / "old" / "report.html").read_text()
    assert "87.75" in page and "30.75" in page


def test_summary_is_read_as_it_was_returned(tmp_path):
    summary = compare(
        Comparison.load("digits", sizes=[64, 8, 8, 10], epochs=1, seeds=2, compare=["fixed-lower"],
                        links={"h1-h2": {"forward": "binary", "feedback": "binary"}}),
        tmp_path, technologies=["7nm"], export=False,
    )  # fmt: skip
    assert Summary.load(tmp_path) == summary
    assert Summary.from_dict(json.loads(json.dumps(summary.as_dict()))) == summary
    assert summary.rows[0].runs == {0: "fixed-lower/seed-0", 1: "fixed-lower/seed-1"}
    assert (summary.exported, summary.not_exported) == (None, "it was not requested")


def test_rules_with_other_networks_and_links_are_compared(tmp_path):
    comparison = Comparison.load("digits", epochs=1, seeds=1, compare=["direct-dtp", "perceptron"])
    summary = compare(comparison, tmp_path, technologies=["7nm"], export=False)
    direct, perceptron = summary.rows
    assert [link["label"] for link in direct.network["links"]] == ["", "", "", "output-h1"]
    assert [layer["neurons"] for layer in perceptron.network["layers"]] == [10]
    assert list(direct.break_even_gradient_bits) == ["h2-output"], "output-h1 carries no activations"
    assert discrete_links(summary) == ["h1-h2"], "the inputs of either network do not count"


def test_networks_that_are_not_trained_are_compared(tmp_path):
    line = ("compare", "--data", "digits", "--rules", "dtp,backprop", "--seeds", "1", "--epochs", "0")
    said = call(*line, "--out", tmp_path / "run", "--json")
    assert said.status == 0, said.err
    for row in json.loads(said.out)["rows"]:
        assert row["seconds_per_epoch"] is None
        assert {link["forward"]["bits_per_sample"] for link in row["links"].values()} == {0}
        assert row["links"]["h1-h2"]["forward"]["bits_per_inference"] == (100 if row["rule"] == "dtp" else 3200)
        assert {joules["typical"] for joules in row["joules_per_sample"].values()} == {0}
        assert all(joules["typical"] > 0 for joules in row["joules_per_inference"].values())
    assert "No curves can be drawn." in (tmp_path / "run" / "report.html").read_text()
    for command in ("report", "price", "evaluate"):
        assert call(command, tmp_path / "run").status == 0
        assert call(command, tmp_path / "run" / "dtp" / "seed-0").status == 0


SMALL = ("--data", "digits", "--sizes", "64-8-8-10", "--link", "input-h1=ufixed(5,1)", "--link", "h1-h2=binary",
         "--epochs", "1")  # fmt: skip


def test_a_network_that_cannot_be_exported_is_reported_all_the_same(tmp_path):
    line = ("compare", *SMALL, "--rules", "fixed-lower", "--seeds", "1", "--out", tmp_path / "run")
    said = call(*line, "--link", "h1-h2=fixed(4,1,stochastic)")
    assert said.status == 0, said.err
    summary = Summary.load(tmp_path / "run")
    assert summary.exported is None
    assert "stochastic" in summary.not_exported
    assert f"export    none: {summary.not_exported}" in said.out
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert f"No network was exported: {summary.not_exported}." in page
    assert call(*line, "--link", "h1-h2=fixed(4,1,stochastic)", "--no-export").status == 0
    assert Summary.load(tmp_path / "run").not_exported == "it was not requested"
    assert not (tmp_path / "run" / "export").exists()


class _Quiet(StraightThrough):
    """Straight-through without a loss, that also sends the error at the output straight down to the lowest layer."""

    own = Link("ternary", "ternary", "output", "h1")

    def step(self, net, inputs, labels, ledger, context):
        step = super().step(net, inputs, labels, ledger, context)
        error = net.forward(inputs, Ledger(), context.stream).output
        self.own.send(error, Direction.FEEDBACK, "error", ledger, context.stream)
        return Step(step.gradients, None)


def test_links_that_a_rule_brings_along_are_counted_and_a_missing_loss_is_none(tmp_path, monkeypatch):
    monkeypatch.setitem(RULES, "straight-through", _Quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = call("compare", *SMALL, "--rules", "straight-through,backprop", "--seeds", "1", "--no-export",
                    "--out", tmp_path / "run", "--json")  # fmt: skip
    assert said.status == 0, said.err
    rows = json.loads(said.out)["rows"]
    assert list(rows[0]["links"]) == ["input-h1", "h1-h2", "h2-output", "output-h1"]
    assert rows[0]["links"]["output-h1"]["feedback"] | {"ones_per_sample": 0, "toggles_per_sample": 0} == {
        "format": "ternary", "bits_per_sample": 20, "bytes_padded_per_sample": 3, "ones_per_sample": 0,
        "toggles_per_sample": 0, "bits_per_inference": 0,
        "coding": None, "coded_bits_per_sample": None, "bits_by_coding": {},
    }  # fmt: skip
    assert list(rows[1]["links"]) == ["input-h1", "h1-h2", "h2-output"]
    summary = Summary.load(tmp_path / "run")
    assert all_links(summary)[-1] == "output-h1"
    without = traffic(summary.rows[0], ["input-h1", "h1-h2", "h2-output"])
    assert traffic(summary.rows[0]) == without | {"feedback": without["feedback"] + 20}
    assert "Other links: output-h1 feedback 20 bits (ternary)" in (tmp_path / "run" / "report.html").read_text()
    [line] = (tmp_path / "run" / "straight-through" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["train_loss"] is None


def test_a_format_of_gradients_names_the_row(tmp_path):
    line = ("compare", *SMALL, "--rules", "straight-through", "--seeds", "1", "--no-export", "--json")
    rows = [
        json.loads(call(*line, *options, "--out", tmp_path / str(i)).out)["rows"][0]
        for i, options in enumerate((("--gradient", "fixed<4,-2>"), ("--rules", "straight-through@fixed(4,-2)")))
    ]
    for row in rows:
        assert row.pop("seconds_per_epoch") > 0
    assert rows[0]["rule"] == "straight-through@fixed(4,-2)"
    assert rows[0] == rows[1]


def test_set_and_options_reach_the_experiment(tmp_path):
    said = call("train", *SMALL, "--rule", "dtp", "--set", "rules.dtp.target_step=2.8", "--set", "batch = 200",
                "--optimizer", "sgd", "--learning-rate", "0.25", "--activation", "sigmoid", "--set",
                "links.h1-h2.feedback=ternary", "--set", "activation=relu", "--out", tmp_path / "run")  # fmt: skip
    assert said.status == 0, said.err
    experiment = Experiment.load(tmp_path / "run" / "experiment.toml")
    assert (experiment.settings["target_step"], experiment.batch, experiment.activation) == (2.8, 200, "relu")
    assert experiment.optimizer["name"] == "sgd"
    assert experiment.optimizer["learning_rate"] == 0.25
    assert experiment.links["h1-h2"] == {"forward": "binary", "feedback": "ternary"}
    said = call("compare", *SMALL, "--rules", "fixed-lower", "--seeds", "1", "--no-export", "--optimizer", "sgd",
                "--learning-rate", "0.5", "--activation", "relu", "--set", "batch=300", "--out", tmp_path / "both",
                "--json")  # fmt: skip
    settings = json.loads(said.out)["experiment"]
    assert settings["optimizer"] == {"name": "sgd", "learning_rate": 0.5}
    assert (settings["activation"], settings["batch"]) == ("relu", 300)


def test_each_network_and_each_epoch_is_a_line_where_nobody_watches(tmp_path):
    line = ("compare", *SMALL, "--rules", "straight-through@ternary,backprop", "--seeds", "2", "--no-export")
    said = call(*line, "--epochs", "2", "--out", tmp_path / "run")
    lines = [x for x in said.err.splitlines() if not x.startswith("compiling")]
    assert lines[:2] == [
        "straight-through@ternary: network 64-8-8-10; links input-h1 ufixed(5,1) forward; h1-h2 binary forward, "
        "ternary feedback; h2-output float32 forward, float32 feedback",
        "backprop: network 64-8-8-10; links input-h1 ufixed(5,1) forward; h1-h2 float32 forward, float32 feedback; "
        "h2-output float32 forward, float32 feedback",
    ]
    for rule in ("straight-through@ternary", "backprop"):
        for seed in (0, 1):
            run = tmp_path / "run" / folder_name(rule) / f"seed-{seed}" / "metrics.jsonl"
            for told in map(json.loads, run.read_text().splitlines()):
                assert (
                    f"{rule} seed {seed}: epoch {told['epoch']} of 2, test error "
                    f"{told['test_error_percent']:.2f} %, {told['seconds']:.2f} s"
                ) in lines
    assert len(lines) == 2 + 8


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", ["price", "compare"])
def test_headings_are_whole_on_a_narrow_terminal(command, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    if command == "compare":
        print_summary(Summary.load(OLD))
        out, headings = capsys.readouterr().out, ("error %", "h1-h2 bits", "forward/feedback", "45nm", "a sample")
    else:
        out, headings = call("price", OLD).out, ("total", "links", "compute", "memory", "links'", "share")
    assert all(heading in out for heading in headings)
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= width


def test_bills_of_four_rules_are_tables_on_a_narrow_terminal(monkeypatch, capsys):
    rules = ("dtp", "straight-through@fixed(4,-2)", "backprop-then-sign", "fixed-lower")
    ends = ("low", "typical", "high")
    bill = {
        "total": dict(zip(ends, (5.6e-7, 8.72e-7, 1.303e-6), strict=True)),
        "by_part": {"link": dict(zip(ends, (6.9e-10, 5.54e-9, 6.62e-9), strict=True))},
        "links_share": {"typical": 0.0064},
        "break_even_gradient_bits": {"h1-h2": 4.0},
        "constants": [],
    }
    named = [(rule, use, name) for rule in rules for use in ("training", "inference") for name in ("45nm", "7nm")]
    monkeypatch.setenv("COLUMNS", "80")
    print_bills([bill | {"rule": rule, "use": use, "technology": name} for rule, use, name in named])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if "joules" in line] == [
        f"{use}, {name}: joules a sample, typical and low-high" for _, use, name in named[:4]
    ]
    row, ranges = "│ 872 nJ │ 5.54 nJ │ 0 │ 0 │ 0.64 % │", "│ 560-1303 │ 0.69-6.62 │ │ │ │"
    assert lines.count(f"│ dtp {row}") == lines.count(f"│ straight-through {row}") == 4
    assert lines.count(f"│ {ranges}") == 3 * 4 and lines.count(f"│ @fixed(4,-2) {ranges}") == 4
    assert "straight-through@fixed(4,-2), h1-h2: straight-through sends as many bits with a" in lines


def test_machines_are_listed_with_what_they_have(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = {row["name"]: row for row in json.loads(call("machines", "--json").out)}
    assert list(rows) == Machine.names()
    assert rows["loihi"]["computes"] == "by events" and rows["cpu"]["computes"] == "every synapse"
    assert rows["loihi"]["cores"] == (
        "128 cores (8 x 4 routers); each: 1,024 neurons, 4,096 inputs, 1,048,576 memory bits, 9 weight bits"
    )
    assert rows["loihi"]["energy"].startswith("synaptic operation 23.6 pJ, neuron update 81.0 pJ, ")
    assert rows["loihi"]["energy"].endswith("spike 1.70 pJ per event, spike hop 3.50 pJ per event and hop")
    assert rows["loihi"]["static power"] == "static 104 mW per chip"
    assert rows["truenorth"]["time"] == "a step of 1.00 ms a layer" and rows["cpu"]["time"] == ""
    assert rows["spinnaker"]["left out"] == "links" and rows["truenorth"]["includes"] == "neurons, links"
    lines = call("machines").out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == Machine.names()
    assert max(map(len, lines)) <= 80


def test_price_on_a_machine_with_its_time(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "place.toml"
    path.write_text('[layers]\noutput = "7,3"\n')
    line = ("price", OLD, "--machine", "loihi", "--placement", path, "--figures", tmp_path)
    bills = json.loads(call(*line, "--json").out)
    assert {bill["technology"] for bill in bills} == {"loihi"}
    for bill in bills:
        assert bill["placement"]["cores"]["output"] == ["7,3"]
        assert set(bill["by_part"]) == {"link", "compute", "static"}
        time = bill["time"]
        assert time["missing"] == [] and time["bound"]["resource"] in ("synaptic operation", "learning update")
        assert time["sequence_seconds"]["typical"] > time["pipelined_seconds"]["typical"] > 0
        watts, seconds = time["watts"]["typical"], time["sequence_seconds"]["typical"]
        assert watts * seconds == pytest.approx(bill["total"]["typical"])
        assert time["static_joules"] == pytest.approx(bill["by_part"]["static"])
        assert watts > 0.104, "a chip draws 104 mW at rest"
    drawn = sorted(path.name for path in tmp_path.glob("*roofline.svg"))
    assert len(drawn) == len(bills) and "dtp-inference-loihi-roofline.svg" in drawn
    said = call(*line).out
    assert max(map(len, said.splitlines())) <= 80
    text = " ".join(said.split())
    assert "dtp, inference, loihi: " in text and "in a pipeline; bound by synaptic operation in h1; " in text
    assert "every code is charged as one on input-h1" in text


def test_what_a_machine_cannot_do_is_told(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = call("price", OLD, "--machine", "truenorth")
    assert said.status == 0
    assert "training, truenorth" not in said.out and "inference, truenorth" in said.out
    assert (
        "dtp: training is not priced: machine 'truenorth' has no constant 'learning update', which the gradient of "
        "layer output needs, and no process" in " ".join(said.out.split())
    )
    bills = json.loads(call("price", OLD, "--machine", "cpu", "--json").out)
    assert all(bill["time"]["sequence_seconds"] is None for bill in bills)
    assert bills[0]["time"]["missing"] == [
        "throughput of synaptic operation (h1)", "throughput of neuron update (h1)"
    ]  # fmt: skip


def test_rules_lists_every_rule_with_its_source():
    rows = json.loads(call("rules", "--json").out)
    assert [row["name"] for row in rows] == list(RULES)
    for row in rows:
        kind = RULES[row["name"]]
        assert row["source"] == kind.source
        assert row["description"] == kind.__doc__.splitlines()[0]
        assert row["tasks"]
    text = call("rules").out
    assert all(f"\n{name}\n" in f"\n{text}" for name in RULES)


def test_rules_with_networks_and_tasks_of_their_own_are_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rules = "dtp,hebbian,som,dtp-autoencoder,direct-feedback-alignment@ternary"
    told = call(
        "compare", "--data", "digits", "--rules", rules, "--epochs", 1, "--seeds", 1, "--placement", "h1-h2=board",
        "--no-export", "--out", tmp_path,
    )  # fmt: skip
    assert told.status == 0, told.err
    summary = Summary.load(tmp_path)
    errors, squares = ["error_percent"], ["squared_error"]
    assert [row.measure for row in summary.rows] == errors * 2 + squares * 2 + errors
    assert "squared error" in told.out and "error %" in told.out
    page = (tmp_path / "report.html").read_text()
    assert all(rule in page for rule in rules.split(",")) and "Test squared error" in page
    assert call("price", tmp_path).status == 0
    again = json.loads(call("evaluate", tmp_path, "--json").out)
    for row, found in zip(summary.rows, again, strict=True):
        assert found[row.measure] == pytest.approx(row.test_score.mean)
    # of 64-100-100-10 with ternary errors: 100 bits over h1-h2 forward, and 2 x 10 from the output to h1
    links = summary.rows[-1].links
    assert links["h1-h2"].forward.bits_per_sample == 100 and links["output-h1"].feedback.bits_per_sample == 20
