"""`lowbit-dtp sweep`."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .estimate import asked
from .options import Json
from .printing import print_fronts

if TYPE_CHECKING:
    from hw_models.sweep import Source, Sweep

AXES = ("data", "rule", "sizes", "link", "weight")
"""Options of estimates that are columns of the table; each may have several values."""
ONE = {"epochs": int, "batch": int, "samples": int, "activity": float, "activation": str, "optimizer": str}
"""Other options, with the types of their values; each has one."""


def sweep(
    file: Annotated[Path, typer.Argument(help="TOML file with runs, estimates and machines.", metavar="FILE")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", metavar="FOLDER")],
    as_json: Json = False,
) -> None:
    """Price runs and estimates on many machines, and find those that no other beats in error, bits and joules.

    Writes sweep.csv and sweep.html. The same command again computes only points that are missing.

    [bold]Example[/bold]: lowbit-dtp sweep sweep.toml --out sweeps/wires
    """
    from hw_models.sweep import Sweep, compute, read_rows

    from ..storage import locked
    from ..sweeps import PAGE, TABLE, fronts, notes, run_sources, write_page

    wanted = Sweep.read(file, (*AXES, *ONE))
    estimates = estimate_sources(wanted)
    with locked(out):
        made = found = 0
        for computed, known in compute(wanted, chain(run_sources(wanted), estimates), out / TABLE):
            made, found = made + computed, found + known
        rows = read_rows(out / TABLE)
        write_page(out / PAGE, wanted, rows)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_fronts(fronts(rows, wanted.objectives))
    for note, number in notes(rows).items():
        print(f"{number} points have no price: {note}")
    print(f"{made} points computed, {found} were there: {out / TABLE}, {out / PAGE}")


def estimate_sources(sweep: "Sweep") -> "list[Source]":
    """The ledgers of each combination of options that `sweep` estimates. StorageError names the file and the option."""
    from ..storage import StorageError

    try:
        return list(_estimate_sources(sweep)) if sweep.estimates else []
    except (ValueError, OSError) as error:
        raise StorageError(f"{sweep.path}: estimates: {error}") from None


def _estimate_sources(sweep: "Sweep") -> "Iterator[Source]":
    from hw_models.sweep import Source, combinations

    from ..comparison import deployed_untrained
    from ..data import is_path
    from ..estimation import ACTIVITY, estimate
    from ..sweeps import described

    single: dict[str, Any] = {}
    for name, kind in ONE.items():
        values = sweep.estimates.get(name, ())
        if len(values) > 1:
            raise ValueError(f"{name} must be one value, since the table has no column for it, not {', '.join(values)}")
        try:
            if values:
                single[name] = kind(values[0])
        except ValueError:
            raise ValueError(f"{name} must be a {'whole ' * (kind is int)}number, not {values[0]!r}") from None
    activity = single.pop("activity", ACTIVITY)
    for row in combinations({name: sweep.estimates[name] for name in AXES if name in sweep.estimates}):
        given: dict[str, Any] = {"rule": "dtp"} | row
        given |= {name: options.split(row[name]) for name in ("link", "weight") if name in row}
        if "data" in row and is_path(row["data"]):
            given["data"] = str(sweep.folder / row["data"])
        experiment, outline, _ = asked(**given, **single)
        made = estimate(experiment, data=outline, activity=activity)
        exported, _ = deployed_untrained(made.inference)
        settings = {"run": "", **described(experiment), "measure": ""}
        origin = repr((experiment, outline, activity))
        yield Source(settings, origin, partial(dict, training=made.training, inference=exported))
