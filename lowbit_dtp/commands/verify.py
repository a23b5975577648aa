"""`lowbit-dtp verify`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .printing import print_result


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of an export.", metavar="FOLDER")], as_json: Json = False
) -> None:
    """Check that the files of an export are those that were written, and verify it with its golden vectors.

    A file that has changed fails with the link and the neuron, or else the line, that the change is of.

    [bold]Example[/bold]: lowbit-dtp verify runs/demo/export-c
    """
    from export import verified

    outcome = verified(folder)
    print_result({"folder": str(folder), **outcome.as_dict()}, as_json)
    if outcome.status.startswith("failed"):
        raise typer.Exit(1)
