"""`lowbit-dtp price`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import TECHNOLOGIES, Json, PlacementOption, Rule, Run, Seed, Technologies, split
from .printing import print_bills


def price(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    technology: Technologies = TECHNOLOGIES,
    placement: PlacementOption = None,
    memory: Annotated[str, typer.Option("--memory", help="Where weights are kept: sram or dram.")] = "sram",
    reuse: Annotated[int, typer.Option("--reuse", help="Samples that one read of a weight serves.")] = 1,
    word_bits: Annotated[int, typer.Option("--word-bits", help="Pad each message to words of so many bits.")] = 1,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Price inference with weights of this format.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write a table: one row for each constant in each line of the bills.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print joules per sample, in training and in inference, by link, layer and memory, with their range.

    [bold]Example[/bold]: lowbit-dtp price runs/demo --rule dtp --technology 7nm --placement h1-h2=board --reuse 50
    """
    from hw_models import Technology, price, with_weights

    from .. import ledger as ledgers
    from ..comparison import break_even, placement_of
    from ..runs import run_folders
    from ..storage import write_csv

    runs = run_folders(run, rule, seed)
    where = placement_of(_recorded_placement(run) if placement is None else placement,
                       memory=memory, reuse=reuse, word_bits=word_bits)  # fmt: skip
    loaded = [(spec, ledgers.load(folder / "ledger.json")) for spec, _, folder in runs]
    where.check(ledgers.merged(book for _, books in loaded for book in books.values()))
    result, rows = [], []
    for spec in dict.fromkeys(spec for spec, _ in loaded):
        books = [each for other, each in loaded if other == spec]
        for use in ("training", "inference"):
            book = ledgers.merged(b[use] for b in books)
            if not book.samples:  # with 0 epochs there is no training to price
                continue
            if use == "inference" and weights:
                book = with_weights(book, weights)
            for name in split(technology):
                bill = price(book, where.within(book), Technology.load(name)).per("sample")
                rows += [{"rule": spec, "use": use, **row} for row in bill.rows()]
                result.append(
                    {"rule": spec, "use": use, **bill.as_dict(), "break_even_gradient_bits": break_even(book)}
                )
    if csv:
        write_csv(csv, rows)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print_bills(result)


def _recorded_placement(run: Path) -> str:
    from ..storage import read_json

    path = Path(run) / "summary.json"
    return str(read_json(path).get("placement", "")) if path.exists() else ""
