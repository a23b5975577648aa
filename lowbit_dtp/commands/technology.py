"""`lowbit-dtp technology`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json
from .printing import print_facts

if TYPE_CHECKING:
    from hw_models import Constant


def technology(
    name: Annotated[
        str | None, typer.Argument(help="45nm, board, or a file: .toml, or .yaml of Accelergy.", metavar="NAME")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write its energy reference table for Accelergy: FILE.yaml.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the technologies, or the constants of one with their ranges and sources.

    [bold]Examples[/bold]

      lowbit-dtp technology 45nm --save 45nm.yaml

      lowbit-dtp technology timeloop-mapper.ERT.yaml
    """
    from hw_models import Technology, accelergy

    if name is None:
        if save:
            raise ValueError(
                f"--save {save} needs the name of a technology; there are: {', '.join(Technology.names())}"
            )
        known = {each: Technology.load(each).description for each in Technology.names()}
        if as_json:
            print(json.dumps([{"name": key, "description": text} for key, text in known.items()], indent=1))
        else:
            print_facts(list(known), list(known.values()))
        return
    found = Technology.load(name)
    if save:
        if save.suffix not in (".yaml", ".yml"):
            raise ValueError(f"--save {save}: an energy reference table is a .yaml file")
        accelergy.write(save, found)
    constants = found.constants.values()
    if as_json:
        print(json.dumps([constant.as_dict() for constant in constants], indent=1))
        return
    print(found.description)
    for constant in constants:
        print(constant.name)
        assumed = " (the range is the usual one of such evidence)" if constant.assumed_band else ""
        facts = (_value(constant), constant.scope, constant.evidence + assumed, constant.source)
        print_facts(("value", "scope", "evidence", "source"), facts)


def _value(constant: "Constant") -> str:
    """A constant with its range, as text."""
    from ..report import si, si_range

    unit = {"joule": "J", "watt": "W", "per second": ""}[constant.unit]
    per = f"{constant.per}s per second" if not unit else f"per {constant.per}"
    return f"{si(constant.typical, unit)} ({si_range(constant.low, constant.high, unit)}) {per}"
