"""`lowbit-dtp machines`, and prices on a machine."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Json
from .printing import print_facts

if TYPE_CHECKING:
    from hw_models import Bill, HardwareConfig, Machine, Timing
    from hw_models.machine import Layers

    from ..bands import Priced
    from ..ledger import Ledger


def machines(as_json: Json = False) -> None:
    """List the machines that a network can be priced on: what each has, and what no source gives.

    [bold]Examples[/bold]

      lowbit-dtp machines

      lowbit-dtp price runs/demo --machine loihi
    """
    from hw_models import Machine

    rows = [{"name": name, **described(Machine.load(name))} for name in Machine.names()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(row.pop("name"))
        print_facts(list(row), list(row.values()))


def described(machine: "Machine") -> dict[str, str]:
    """What a machine has, in words; empty where no source gives it."""
    core, mesh = machine.core._asdict(), machine.mesh
    holds = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in core.items() if value)
    chips = f"{mesh.chips:,} chips of " if mesh.chips > 1 else ""
    cores = f"{chips}{mesh.of_chip:,} cores ({mesh.columns} x {mesh.rows} routers)" if mesh.number > 1 else ""
    steps = [] if machine.step_seconds is None else [f"a step of {_quantity(machine.step_seconds, 's')} a layer"]
    steps += [f"a barrier of {_quantity(machine.barrier_seconds, 's')} a layer"] if machine.barrier_seconds else []
    return {
        "description": machine.description,
        "computes": "by events" if machine.event_driven else "every synapse",
        "cores": cores + (f"; each: {holds}" if holds else ""),
        "process": machine.process,
        "energy": _constants(machine, "joule"),
        "static power": _constants(machine, "watt"),
        "time": ", ".join([*steps, *filter(None, [_constants(machine, "per second")])]),
        "includes": ", ".join(machine.covered),
        "left out": ", ".join(machine.left_out),
        "source": machine.source,
    }


class OnMachine:
    """Prices on a machine: the place of each ledger, its bill with static power, and its time."""

    def __init__(self, name: str, placement: str, options: "HardwareConfig") -> None:
        """`placement` is a file of places of layers, if it ends in .toml; else `options` has wires of links."""
        from hw_models import Machine
        from hw_models.machine_files import read_layers

        self.machine = Machine.load(name)
        self.layers: Layers = read_layers(Path(placement), self.machine) if is_file(placement) else {}
        self.options = options
        self.refused: dict[tuple[str, str], str] = {}
        """Why ledgers have no price, by rule and use."""

    def price(self, books: "Sequence[tuple[str, str, Ledger]]") -> "list[tuple[Priced, Ledger, Timing]]":
        """Bills of ledgers, a sample, and their time. ValueError if none can be priced."""
        from ..bands import Priced

        priced: list[tuple[Priced, Ledger, Timing]] = []
        refused: dict[tuple[str, str], str] = {}
        for rule, use, book in books:
            if not book.samples:
                continue
            try:
                bill, time = self._bill(book)
            except ValueError as error:
                refused[rule, use] = str(error)
                continue
            priced.append((Priced(rule, use, bill), book, time))
        if refused and not priced:
            raise ValueError(next(iter(refused.values())))
        self.refused |= refused
        return priced

    def _bill(self, book: "Ledger") -> "tuple[Bill, Timing]":
        from hw_models import price_on, time_on, with_static

        config = self.machine.place(book, self.layers)
        own = self.options.within(book)
        changed = {name: value for name in CHANGED if (value := getattr(own, name)) != getattr(type(own)(), name)}
        kept = {key: wire for key, wire in config.links.items() if key.partition(".")[0] not in own.links}
        config = replace(config, **changed | {"links": {**kept, **own.links}})
        time = time_on(book, self.machine, config)
        return with_static(price_on(book, self.machine, config).per("sample"), time), time


CHANGED = ("memory", "reuse", "word_bits", "coding", "feedback_weights")
"""Fields of a placement that options change, where they are given."""


def time_of(bill: "Bill", time: "Timing") -> dict[str, Any]:
    """Seconds and power of a sample, for JSON; None where no source gives them."""
    from hw_models import power

    drawn = power(replace(bill, items=tuple(item for item in bill.items if item.part != "static")), time)
    bound = time.bound
    return {
        "sequence_seconds": asdict(time.sequence) if time.sequence else None,
        "pipelined_seconds": asdict(time.pipelined) if time.pipelined else None,
        "bound": {"where": bound.where, "resource": bound.resource} if bound else None,
        "missing": list(time.missing),
        "static_joules": asdict(drawn.static) if drawn and time.machine.knows_static else None,
        "watts": asdict(drawn.watts) if drawn else None,
        "joule_seconds": asdict(drawn.energy_delay) if drawn else None,
    }


def is_file(placement: str) -> bool:
    """Whether the text of `--placement` is a file with places of layers."""
    return placement.endswith(".toml") and "=" not in placement


def told(time: dict[str, Any]) -> str:
    """Seconds and power of a sample, in words."""
    if time["missing"]:
        return f"the time of a sample is not known: no {', '.join(time['missing'])}"
    bound = time["bound"]
    parts = [
        f"{_quantity(time['sequence_seconds']['typical'], 's')} a sample",
        f"{_quantity(time['pipelined_seconds']['typical'], 's')} in a pipeline",
        f"bound by {bound['resource']} in {bound['where']}" if bound else "bound by the step of the machine",
        _quantity(time["watts"]["typical"], "W"),
        f"{time['joule_seconds']['typical']:.3g} J s",
    ]
    static = time["static_joules"]
    if static is None:
        parts.append("without static power")
    elif static["typical"]:
        parts.append(f"{_quantity(static['typical'], 'J')} of it static")
    return "; ".join(parts)


def _constants(machine: "Machine", unit: str) -> str:
    """Constants of a unit that are the machine's own, typical values."""
    return ", ".join(_own_constants(machine, unit))


def _own_constants(machine: "Machine", unit: str) -> Iterator[str]:
    symbol = {"joule": "J", "watt": "W", "per second": ""}[unit]
    for constant in machine.technology.constants.values():
        if constant.unit == unit and constant.technology != machine.process:
            per = "/s" if not symbol else f" per {constant.per}" if constant.per not in constant.name else ""
            name = constant.name.removeprefix("throughput ")
            yield f"{name} {_quantity(constant.typical, symbol)}{per}"


def _quantity(value: float, unit: str) -> str:
    from ..report import si

    return si(value, unit).replace("\xa0", " ").strip()
