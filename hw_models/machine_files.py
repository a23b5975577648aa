"""Machine files: reading a machine, or the places of layers, from TOML, with every field checked."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from lowbit_dtp.settings import check
from lowbit_dtp.storage import StorageError, read_toml

from .hardware import Core, Wire
from .layout import Mesh
from .machine import PARTS, CoreLimits, Machine, distances_of
from .technology import Technology

FIELDS: Mapping[str, Any] = {
    "description": str,
    "source": str,
    "constants?": str | dict,
    "process?": str,
    "event_driven?": bool,
    "synaptic_operation?": str | dict,
    "covered?": list[str],
    "left_out?": list[str],
    "memory?": str,
    "reuse?": float,
    "core?": {"neurons?": int, "inputs?": int, "synapses?": int, "memory_bits?": int, "weight_bits?": int},
    "chip?": {"mesh": list[int], "cores?": int, "wire?": str, "multicast?": bool},
    "board?": {"chips": int, "wire?": str},
    "system?": {"boards": int, "wire?": str},
    "units?": {str: int},
    "time?": {"step?": float, "barrier?": float},
    "layers?": {str: str | dict},
}
"""Keys of a machine's file and their types; those that end in "?" may be absent."""


def read(path: Path) -> Machine:
    """The machine in a TOML file. Raises `StorageError` naming the file and the wrong field."""
    content = read_toml(path)
    try:
        check("", content, dict(FIELDS))
        _check_known("", content, FIELDS)
        return _machine(path, content)
    except StorageError:
        raise
    except ValueError as error:
        raise StorageError(f"{path}: {error}") from None


def read_layers(path: Path, machine: Machine) -> dict[str, Core]:
    """First cores of layers, in the table `layers` of a TOML file. Raises `StorageError` naming file and field."""
    content = read_toml(Path(path))
    try:
        check("", content, {"layers": {str: str | dict}})
        _check_known("", content, {"layers": {}})
        return {name: _core(f"layers.{name}", given, machine.mesh) for name, given in content["layers"].items()}
    except ValueError as error:
        raise StorageError(f"{path}: {error}") from None


def _machine(path: Path, content: Mapping[str, Any]) -> Machine:
    for key in ("description", "source"):
        if not content[key].strip():
            raise ValueError(f"{key} must not be empty")
    constants, process = _constants(path, content), _technology(path, "process", content.get("process"))
    if constants is None and process is None:
        raise ValueError("constants and process are missing: a machine needs one of them, or both")
    technology = Technology(
        path.stem,
        content["description"],
        {**(process.constants if process else {}), **(constants.constants if constants else {})},
        next((each.flit_bits for each in (constants, process) if each and each.flit_bits), None),
        None,
    )
    event_driven = _event_driven(content.get("event_driven"), constants)
    chip, board, system = (content.get(name, {}) for name in ("chip", "board", "system"))
    for name in ("core", "chip", "board", "system", "units"):
        _check_positive(name, content.get(name, {}))
    if len(chip.get("mesh", [1, 1])) != 2:
        raise ValueError(f"chip.mesh must be columns and rows, as in [8, 4], not {chip['mesh']}")
    if system and not board:
        raise ValueError("board is missing: a system is of boards, so the file must say what a board is")
    wires = {
        name: _wire(path, name, content.get(name, {}).get("wire"), technology) for name in ("chip", "board", "system")
    }
    columns, rows = chip.get("mesh", (1, 1))
    mesh = Mesh(columns, rows, chip.get("cores", 1), board.get("chips", 1) * system.get("boards", 1))
    for name in ("covered", "left_out"):
        for part in content.get(name, ()):
            if part not in PARTS:
                raise ValueError(f"{name}: no part {part!r}; there are: {', '.join(PARTS)}")
    covered, left_out = tuple(content.get("covered", ())), tuple(content.get("left_out", ()))
    for name, what in (("chip", "of a hop"), ("board", "between chips"), ("system", "between boards")):
        if wires[name] is None and "links" not in covered + left_out and (name == "chip" or name in content):
            raise ValueError(f"{name}.wire is missing: give the wire {what}, or list links as covered or left_out")
    if wires["chip"] is not None and "links" in covered + left_out:
        raise ValueError("chip.wire: links have a cost of their own, so they are neither covered nor left_out")
    for name in content.get("units", {}):
        if f"throughput {name}" not in technology.constants:
            raise ValueError(f"units.{name}: there is no constant {f'throughput {name}'!r}")
    time = content.get("time", {})
    for name, value in time.items():
        if not 0 <= value < inf or (name == "step" and not value):
            raise ValueError(f"time.{name} must be seconds, more than 0, not {value!r}")
    if not content.get("reuse", 1) >= 1:
        raise ValueError(f"reuse must be 1 or more, not {content['reuse']!r}")
    return Machine(
        name=path.stem,
        description=content["description"],
        source=content["source"],
        technology=technology,
        event_driven=event_driven,
        process=process.name if process else "",
        synaptic=_synaptic(content.get("synaptic_operation"), technology),
        covered=covered,
        left_out=left_out,
        memory=content.get("memory", "sram"),
        reuse=content.get("reuse", 1.0),
        core=CoreLimits(**content.get("core", {})),
        mesh=mesh,
        chips_of_board=board.get("chips", 1),
        hop=wires["chip"],
        multicast=chip.get("multicast", False),
        board_wire=wires["board"],
        system_wire=wires["system"],
        units=content.get("units", {}),
        step_seconds=time.get("step"),
        barrier_seconds=time.get("barrier", 0.0),
        layers={name: _core(f"layers.{name}", given, mesh) for name, given in content.get("layers", {}).items()},
    )


