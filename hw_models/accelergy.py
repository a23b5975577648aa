"""Accelergy's energy reference tables (ERT): a technology written as one, and one read as a technology.

A file is YAML of version 0.3 or 0.4, energies are picojoules an action. What is written holds one component for each
constant that costs joules: a memory with the actions read, write and update, all others with compute or transfer.
Beside the top key `ERT`, a key `lowbit_dtp`, which Accelergy skips, holds what a table has no place for: names, ranges,
units, sources. Such a file is read again without loss; where an energy was changed meanwhile, its range moves with it.

A file of other origin is read by the last part of a component's name (`chip.PE[0..167].mac` is `mac`), or by the whole
name without its ranges where two components end alike:

| component | action | constant |
|---|---|---|
| name with `mac`, not `macro` | compute, mac, mac_random | multiply-accumulate intB; floatB if it has `fp`, `float` |
| `multiplier`, or ends with `mult` | compute, multiply, mult_random | multiply intB, or floatB |
| `adder`, or ends with `add` | compute, add | add intB, or floatB |
| any other | read, write, update, fill | NAME: 64 / B of a read, a 64-bit access, in the range of all four |
| the same | write or fill; update | NAME write; NAME update: 64 / B of it, a 64-bit access |
| any other, if its B is stated | transfer, transfer_random | wire NAME: 1 / B of it, a bit |

Of the values of an action, with arguments such as `data_delta`, the largest is typical, as Timeloop takes it. A table
does not say how wide a word is: B is 16 for arithmetic and 64 for memories, as in Accelergy's library, unless the file
says otherwise under `lowbit_dtp`: `bits: {mac: 8}`, and `capacity_bits: {glb: 1048576}` for the size of a memory. Other
actions (leak, idle, a MAC that is gated) have no constant; the description lists them.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lowbit_dtp.settings import check
from lowbit_dtp.storage import StorageError, write_text

from .technology import BANDS, KEYS, TOP_KEYS, Constant, Technology

PICOJOULE = 1e-12
VERSIONS = ("0.3", "0.4")
ACCESSES = ("read", "write", "update", "fill")
TRANSFERS = ("transfer", "transfer_random")
ARITHMETIC = {
    "multiply-accumulate": (r"mac(?!ro|hine)", ("compute", "mac", "mac_random")),
    "multiply": (r"multiplier|mult(_|\d|$)", ("compute", "multiply", "mult_random")),
    "add": (r"adder|add$", ("compute", "add")),
}
"""Operations, by patterns of a component's name, and names of the action that is meant."""
DEFAULT_BITS = {"arithmetic": 16, "memory": 64}
"""Widths in Accelergy's own library of components (accelergy/share/primitive_component_lib.yaml)."""

KEPT = tuple(key for key in TOP_KEYS if key not in ("description", "constants"))
"""Keys of a technology's own file that stand under `lowbit_dtp` as they are."""
ACTION = {"name": str, "energy": float, "arguments?": dict | None}
TABLE = {"name": str, "actions": [ACTION]}
OWN = {
    "description?": str,
    "bits?": dict[str, int],
    "capacity_bits?": dict[str, int],
    **{f"{key}?": object for key in KEPT},
    "constants?": {str: {"name": str}},
}
"""Keys under `lowbit_dtp`."""


def write(path: Path, technology: Technology) -> None:
    """Write `technology` as an energy reference table. ValueError if nothing in it costs joules."""
    components = _component_names(technology)
    tables = [
        {
            "name": f"{_identifier(technology.name)}.{components[name]}[1..1]",
            "actions": [
                {"name": action, "arguments": {}, "energy": float(f"{constant.typical / PICOJOULE:.15g}")}
                for action in _actions(constant)
            ],
        }
        for name, constant in technology.constants.items()
        if constant.unit == "joule"
    ]
    if not tables:
        raise ValueError(f"technology {technology.name!r} has no constant in joules, so no energy reference table")
    own: dict[str, Any] = {
        "description": technology.description,
        "constants": {
            components[name]: {"name": name, **_values(constant)} for name, constant in technology.constants.items()
        },
    }
    own |= {key: value for key in KEPT if (value := getattr(technology, key)) is not None}
    write_text(
        Path(path),
        yaml.safe_dump(
            {"ERT": {"version": VERSIONS[-1], "tables": tables}, "lowbit_dtp": own}, sort_keys=False, width=1000
        ),
    )


