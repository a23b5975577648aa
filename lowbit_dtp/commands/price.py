"""`lowbit-dtp price`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .machines import OnMachine, is_file, time_of, told
from .options import (
    TECHNOLOGIES,
    Baselines,
    FeedbackEnds,
    Json,
    Memory,
    OfMachine,
    PlacementOption,
    Reuse,
    Rule,
    Run,
    Seed,
    Technologies,
    WordBits,
    hardware,
    technologies,
    weights_by_layer,
)
from .printing import print_bands, print_bills, print_text, print_tornado

if TYPE_CHECKING:
    from hw_models import HardwareConfig, Technology

    from ..bands import Priced
    from ..ledger import Ledger


def price(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    technology: Technologies = TECHNOLOGIES,
    machine: OfMachine = None,
    placement: PlacementOption = None,
    memory: Memory = "sram",
    reuse: Reuse = "1",
    word_bits: WordBits = 1,
    feedback_weights: FeedbackEnds = "",
    coding: Annotated[
        str, typer.Option("--coding", help="Coding of links that a run counted: h1-h2=best, h1-h2.feedback=silence.")
    ] = "",
    weights: Annotated[
        str | None, typer.Option("--weights", help="Price inference with weights of this format, or h1=4,output=8.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Price inference also as it was simulated, with floats and functions.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Ratios to this rule of RUN, to the run in another folder, or to a baseline."),
    ] = None,
    tornado: Annotated[bool, typer.Option("--tornado", help="List the constants that move the answer most.")] = False,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Folder to draw these lists into, as SVG.", metavar="FOLDER")
    ] = None,
    baselines: Baselines = True,
    draws: Annotated[int, typer.Option("--draws", help="Draws of all constants, for the 90 % bands.")] = 10_000,
    draws_seed: Annotated[int, typer.Option("--draws-seed", help="Seed of these draws.")] = 0,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write a table: one row for each constant in each line of the bills.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print joules per sample, in training and in inference, by link, layer and memory, with their range.

    Inference is that of the exported network: whole numbers and thresholds.

    [bold]Examples[/bold]

      lowbit-dtp price runs/demo --rule dtp --technology 7nm --placement h1-h2=board --reuse 50

      lowbit-dtp price runs/demo --rule dtp --against straight-through --tornado

      lowbit-dtp price runs/demo --machine loihi --placement my-cores.toml
    """
    from hw_models import Technology
    from hw_models.timing import roofline

    from .. import bands
    from ..baselines import FIRST
    from ..comparison import break_even
    from ..figures import roofline_figure, save_figure, tornado_figure
    from ..ledger import merged
    from ..runs import folder_name, run_folders
    from ..storage import write_csv

    processes = [] if machine else [Technology.load(name) for name in technologies(technology)]
    runs = [(spec, folder) for spec, _, folder in run_folders(run, rule, seed)]
    compared = _compared_runs(run, against, seed)
    wires = _recorded_placement(run) if placement is None and not machine else placement or ""
    where = hardware("" if is_file(wires) else wires, memory, reuse, word_bits, feedback_weights, coding)
    books, notes = _books(runs, weights, simulated)
    where.check(merged(book for *_, book in books))
    on = OnMachine(machine, wires, where) if machine else None
    price_all = on.price if on else partial(_priced, where=where, processes=processes)
    priced = price_all(books)
    others = [each for each, *_ in price_all(_books(compared, weights, simulated)[0])]
    beside, missing = _baselines(runs, books, run, where, processes) if baselines and not on else ({}, {})
    more = bands.rows([each for each, *_ in priced], others, beside, against or FIRST, draws, draws_seed)
    result, rows = [], []
    for (each, book, time), row in zip(priced, more, strict=True):
        rows += [{"rule": each.rule, "use": each.use, **line} for line in each.bill.rows()]
        even = {"break_even_gradient_bits": break_even(book)}
        result.append({"rule": each.rule, "use": each.use, **each.bill.as_dict(), **even, **row})
        if time:
            result[-1]["time"] = time_of(each.bill, time)
            if figures and (drawn := roofline(time)):
                name = f"{folder_name(f'{each.rule}-{each.use}')}-{each.bill.technology}-roofline.svg"
                save_figure(roofline_figure(drawn), figures / name)
        if tornado or figures:
            known = others or [x for x in beside.get(each.rule, ()) if x.rule == against]
            result[-1]["tornado"] = moved = bands.tornado(each, known)
            if figures and moved:
                name = f"{folder_name(f'{each.rule}-{each.use}')}-{each.bill.technology}.svg"
                save_figure(tornado_figure(moved), figures / name)
    if csv:
        write_csv(csv, rows)
    if as_json:
        print(json.dumps(result, indent=1, default=asdict))
        return
    print_bills(result)
    print_bands(result)
    if tornado:
        for row in result:
            print_tornado(row["tornado"])
    if on:
        for row in result:
            print_text(f"{row['rule']}, {row['use']}, {row['technology']}: {told(row['time'])}")
        for note in dict.fromkeys(note for row in result for note in row["notes"]):
            print_text(note)
        for (spec, use), why in on.refused.items():
            print_text(f"{spec}: {use} is not priced: {why}")
    for spec, why in notes.items():
        print_text(f"{spec}: inference is priced as simulated, since it cannot be exported: {why}")
    for name, why in missing.items():
        print_text(f"{name} is not beside it: {why}")


