"""`lowbit-dtp price`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import TECHNOLOGIES, Json, PlacementOption, Rule, Run, Seed, Technologies, split
from .printing import print_bands, print_bills, print_tornado


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
    against: Annotated[
        str | None,
        typer.Option("--against", help="Also the ratio to this rule of RUN, or to the run in another folder."),
    ] = None,
    tornado: Annotated[bool, typer.Option("--tornado", help="List the constants that move the answer most.")] = False,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Folder to draw these lists into, as SVG.", metavar="FOLDER")
    ] = None,
    draws: Annotated[int, typer.Option("--draws", help="Draws of all constants, for the 90 % bands.")] = 10_000,
    draws_seed: Annotated[int, typer.Option("--draws-seed", help="Seed of these draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Print joules per sample, in training and in inference, by link, layer and memory, with their range.

    [bold]Examples[/bold]

      lowbit-dtp price runs/demo --rule dtp --technology 7nm --placement h1-h2=board --reuse 50

      lowbit-dtp price runs/demo --rule dtp --against straight-through --tornado
    """
    from hw_models import Technology, price, with_weights

    from .. import bands
    from .. import ledger as ledgers
    from ..comparison import break_even, placement_of
    from ..figures import save_figure, tornado_figure
    from ..runs import folder_name, run_folders

    runs = run_folders(run, rule, seed)
    where = placement_of(_recorded_placement(run) if placement is None else placement,
                       memory=memory, reuse=reuse, word_bits=word_bits)  # fmt: skip
    loaded = [(spec, ledgers.load(folder / "ledger.json")) for spec, _, folder in runs]
    where.check(ledgers.merged(book for _, books in loaded for book in books.values()))
    compared = [(spec, ledgers.load(folder / "ledger.json")) for spec, folder in _compared_runs(run, against, seed)]

    def priced(loaded: list[tuple[str, dict[str, ledgers.Ledger]]]) -> list[tuple[bands.Priced, ledgers.Ledger]]:
        result = []
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
                    result.append((bands.Priced(spec, use, bill), book))
        return result

    others = [each for each, _ in priced(compared)]
    result = []
    for each, book in priced(loaded):
        row = {"rule": each.rule, "use": each.use, **each.bill.as_dict(), "break_even_gradient_bits": break_even(book)}
        row["bands"] = bands.bands(each, others, draws, draws_seed)
        if tornado or figures:
            row["tornado"] = moved = bands.tornado(each, others)
            if figures and moved:
                name = f"{folder_name(each.rule)}-{each.use}-{each.bill.technology}.svg"
                save_figure(tornado_figure(moved), figures / name)
        result.append(row)
    if as_json:
        print(json.dumps(result, indent=1, default=asdict))
        return
    print_bills(result)
    print_bands(result)
    if tornado:
        for row in result:
            print_tornado(row["tornado"])


def _compared_runs(run: Path, against: str | None, seed: int | None) -> list[tuple[str, Path]]:
    """Rules and folders of the runs that `against` names: a rule of `run`, or another folder."""
    from ..runs import run_folders

    if against is None:
        return []
    rules = dict.fromkeys(spec for spec, _, _ in run_folders(run))
    if against not in rules and not Path(against).exists():
        raise ValueError(f"--against {against}: no such folder, and no rule of {run}; there are: {', '.join(rules)}")
    found = run_folders(run, against, seed) if against in rules else run_folders(Path(against), None, seed)
    return [(spec, folder) for spec, _, folder in found]


def _recorded_placement(run: Path) -> str:
    from ..storage import read_json

    path = Path(run) / "summary.json"
    return str(read_json(path).get("placement", "")) if path.exists() else ""
