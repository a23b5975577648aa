"""`lowbit-dtp price`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import TECHNOLOGIES, Json, Memory, PlacementOption, Reuse, Rule, Run, Seed, Technologies, split
from .printing import print_bands, print_bills, print_tornado

if TYPE_CHECKING:
    from hw_models import HardwareConfig

    from ..bands import Priced
    from ..ledger import Ledger


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
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Price inference also as it was simulated, with floats and functions.")
    ] = False,
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

    Inference is that of the exported network: whole numbers and thresholds.

    [bold]Examples[/bold]

      lowbit-dtp price runs/demo --rule dtp --technology 7nm --placement h1-h2=board --reuse 50

      lowbit-dtp price runs/demo --rule dtp --against straight-through --tornado
    """
    from hw_models.hardware import parsed_choices, parsed_table

    from .. import bands
    from .. import ledger as ledgers
    from ..comparison import break_even, placement_of
    from ..figures import save_figure, tornado_figure
    from ..runs import folder_name, run_folders

    where = placement_of(
        _recorded_placement(run) if placement is None else placement,
        memory=parsed_choices(memory, "--memory", str), reuse=parsed_choices(reuse, "--reuse", float),
        word_bits=word_bits, feedback_weights=parsed_table(feedback_weights, "--feedback-weights", str, "h1-h2=upper"),
    )  # fmt: skip
    loaded = _loaded(run_folders(run, rule, seed))
    where.check(ledgers.merged(book for *_, books in loaded for book in books.values()))
    priced, notes = _priced(loaded, where, split(technology), weights, simulated)
    compared, _ = _priced(_loaded(_compared_runs(run, against, seed)), where, split(technology), weights, simulated)
    others = [each for each, _ in compared]
    result = []
    for each, book in priced:
        row = {"rule": each.rule, "use": each.use, **each.bill.as_dict(), "break_even_gradient_bits": break_even(book)}
        row["bands"] = bands.bands(each, others, draws, draws_seed)
        if tornado or figures:
            row["tornado"] = moved = bands.tornado(each, others)
            if figures and moved:
                name = f"{folder_name(each.rule)}-{each.use.replace(' ', '-')}-{each.bill.technology}.svg"
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
    for spec, why in notes.items():
        print(f"{spec}: inference is priced as simulated, since it cannot be exported: {why}")


_Loaded = tuple[str, Path, "dict[str, Ledger]"]
"""Rule, folder and ledgers of a run."""


def _loaded(runs: Sequence[tuple[str, int, Path]]) -> list[_Loaded]:
    from .. import ledger as ledgers

    return [(spec, folder, ledgers.load(folder / "ledger.json")) for spec, _, folder in runs]


def _priced(
    loaded: Sequence[_Loaded],
    where: "HardwareConfig",
    technologies: Sequence[str],
    weights: str | None,
    simulated: bool,
) -> "tuple[list[tuple[Priced, Ledger]], dict[str, str]]":
    """Bills of each rule, use and technology, with their ledgers; and why a rule's inference cannot be exported."""
    from hw_models import Technology, price

    from .. import ledger as ledgers
    from ..bands import Priced
    from ..comparison import deployed

    result, notes = [], {}
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
            for name in technologies:
                bill = price(book, where.within(book), Technology.load(name)).per("sample")
                result.append((Priced(spec, use, bill), book))
    return result, notes


def _compared_runs(run: Path, against: str | None, seed: int | None) -> list[tuple[str, int, Path]]:
    """The runs that `against` names: those of a rule of `run`, or of another folder."""
    from ..runs import run_folders

    if against is None:
        return []
    rules = dict.fromkeys(spec for spec, _, _ in run_folders(run))
    if against not in rules and not Path(against).exists():
        raise ValueError(f"--against {against}: no such folder, and no rule of {run}; there are: {', '.join(rules)}")
    return run_folders(run, against, seed) if against in rules else run_folders(Path(against))


def _recorded_placement(run: Path) -> str:
    from ..storage import read_json

    path = Path(run) / "summary.json"
    return str(read_json(path).get("placement", "")) if path.exists() else ""
