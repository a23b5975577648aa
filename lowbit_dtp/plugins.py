"""Plug-ins: your own rules, formats and data sets, which the command then finds by name.

A plug-in is a Python file, given with `--plugin FILE.py`, or a module or object that an installed package names as an
entry point in one of `GROUPS`. It registers what it adds with `rules.register`, `formats.register` or `data.register`;
rules that its module defines with a `name` are registered automatically.
"""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .rules import LearningRule

GROUPS = ("lowbit_dtp.rules", "lowbit_dtp.formats", "lowbit_dtp.data")
"""Groups of entry points, named like the modules that register their objects."""

_origins: dict[tuple[str, str], str] = {}
"""The plug-in (path of a file or name of a package) that each kind and name comes from."""
_loaded: set[str] = set()


class PluginError(ValueError):
    """A plug-in cannot be used; the message names its file and line, or its entry point."""


def load(paths: Iterable[Path | str] = ()) -> None:
    """Load the plug-ins of installed packages, then the files `paths`, each once in a process.

    Raises PluginError, with nothing of that plug-in registered, if one fails or registers a name that is taken.
    """
    for group in GROUPS:
        for entry in entry_points(group=group):
            if f"{group}:{entry.value}" not in _loaded:
                _load_entry(entry)
                _loaded.add(f"{group}:{entry.value}")
    for path in paths:
        origin = str(Path(path).resolve())
        if origin not in _loaded:
            _load_file(path, origin)
            _loaded.add(origin)


def files() -> list[str]:
    """Files of the plug-ins that are loaded, for `load` in another process."""
    return sorted(origin for origin in _loaded if Path(origin).is_absolute())


def origins(names: Iterable[tuple[str, str]]) -> list[str]:
    """The plug-ins, each once, from which `names` come: pairs of rule, format or data set, and its name."""
    return list(dict.fromkeys(_origins[name] for name in names if name in _origins))


def advice(origins: Sequence[str]) -> str:
    """Advice to the user on how to load the plug-ins `origins`.

    >>> advice(["/home/me/mine.py"])
    'give --plugin /home/me/mine.py before the command'
    """
    files = [f"--plugin {origin}" for origin in origins if origin.endswith(".py")]
    packages = [origin for origin in origins if not origin.endswith(".py")]
    return " and ".join(
        [f"give {' '.join(files)} before the command"] * bool(files)
        + [f"install {', '.join(packages)}"] * bool(packages)
    )


def check_data(name: str) -> None:
    """Raise ValueError unless there is a data set `name`, or it is a path."""
    from . import data
    from .choices import choose

    if not getattr(data, "is_path", lambda name: False)(name):
        choose("data set", name, {**data.SOURCES, **_tables()["data set"]})


def _tables() -> dict[str, dict[str, Any]]:
    """Registered objects, by kind and name."""
    from . import data, formats, rules  # not without plug-ins: the command's help is then printed at once

    return {
        "rule": rules.RULES,
        "format": getattr(getattr(formats, "spelling", None), "_OWN", formats.NAMED),
        "data set": getattr(data, "_REGISTERED", data.SOURCES),
    }


def _load_entry(entry: EntryPoint) -> None:
    from .rules import register

    before = _snapshot()
    try:
        found = entry.load()
        if isinstance(found, ModuleType):
            for rule in _unregistered_rules(found):
                register(rule)
        elif not any(found is known for table in _tables().values() for known in table.values()):
            named = (entry.name,) if entry.group == "lowbit_dtp.data" else ()
            import_module(entry.group).register(*named, found)
        _check_names(before)
    except (Exception, SystemExit) as error:
        _restore(before)
        where = f"plug-in {entry.name} = {entry.value} of {_package(entry)}"
        raise PluginError(f"{where}: {_last_line(error)}{_described(error)}") from error
    _record(before, _package(entry))


def _load_file(path: Path | str, origin: str) -> None:
    if not Path(path).is_file() or not origin.endswith(".py"):
        raise PluginError(f"{path}: {'not a .py file' if Path(path).exists() else 'no such file'}; give a Python file")
    from .rules import register

    before, line = _snapshot(), 0
    try:
        for rule in _unregistered_rules(_executed(origin)):
            line = inspect.getsourcelines(rule)[1]
            register(rule)
        line = 0
        _check_names(before)
    except (Exception, SystemExit) as error:
        _restore(before)
        line = line or _line(error, origin)
        where = f"{path}, line {line}" if line else str(path)
        raise PluginError(f"{where}: {_described(error)}") from error
    _record(before, origin)


def _executed(path: str) -> ModuleType:
    """The module in the file `path`."""
    name = f"lowbit_dtp_plugin_{len(_loaded)}_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # as for every .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look for it there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _unregistered_rules(module: ModuleType) -> "Iterator[type[LearningRule]]":
    """The rules that `module` defines with a name and has not registered."""
    from .rules import RULES, LearningRule

    for value in list(vars(module).values()):
        if (
            isinstance(value, type)
            and issubclass(value, LearningRule)
            and value.__module__ == module.__name__
            and "name" in vars(value)
            and not inspect.isabstract(value)
            and value not in RULES.values()
        ):
            yield value


def _snapshot() -> dict[str, dict[str, Any]]:
    return {kind: dict(table) for kind, table in _tables().items()}


def _restore(before: dict[str, dict[str, Any]]) -> None:
    for kind, table in _tables().items():
        table.clear()
        table.update(before[kind])


def _check_names(before: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError if a plug-in has registered a name that was taken."""
    for kind, table in _tables().items():
        for name, known in before[kind].items():
            if table.get(name) is not known:
                raise ValueError(f"there is a {kind} {name!r} already; choose another name")


def _record(before: dict[str, dict[str, Any]], origin: str) -> None:
    _origins.update({(kind, x): origin for kind, table in _tables().items() for x in table if x not in before[kind]})


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module


def _described(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}"


def _line(error: BaseException, path: str) -> int:
    """The line of the file `path` that raised the error; 0 if there is none."""
    if isinstance(error, SyntaxError) and error.filename == path and error.lineno:
        return error.lineno
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return lines[-1] if lines else 0


def _last_line(error: BaseException) -> str:
    """File and line that raised the error, unless they are in this package."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: "
    frames = [x for x in traceback.extract_tb(error.__traceback__) if not x.filename.startswith(("<", _HERE, _LIBRARY))]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""


_HERE = str(Path(__file__).parent)
_LIBRARY = str(Path(importlib.util.__file__).parent)