def _constants(path: Path, content: Mapping[str, Any]) -> Technology | None:
    given = content.get("constants")
    if not isinstance(given, dict):
        return _technology(path, "constants", given)
    return Technology.from_content(path, {"description": content["description"], "constants": given})


def _technology(path: Path, name: str, given: str | None) -> Technology | None:
    if given is None:
        return None
    return _named(name, lambda: Technology.load(_beside(path, given)))


def _event_driven(given: bool | None, constants: Technology | None) -> bool:
    said = constants.event_driven if constants else None
    if given is not None and said is not None and given != said:
        raise ValueError(f"event_driven is {given}, but its constants are of a machine where it is {said}")
    known = said if given is None else given
    if known is None:
        raise ValueError("event_driven is missing: whether only inputs that are 1 are computed, true or false")
    return known


def _synaptic(given: str | Mapping[str, Any] | None, technology: Technology) -> tuple[tuple[float, str], ...]:
    """Constants of a synaptic operation, by the most bits of an operand."""
    if given is None:
        name = "synaptic operation"
        return ((inf, name),) if name in technology.constants else ()
    named = {"": given} if isinstance(given, str) else given
    found = []
    for bits, name in named.items():
        where = f"synaptic_operation.{bits}" if bits else "synaptic_operation"
        if bits and not re.fullmatch(r"[1-9][0-9]{0,8}", bits):
            raise ValueError(f"{where}: a key must be a number of bits, not {bits!r}")
        constant = technology.constants.get(name) if isinstance(name, str) else None
        if constant is None or constant.unit != "joule" or constant.per != "synaptic operation":
            raise ValueError(f"{where}: no constant {name!r} in joules per synaptic operation")
        found.append((float(bits) if bits else inf, name))
    if not found:
        raise ValueError("synaptic_operation names no constant")
    return tuple(sorted(found))


def _wire(path: Path, part: str, given: str | None, technology: Technology) -> Wire | None:
    """A wire as a file names it: of a hop in `chip`, whole elsewhere."""
    if given is None:
        return None
    where = f"{part}.wire"
    wire = _named(where, lambda: Wire.parse(given))
    wire = replace(wire, kind=_beside(path, wire.kind))
    pers = _named(where, lambda: distances_of(wire.kind, technology))
    if wire.hops is not None and part == "chip":
        raise ValueError(f"{where} {given!r}: write the wire of one hop, without hops")
    for unit, value in (("metre", wire.metres), ("hop", 1 if part == "chip" else wire.hops)):
        if (unit in pers and value is None) or (unit not in pers and value is not None and unit == "metre"):
            needs = "needs" if unit in pers else "has no use for"
            raise ValueError(f"{where} {given!r}: such a wire {needs} a {'length' if unit == 'metre' else 'hop count'}")
    return wire


def _core(where: str, given: Any, mesh: Mesh) -> Core:
    """The core that `given` names: `0,0`, `1:0,0,2`, or a table of `chip` and `core`."""
    if isinstance(given, dict):
        check(where, given, {"chip?": int, "core": list[int]})
        _check_known(where, given, {"chip?": int, "core": int})
        numbers = [given.get("chip", 0), *given["core"]]
    else:
        chip, _, rest = given.rpartition(":")
        parts = [part.strip() for part in (chip or "0", *rest.split(","))]
        numbers = [int(part) if part.isascii() and part.isdecimal() and len(part) < 19 else -1 for part in parts]
    if len(numbers) == 3:
        numbers.append(0)
    if len(numbers) != 4 or Core(*numbers) not in mesh:
        raise ValueError(f"{where}: no core {given!r}; {mesh}")
    return Core(*numbers)


def _check_known(where: str, content: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that no table of a machine's file has."""
    fields = {key.removesuffix("?"): hint for key, hint in known.items()}
    for key, value in content.items():
        name = f"{where}.{key}" if where else key
        if key not in fields:
            raise ValueError(f"{name}: no such key; there are: {', '.join(fields)}")
        if isinstance(fields[key], dict) and str not in fields[key] and fields[key]:
            _check_known(name, value, fields[key])


def _check_positive(where: str, table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and not isinstance(number, bool) and not 1 <= number < 2**48:
                given = number if abs(number) < 2**64 else f"one of {len(str(abs(number)))} digits"
                raise ValueError(f"{where}.{key} must be 1 or more and below 2^48, not {given}")


def _named(where: str, make: Callable[[], Any]) -> Any:
    """What `make` gives; its ValueError names the field `where`."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _beside(path: Path, name: str) -> str:
    """`name`, or the path of a file of that name beside the machine's."""
    near = path.parent / name
    return str(near) if name.endswith(".toml") and near.exists() else name