def _books(
    runs: Sequence[tuple[str, Path]], weights: str | None, simulated: bool
) -> tuple[list[tuple[str, str, "Ledger"]], dict[str, str]]:
    """Rule, use and ledger of what is priced, over all seeds of a rule; and why rules are not priced as exported."""
    from .. import ledger as ledgers
    from ..comparison import deployed

    books: list[tuple[str, str, Ledger]] = []
    notes = {}
    for rule in dict.fromkeys(rule for rule, _ in runs):
        folders = [folder for other, folder in runs if other == rule]
        loaded = [ledgers.load(folder / "ledger.json") for folder in folders]
        training, inference = (ledgers.merged(book[use] for book in loaded) for use in ("training", "inference"))
        formats = weights_by_layer(weights)
        exported, why_not = deployed(inference, folders[0] / "network.safetensors", formats)
        books += [(rule, "training", training), (rule, "inference", exported)]
        if why_not:
            notes[rule] = why_not
        elif simulated:
            books.append((rule, "inference as simulated", inference))
    return books, notes


def _priced(
    books: Sequence[tuple[str, str, "Ledger"]], where: "HardwareConfig", processes: Sequence["Technology"]
) -> list[tuple["Priced", "Ledger", None]]:
    """The bills of ledgers on each technology, a sample; with 0 epochs there is no training to price."""
    from hw_models import price

    from ..bands import Priced

    return [
        (Priced(rule, use, price(book, where.within(book), process).per("sample")), book, None)
        for rule, use, book in books
        if book.samples
        for process in processes
    ]


def _baselines(
    runs: Sequence[tuple[str, Path]],
    books: Sequence[tuple[str, str, "Ledger"]],
    like: Path,
    where: "HardwareConfig",
    processes: Sequence["Technology"],
) -> tuple[dict[str, list["Priced"]], dict[str, str]]:
    """Bills of the baselines of each rule, one list for all rules of one network; and why there is none of some."""
    from ..baselines import Baselines as BaselineLedgers
    from ..baselines import baselines_of, data_of, same_network
    from ..experiment import Experiment

    found: list[tuple[BaselineLedgers, list[Priced]]] = []
    by_rule, missing = {}, {}
    ledgers = {(rule, use): book for rule, use, book in books}
    for rule, folder in dict(reversed(runs)).items():
        training = ledgers[rule, "training"]
        if training.samples and not training.batch:
            missing[f"Backpropagation for {rule}"] = "its ledger is of an older version, which counted fewer accesses"
            continue
        experiment = Experiment.load(folder / "experiment.toml")
        bills = next((bills for made, bills in found if same_network(made.experiment, experiment)), None)
        if bills is None:
            made = baselines_of(experiment, data_of(experiment, training, ledgers[rule, "inference"]), like=like)
            found.append((made, bills := made.priced(where, processes)))
            missing |= made.missing
        by_rule[rule] = bills
    return by_rule, missing


def _compared_runs(run: Path, against: str | None, seed: int | None) -> list[tuple[str, Path]]:
    """Rules and folders of the runs that `against` names: a rule of `run`, or another folder. None for a baseline."""
    from hw_models.baselines import BASELINES

    from ..runs import run_folders

    baselines = [baseline.name for baseline in BASELINES]
    if against is None or against in baselines:
        return []
    rules = dict.fromkeys(spec for spec, _, _ in run_folders(run))
    if against not in rules and not Path(against).exists():
        known = ", ".join([*rules, *baselines])
        raise ValueError(f"--against {against}: no such folder, and no rule of {run} or baseline; there are: {known}")
    found = run_folders(run, against, seed) if against in rules else run_folders(Path(against), None, seed)
    return [(spec, folder) for spec, _, folder in found]


def _recorded_placement(run: Path) -> str:
    from ..storage import read_json

    path = Path(run) / "summary.json"
    return str(read_json(path).get("placement", "")) if path.exists() else ""
