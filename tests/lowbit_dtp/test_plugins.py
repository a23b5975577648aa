"""Plug-ins: found by their files and entry points, refused by name and line, and named in the runs that need them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowbit_dtp import data, formats, plugins
from lowbit_dtp.experiment import Comparison, Experiment
from lowbit_dtp.rules import RULES, rule_named
from lowbit_dtp.storage import StorageError

RULE = """
from dataclasses import dataclass
from typing import ClassVar

from lowbit_dtp.rules import DTP


@dataclass(frozen=True)
class Mine(DTP):
    name: ClassVar[str] = "mine"
    factor: float = 1.0
"""
REGISTERED = f"""
from lowbit_dtp import rules
{RULE}
rules.register(Mine)
"""


@pytest.fixture(autouse=True)
def as_before():
    """Rules and plug-ins that a test loads go after it."""
    known, loaded, origins = dict(RULES), set(plugins._loaded), dict(plugins._origins)
    yield
    for now, before in ((RULES, known), (plugins._origins, origins)):
        now.clear()
        now.update(before)
    plugins._loaded.clear()
    plugins._loaded.update(loaded)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [RULE, REGISTERED], ids=["defined", "registered"])
def test_a_rule_in_a_file_is_found_by_its_name(text, tmp_path):
    path = write(tmp_path / "mine.py", text)
    before = list(RULES)
    plugins.load([path, path])
    plugins.load([path])
    assert list(RULES) == [*before, "mine"]
    experiment = Comparison.load("digits", rules={"mine": {"factor": 2}}).experiment("mine", 0)
    assert experiment.learning_rule().factor == 2
    assert experiment.plugins == [str(path)]
    assert Comparison.load("digits").experiment("dtp", 0).plugins == []


def test_settings_of_a_rule_of_ones_own_are_checked(tmp_path):
    plugins.load([write(tmp_path / "mine.py", RULE)])
    config = write(tmp_path / "mine.toml", 'rules.mine.factor = "much"\n')
    with pytest.raises(ValueError) as error:
        Comparison.load("digits", config)
    assert str(error.value) == f"{config}: rules.mine.factor must be a number, not 'much'"


BROKEN = {
    "name": ("x = 1\ny = x + z\n", "line 2: NameError: name 'z' is not defined"),
    "syntax": ("x = 1\n\ndef f(:\n", "line 3: SyntaxError: invalid syntax"),
    "import": ("import nothing_like_it\n", "line 1: ModuleNotFoundError: No module named 'nothing_like_it'"),
    "exit": ("import sys\nsys.exit('no')\n", "line 2: SystemExit: no"),
    "within a function": ("def f():\n    return 1 / 0\n\nf()\n", "line 2: ZeroDivisionError: division by zero"),
    "taken, defined": (
        RULE.replace('"mine"', '"dtp"'),
        "line 8: ValueError: rule Mine: there is a rule 'dtp' already; choose another name",
    ),
    "taken, registered": (
        REGISTERED.replace('"mine"', '"dtp"'),
        "line 15: ValueError: rule Mine: there is a rule 'dtp' already; choose another name",
    ),
    "not a name": (
        REGISTERED.replace('"mine"', '"my@rule"'),
        "line 15: ValueError: rule Mine: its name must be letters, digits and any of -_.+, not 'my@rule'",
    ),
    "not a rule": (
        "from lowbit_dtp import rules\nrules.register(int)\n",
        "line 2: TypeError: a rule must be a class derived from LearningRule, not <class 'int'>",
    ),
    "not whole": (
        "from lowbit_dtp import rules\nclass Half(rules.LearningRule):\n    name = 'half'\nrules.register(Half)\n",
        "line 4: TypeError: rule Half must define step",
    ),
    "put by hand": (
        "from lowbit_dtp import rules\nrules.RULES['dtp'] = rules.TargetProp\n",
        "ValueError: there is a rule 'dtp' already; choose another name",
    ),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plug_in_is_refused_by_file_and_line(text, message, tmp_path):
    path = write(tmp_path / "broken.py", text)
    before = dict(RULES)
    for _ in range(2):  # nothing of the first attempt is left
        with pytest.raises(plugins.PluginError) as error:
            plugins.load([path])
        assert str(error.value) == f"{path}{', ' if message.startswith('line') else ': '}{message}"
        assert before == RULES


def test_what_was_registered_before_an_error_is_taken_back(tmp_path):
    path = write(tmp_path / "late.py", REGISTERED + "1 / 0\n")
    with pytest.raises(plugins.PluginError, match=r", line 16: ZeroDivisionError: division by zero$"):
        plugins.load([path])
    assert "mine" not in RULES


@pytest.mark.parametrize(("name", "why"), [("none.py", "no such file"), ("mine.txt", "not a .py file")])
def test_a_plug_in_must_be_a_python_file(name, why, tmp_path):
    write(tmp_path / "mine.txt", RULE)
    with pytest.raises(plugins.PluginError) as error:
        plugins.load([tmp_path / name])
    assert str(error.value) == f"{tmp_path / name}: {why}; give a Python file"


def test_a_run_says_which_plug_in_it_needs(tmp_path):
    path = write(tmp_path / "mine.py", RULE)
    plugins.load([path])
    file = tmp_path / "experiment.toml"
    experiment = Comparison.load("digits", rules={"mine": {"learning_rate": 0.1}}).experiment("mine", 0)
    file.write_text(experiment.as_toml())
    assert f'plugins = [\n    "{path}",\n]\n' in file.read_text()
    assert Experiment.load(file) == experiment
    del RULES["mine"]
    with pytest.raises(StorageError) as error:
        Experiment.load(file)
    assert str(error.value) == (
        f"{file}: no rule 'mine'; there are: {', '.join(sorted(RULES))}; "
        f"the run was made with a plug-in: give --plugin {path} before the command"
    )


OTHERS = """
from lowbit_dtp import data, formats

