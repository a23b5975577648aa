"""`lowbit-dtp sweep`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .printing import print_fronts


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

    asked = Sweep.read(file, ())
    with locked(out):
        made = found = 0
        for computed, known in compute(asked, run_sources(asked), out / TABLE):
            made, found = made + computed, found + known
        rows = read_rows(out / TABLE)
        write_page(out / PAGE, asked, rows)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_fronts(fronts(rows, asked.objectives))
    for note, number in notes(rows).items():
        print(f"{number} points have no price: {note}")
    print(f"{made} points computed, {found} were there: {out / TABLE}, {out / PAGE}")