def read(path: Path) -> Technology:
    """The technology in an energy reference table. Raises `StorageError` naming the wrong file and field."""
    path = Path(path)
    tables, own = _content(path)
    stated = own.get("constants", {})
    names = [re.sub(r"\[[^\]]*\]", "", table["name"]) for table in tables]
    endings = Counter(name.rpartition(".")[2] for name in names)
    constants: dict[str, dict[str, Any]] = {}
    skipped: list[str] = []
    components = []
    for table, name in zip(tables, names, strict=True):
        ending = name.rpartition(".")[2]
        component = ending if endings[ending] == 1 else name
        if component in components:
            raise StorageError(f"{path}: ERT.tables has two components {name!r}")
        components.append(component)
        energies = _energies(path, table)
        if component in stated:
            found = {stated[component]["name"]: _stated(path, component, stated[component], energies)}
        else:
            found, others = _read_by_name(path, component, energies, own)
            skipped += others
        for constant, values in found.items():
            if constant in constants:
                raise StorageError(f"{path}: ERT.tables: two components are {constant!r}; name one of them otherwise")
            constants[constant] = values
    for component, values in stated.items():
        if component in components:
            continue
        if values.get("unit", "joule") == "joule":
            raise StorageError(f"{path}: lowbit_dtp.constants.{component} has no table of that name in ERT.tables")
        constants[values["name"]] = {key: value for key, value in values.items() if key != "name"}
    _check_own(path, own, components)
    if not constants:
        raise StorageError(f"{path}: ERT.tables has no action that is read: {', '.join(skipped) or 'it is empty'}")
    description = own.get("description", f"Accelergy energy reference table {path.name}.")
    if skipped:
        description += f" Not read: {', '.join(skipped)}."
    kept = {key: own[key] for key in KEPT if key in own}
    return Technology.from_content(path, {"description": description, **kept, "constants": constants})