formats.register(formats.Table("lopsided", (-1.0, 0.5, 2.0)))
data.register("none", lambda folder: None)
"""


@pytest.mark.skipif(not hasattr(formats, "register"), reason="formats and data sets cannot be registered")
def test_formats_and_data_sets_in_a_file_are_found_by_their_names(tmp_path):
    path = write(tmp_path / "mine.py", OTHERS)
    plugins.load([path])
    assert formats.parse("lopsided").values == (-1.0, 0.5, 2.0)
    assert data.load("none") is None
    links = {"h1-h2": {"forward": "lopsided"}}
    assert Comparison.load("digits", links=links).experiment("dtp", 0).plugins == [str(path)]
    assert plugins.origins([("data set", "none"), ("format", "lopsided")]) == [str(path)]


def package(folder: Path, group: str, value: str, module: str) -> Path:
    """A folder that holds an installed package with one entry point, and its module `mine_plugin`."""
    info = folder / "mine_plugin-1.0.dist-info"
    write(info / "METADATA", "Metadata-Version: 2.1\nName: mine-plugin\nVersion: 1.0\n")
    write(info / "entry_points.txt", f"[{group}]\nmine = {value}\n")
    write(folder / "mine_plugin.py", module)
    return folder


@pytest.mark.parametrize(
    ("value", "text"), [("mine_plugin:Mine", RULE), ("mine_plugin", REGISTERED), ("mine_plugin", RULE)]
)
def test_a_rule_of_an_installed_package_is_found(value, text, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(package(tmp_path, "lowbit_dtp.rules", value, text))
    monkeypatch.delitem(sys.modules, "mine_plugin", raising=False)
    plugins.load()
    assert rule_named("mine").__module__ == "mine_plugin"
    assert plugins.origins([("rule", "mine"), ("rule", "dtp")]) == ["mine-plugin"]
    assert plugins.advice(["mine-plugin"]) == "install mine-plugin"


def test_a_broken_package_is_refused_by_its_entry_point(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(package(tmp_path, "lowbit_dtp.rules", "mine_plugin", "x = 1\n1 / 0\n"))
    monkeypatch.delitem(sys.modules, "mine_plugin", raising=False)
    with pytest.raises(plugins.PluginError) as error:
        plugins.load()
    assert str(error.value) == (
        f"plug-in mine = mine_plugin of mine-plugin: {tmp_path}/mine_plugin.py, line 2: "
        "ZeroDivisionError: division by zero"
    )


def command(*line: object, path: Path | None = None) -> tuple[int, str]:
    """Status and last line of the error of the command `lowbit-dtp`, with `path` searched for packages."""
    search = os.pathsep.join([*([str(path)] if path else []), os.environ.get("PYTHONPATH", ""), str(Path.cwd())])
    arguments = [sys.executable, "-m", "lowbit_dtp", *map(str, line)]
    done = subprocess.run(arguments, env=os.environ | {"PYTHONPATH": search}, capture_output=True, text=True)
    return done.returncode, (done.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize("way", ["file", "package"])
def test_the_command_trains_by_a_rule_of_ones_own(way, tmp_path):
    path = write(tmp_path / "mine.py", RULE)
    installed = package(tmp_path / "site", "lowbit_dtp.rules", "mine_plugin:Mine", RULE) if way == "package" else None
    before = [] if installed else ["--plugin", path]
    line = ["train", "--rule", "mine", "--learning-rate", "0.001", "--epochs", "1", "--out", tmp_path / "run"]
    assert command(*before, *line, path=installed)[0] == 0
    assert command(*before, "evaluate", tmp_path / "run", path=installed)[0] == 0
    status, said = command("evaluate", tmp_path / "run")
    wanted = "install mine-plugin" if installed else f"give --plugin {path} before the command"
    assert (status, said) == (
        2,
        f"lowbit-dtp: {tmp_path / 'run' / 'experiment.toml'}: no rule 'mine'; there are: {', '.join(sorted(RULES))}; "
        f"the run was made with a plug-in: {wanted}",
    )


def test_the_command_names_file_and_line_of_a_broken_plug_in(tmp_path):
    path = write(tmp_path / "mine.py", "x = 1\ny = x + z\n")
    wanted = f"lowbit-dtp: {path}, line 2: NameError: name 'z' is not defined"
    assert command("--plugin", path, "train", "--rule", "mine") == (2, wanted)
