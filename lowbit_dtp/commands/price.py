"""`lowbit-dtp price`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import TECHNOLOGIES, Json, Memory, PlacementOption, Reuse, Rule, Run, Seed, Technologies, split
from .printing import print_bills


def price(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    technology: Technologies = TECHNOLOGIES,
    placement: PlacementOption = None,
    memory: Memory = "sram",
    reuse: Reuse = "1",
    word_bits: Annotated[int, typer.Option("--word-bits", help="Pad each message to words of so many bits.")] = 1,
    feedback_weights: Annotated[
        str, typer.Option("--feedback-weights", help="End of a link where its feedback weights are: h1-h2=upper.")
    ] = "",
    weights: Annotated[
        str | None, typer.Option("--weights", help="Price inference with weights of this format.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write a table: one row for each constant in each line of the bills.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Price inference also as it was simulated, with floats and functions.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print joules per sample, in training and in inference, by link, layer and memory, with their range.

    Inference is that of the exported network: whole numbers and thresholds.

    [bold]Example[/bold]: lowbit-dtp price runs/demo --rule dtp --technology 7nm --placement h1-h2=board --reuse 50
    """
    from hw_models import Technology, price
    from hw_models.hardware import parsed_choices, parsed_table

    from .. import ledger as ledgers
    from ..comparison import break_even, deployed, placement_of
    from ..runs import run_folders
    from ..storage import write_csv

    runs = run_folders(run, rule, seed)
    where = placement_of(
        _recorded_placement(run) if placement is None else placement,
        memory=parsed_choices(memory, "--memory", str), reuse=parsed_choices(reuse, "--reuse", float),
        word_bits=word_bits, feedback_weights=parsed_table(feedback_weights, "--feedback-weights", str, "h1-h2=upper"),
    )  # fmt: skip
    loaded = [(spec, folder, ledgers.load(folder / "ledger.json")) for spec, _, folder in runs]
    where.check(ledgers.merged(book for *_, books in loaded for book in books.values()))
    result, rows, notes = [], [], {}
    for spec in dict.fromkeys(spec for spec, *_ in loaded):
        books = [each for other, _, each in loaded if other == spec]
        folder = next(folder for other, folder, _ in loaded if other == spec)
        training, inference = (ledgers.merged(b[use] for b in books) for use in ("training", "inference"))
        exported, why_not = deployed(inference, folder / "network.safetensors", weights)
        uses = {"training": training, "inference": exported}
        if why_not:
            notes[spec] = why_not
        elif simulated:
            uses["inference as simulated"] = inference
        for use, book in uses.items():
            if not book.samples:  # with 0 epochs there is no training to price
                continue
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
        return
    print_bills(result)
    for spec, why in notes.items():
        print(f"{spec}: inference is priced as simulated, since it cannot be exported: {why}")


def _recorded_placement(run: Path) -> str:
    from ..storage import read_json

    path = Path(run) / "summary.json"
    return str(read_json(path).get("placement", "")) if path.exists() else ""