def _content(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The tables in the file, and what is under `lowbit_dtp`, checked."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise StorageError(f"{path}: not YAML (line {line}: {error.problem})") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # not UTF-8, a number too long, nested too deeply
        raise StorageError(f"{path}: not YAML ({error})") from None
    if not isinstance(content, dict) or "ERT" not in content:
        raise StorageError(f"{path}: has no top key ERT, so it is no energy reference table of Accelergy")
    try:
        check("", {"ERT": content["ERT"]}, {"ERT": {"version": str | float, "tables": list}})
        version = str(content["ERT"]["version"])
        if version not in VERSIONS:
            raise ValueError(f"ERT.version is {version!r}; this program reads {' and '.join(VERSIONS)}")
        for key in content["ERT"]:
            if key not in ("version", "tables"):
                raise ValueError(f"ERT has an unknown key {key!r}; it has: version, tables")
        for index, table in enumerate(content["ERT"]["tables"]):
            where = f"ERT.tables[{index}]"
            if isinstance(table, dict) and isinstance(table.get("name"), str):
                where += f" ({table['name']})"
            check(where, table, TABLE)
        own = content.get("lowbit_dtp", {})
        check("lowbit_dtp", own, OWN)
    except ValueError as error:
        raise StorageError(f"{path}: {error}") from None
    return content["ERT"]["tables"], own


def _energies(path: Path, table: Mapping[str, Any]) -> dict[str, list[float]]:
    """Joules of each action, one value for each set of arguments."""
    energies: dict[str, list[float]] = {}
    for action in table["actions"]:
        if action["energy"] < 0:
            raise StorageError(
                f"{path}: energy of {table['name']}, {action['name']}, must be 0 or more picojoules, "
                f"not {action['energy']}"
            )
        energies.setdefault(action["name"], []).append(action["energy"] * PICOJOULE)
    return energies


def _stated(
    path: Path, component: str, values: Mapping[str, Any], energies: Mapping[str, list[float]]
) -> dict[str, Any]:
    """The constant that `values` describe, at the energy in the table: its range moves with it."""
    found = {energy for each in energies.values() for energy in each}
    if len(found) != 1:
        raise StorageError(
            f"{path}: ERT.tables: the actions of {component} must have one energy, since it is one constant, "
            f"not {', '.join(f'{energy / PICOJOULE:g}' for energy in sorted(found)) or 'none'}"
        )
    table = {key: value for key, value in values.items() if key != "name"}
    typical, energy = table.get("typical"), found.pop()
    if isinstance(typical, int | float) and not isinstance(typical, bool) and abs(energy - typical) > 1e-12 * typical:
        if not typical > 0:
            raise StorageError(f"{path}: lowbit_dtp.constants.{component}.typical is {typical}, but its energy is not")
        for key in ("low", "typical", "high"):
            if isinstance(table.get(key), int | float):
                table[key] *= energy / typical
    return table


def _read_by_name(
    path: Path, component: str, energies: Mapping[str, list[float]], own: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Constants of a component of other origin, and the actions that none is for."""
    found: dict[str, dict[str, Any]] = {}
    used: set[str] = set()
    name = component.rpartition(".")[2].lower()
    bits = own.get("bits", {}).get(component)
    source = f"Accelergy energy reference table {path.name}: {component}, "

    def constant(per: str, actions: list[str], values: list[float], width: int, scale: float = 1.0) -> dict[str, Any]:
        used.update(actions)
        assumed = "" if bits else ", the default of Accelergy's library"
        range_ = {"low": min(values), "typical": max(energies[actions[0]]), "high": max(values)}
        return {
            **{key: value * scale for key, value in range_.items()},
            "unit": "joule",
            "per": per,
            "source": f"{source}{', '.join(actions)}; {width} bits wide{assumed}",
            "evidence": "pre-silicon",
        }

    for operation, (pattern, names) in ARITHMETIC.items():
        if re.search(pattern, name):
            width = bits or DEFAULT_BITS["arithmetic"]
            number = "float" if re.search(r"fp|float", name) else "int"
            if actions := [action for action in names if action in energies][:1]:
                values = energies[actions[0]]
                found[f"{operation} {number}{width}"] = constant("operation", actions, values, width)
            break
    else:
        width = bits or DEFAULT_BITS["memory"]
        accesses = [action for action in ACCESSES if action in energies]
        if "read" in accesses:
            values = [value for action in accesses for value in energies[action]]
            found[component] = constant("64-bit access", accesses, values, width, 64 / width)
            if size := own.get("capacity_bits", {}).get(component):
                found[component]["capacity_bits"] = size
            for suffix, names in (("write", ("write", "fill")), ("update", ("update",))):
                if actions := [action for action in names if action in energies][:1]:
                    values = energies[actions[0]]
                    found[f"{component} {suffix}"] = constant("64-bit access", actions, values, width, 64 / width)
        if bits and (actions := [action for action in TRANSFERS if action in energies][:1]):
            found[f"wire {component}"] = constant("bit", actions, energies[actions[0]], bits, 1 / bits)
    return found, [f"{action} of {component}" for action in energies if action not in used]


def _check_own(path: Path, own: Mapping[str, Any], components: list[str]) -> None:
    """Raise StorageError if widths or sizes are stated of what is not in the table, or are none."""
    for key in ("bits", "capacity_bits"):
        for component, number in own.get(key, {}).items():
            if component not in components:
                raise StorageError(
                    f"{path}: lowbit_dtp.{key} names {component!r}; the components are: {', '.join(components)}"
                )
            if not 1 <= number < 2**63:
                raise StorageError(f"{path}: lowbit_dtp.{key}.{component} must be 1 bit or more, not {number}")


def _values(constant: Constant) -> dict[str, Any]:
    """The keys of a constant's table, without those that its evidence implies."""
    values = {key: value for key in KEYS if (value := getattr(constant, key)) not in (None, "")}
    band = BANDS[constant.evidence]
    implied = {"low": constant.typical / band, "high": constant.typical * band} if constant.assumed_band else {}
    return {key: value for key, value in values.items() if implied.get(key) != value}


def _component_names(technology: Technology) -> dict[str, str]:
    """A name for each constant that is an identifier, and unique."""
    names: dict[str, str] = {}
    for constant in technology.constants:
        name = _identifier(constant)
        while name in names.values():
            name += "_"
        names[constant] = name
    return names


def _identifier(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def _actions(constant: Constant) -> tuple[str, ...]:
    if constant.per == "64-bit access":
        return ("read", "write", "update")
    return ("compute",) if "operation" in constant.per or "update" in constant.per else ("transfer",)
