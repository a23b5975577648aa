"""`lowbit-dtp estimate`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .machines import OnMachine, is_file, time_of, told
from .printing import PARTS, print_bands, print_facts, print_table, print_text

if TYPE_CHECKING:
    from hw_models import HardwareConfig, Technology

    from ..bands import Priced
    from ..data import Outline
    from ..estimation import Estimate
    from ..experiment import Comparison, Experiment
    from ..ledger import Ledger


def estimate(
    data: options.Data = None,
    rule: options.Spec = "dtp",
    epochs: options.Epochs = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    batch: options.Batch = None,
    sizes: options.Sizes = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Training samples.  (default: those of --data; without it, 50000)")
    ] = None,
    activation: options.Activation = None,
    link: options.Links = None,
    weight: options.FewBitWeights = None,
    gradient: options.Gradient = None,
    optimizer: options.Optimizer = None,
    settings: options.Set = None,
    activity: Annotated[
        float, typer.Option("--activity", help="Fraction of bits that are 1; 2p(1-p) of the wires then toggle.")
    ] = 0.5,
    like: Annotated[
        Path | None,
        typer.Option("--like", help="Run whose ones and toggles a bit are taken where messages match.", metavar="RUN"),
    ] = None,
    technology: options.Technologies = options.TECHNOLOGIES,
    machine: options.OfMachine = None,
    placement: options.PlacementOption = None,
    memory: options.Memory = "sram",
    reuse: options.Reuse = "1",
    word_bits: options.WordBits = 1,
    feedback_weights: options.FeedbackEnds = "",
    weights: options.Weights = None,
    baselines: options.Baselines = True,
    split: options.Split = None,
    wire: Annotated[
        str, typer.Option("--wire", help="What joins the ranks of --split: bits a second, and latency.")
    ] = "1Gbit/s,100us",
    rank_rate: Annotated[
        float, typer.Option("--rank-rate", help="Multiply-accumulates a second of each rank of --split.")
    ] = 1e10,
    save: Annotated[Path | None, typer.Option("--save", help="File to write the ledgers to, ledger.json say.")] = None,
    as_json: options.Json = False,
) -> None:
    """Say what training would send, compute and cost, without training: from shapes alone, for networks of any size.

    Messages, bits, operations and memory accesses are those of a run to the last count; ones and toggles are assumed.
    With --sizes and no --data, the data is taken to have as many inputs and classes, 50,000 samples to train on and
    10,000 to test with.

    [bold]Examples[/bold]

      lowbit-dtp estimate --sizes 784-500-500-10 --rule dtp --link h1-h2=binary

      lowbit-dtp estimate --data mnist --rule dtp --machine loihi
    """
    from hw_models import Technology

    from .. import ledger as ledgers
    from ..baselines import baselines_of
    from ..comparison import deployed_untrained
    from ..estimation import estimate as estimate_ledgers
    from ..runs import rule_of
    from ..summary import link_rows

    experiment, outline, comparison = asked(
        data, config, rule=rule, gradient=gradient, samples=samples, data_dir=data_dir, epochs=epochs, batch=batch,
        sizes=sizes, link=link, activation=activation, optimizer=optimizer, settings=settings, weight=weight,
    )  # fmt: skip
    wires = comparison.placement if experiment.data and not machine else ""
    wires = wires if placement is None else placement
    where = options.hardware("" if is_file(wires) else wires, memory, reuse, word_bits, feedback_weights)
    made = estimate_ledgers(experiment, data=outline, activity=activity, like=like)
    where.check(ledgers.merged(made.ledgers.values()))
    ranks = _on_ranks(experiment, outline, split, wire, rank_rate) if split else None
    exported, why_not = deployed_untrained(made.inference, weights)
    books, own = {"training": made.training, "inference": exported}, rule_of(experiment)
    on = OnMachine(machine, wires, where) if machine else None
    times: list[str] = []
    if on:
        placed = on.price([(own, use, book) for use, book in books.items()])
        bills = [each for each, *_ in placed]
        beside, known = None, []
        times = [f"{each.use}: {told(time_of(each.bill, time))}" for each, _, time in placed]
        times += [f"{use} is not priced: {why}" for (_, use), why in on.refused.items()]
        times += list(dict.fromkeys(note for each in bills for note in each.bill.notes))
    else:
        processes = [Technology.load(name) for name in options.technologies(technology)]
        bills = _bills(own, books, where, processes)
        beside = baselines_of(experiment, outline, activity=activity, like=like) if baselines else None
        known = beside.priced(where, processes) if beside else []
    result = {
        "experiment": asdict(experiment),
        "settings_of": comparison.content["data"],
        "data": asdict(outline),
        "links": {link: asdict(row) for link, row in link_rows(**made.ledgers).items()},
        "operations": _a_sample(made, lambda ledger: ledger.work.items(), ("operation", "left", "right")),
        "memory_words": _a_sample(made, lambda ledger: ledger.accesses.items(), ("operation", "format")),
        "joules": _joules(bills),
        "bands": _bands([each.per_sample for each in bills], books, known),
        "without": beside.missing if beside else {},
        "placement": (bills[0].bill.config if on else where).as_dict(),
        "notes": times,
        "not_exported": why_not,
        "ranks": ranks,
        "assumed": made.assumptions(),
        "saved": str(save) if save else None,
    }
    if save:
        made.save(save)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _print(outline, made, result)


def _on_ranks(experiment: "Experiment", data: "Outline", split: str, wire: str, rate: float) -> dict[str, Any]:
    """What each wire between ranks would carry a step, what each rank would compute, and how long a step would take."""
    from ..distributed.planning import Wire, plan

    joined = Wire.parse(wire)
    if not 0 < rate < float("inf"):
        raise ValueError(f"--rank-rate must be above 0, not {rate}")
    made = plan(experiment, split, data)
    turns, overlapped = made.turns(joined, rate), made.overlapped(joined, rate)
    return {
        "split": split,
        "wire": wire,
        "operations_per_second": rate,
        "steps_per_epoch": made.steps,
        "seconds_per_step": {"taking_turns": turns, "all_overlapping": overlapped},
        "crossings": [
            asdict(x) | {"direction": str(x.direction), "size": x.size, "bits_per_second": 8 * x.size / turns}
            for x in made.crossings
        ],
        "ranks": [asdict(x) for x in made.ranks],
    }


def asked(
    data: str | None = None, config: Path | None = None, *, rule: str, gradient: str | None = None,
    samples: int | None = None, data_dir: Path | None = None, sizes: str | None = None,
    link: Sequence[str] | None = None, optimizer: str | None = None, settings: Sequence[str] | None = None, **more: Any,
) -> tuple["Experiment", "Outline", "Comparison"]:  # fmt: skip
    """The experiment that the options describe, the sizes of its data, and the experiments that it is one of.

    With sizes and no data, the experiment has none, and the sizes of the data are assumed.
    """
    from ..data import outline
    from ..estimation import data_for

    comparison = options.comparison_of(
        data, config, sizes=sizes, link=link, optimizer=optimizer, learning_rate=None, settings=settings, **more
    )
    experiment = comparison.experiment(options.with_gradient(rule, gradient) if gradient else rule, 0)
    if sizes and data is None and config is None:
        experiment = replace(experiment, data="")
        known = data_for(experiment.sizes, experiment.learned_task())
    else:
        known = outline(experiment.data, data_dir)
    return experiment, known if samples is None else replace(known, train=samples), comparison


def _a_sample(made: "Estimate", counts: Callable[["Ledger"], Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Counts of a training sample and of an inference, of all layers together, in rows by `keys`."""
    rows: dict[tuple[Any, ...], dict[str, int]] = {}
    for use, ledger in made.ledgers.items():
        for kind, number in counts(ledger):
            row = rows.setdefault(tuple(getattr(kind, key) for key in keys), dict.fromkeys(made.ledgers, 0))
            row[use] += number
    samples = {use: max(1, ledger.samples) for use, ledger in made.ledgers.items()}  # with 0 epochs, none is trained on
    return [
        dict(zip(keys, key, strict=True)) | {use: number / samples[use] for use, number in row.items()}
        for key, row in rows.items()
    ]


def _bills(
    rule: str, books: Mapping[str, "Ledger"], where: "HardwareConfig", technologies: "Sequence[Technology]"
) -> "list[Priced]":
    """The bills of ledgers on each technology; with 0 epochs there is no training to price."""
    from hw_models import price

    from ..bands import Priced

    return [
        Priced(rule, use, price(book, where.within(book), technology))
        for technology in technologies
        for use, book in books.items()
        if book.samples
    ]


def _joules(bills: "Sequence[Priced]") -> list[dict[str, Any]]:
    """The bill of a training sample, step and epoch, and of an inference; of a bill of one sample, that."""
    rows = []
    for each in bills:
        units = ("sample",) if each.use == "inference" or each.bill.unit == "sample" else ("sample", "step", "epoch")
        for unit in units:
            own = each.bill if each.bill.unit == unit else each.bill.per(unit)
            parts = {part: asdict(joules) for part, joules in own.by("part").items()}
            named = {"technology": own.technology, "use": each.use, "unit": unit}
            rows.append({**named, "total": asdict(own.total), "by_part": parts})
    return rows


def _bands(
    bills: "Sequence[Priced]", books: Mapping[str, "Ledger"], baselines: "Sequence[Priced]"
) -> list[dict[str, Any]]:
    """90 % bands of the bill of a sample, and its baselines with theirs."""
    from hw_models.uncertainty import DRAWS

    from .. import bands
    from ..baselines import FIRST
    from ..comparison import break_even

    beside = {each.rule: baselines for each in bills} if baselines else {}
    return [
        {
            "rule": each.rule,
            "use": each.use,
            "technology": each.bill.technology,
            **bands.total_and_share(each.bill),
            "break_even_gradient_bits": break_even(books[each.use]),
            **row,
        }
        for each, row in zip(bills, bands.rows(bills, [], beside, FIRST, DRAWS, 0), strict=True)
    ]


def _print(data: "Outline", made: "Estimate", result: Mapping[str, Any]) -> None:
    """The estimate as tables, after what it is for and what it assumes."""
    from ..ledger import OPERATIONS
    from ..report import si, si_range

    experiment, training, settings = result["experiment"], made.training, result["settings_of"]
    placed = result["placement"]
    wires = {**placed["links"], "rest" if placed["links"] else "all links": placed["rest"]}
    print(f"What {experiment['rule']} would send, compute and cost; nothing was trained.")
    facts = {
        "network": "-".join(map(str, experiment["sizes"])),
        "data": f"{data.name or 'assumed'}: {data.train:,} samples to train on, {data.test:,} to test with",
        "settings": f"of {settings}, where no option says otherwise" if settings != data.name else "",
        "training": f"epochs {training.epochs:,}, batch {experiment['batch']:,}: {training.steps:,} steps",
        "wires": ", ".join(f"{link}={wire}" for link, wire in wires.items()),
        "inference": f"priced as simulated, since it cannot be exported: {why_not}"
        if (why_not := result["not_exported"])
        else "priced as exported, with sums that cannot overflow",
        "assumed": "; ".join([_sources(made), *made.notes]),
    }
    print_facts(list(facts), list(facts.values()))
    links = []
    for name, row in result["links"].items():
        ways = row["forward"], row["feedback"]
        counts = ("bits_per_sample", "bits_per_inference")
        bits = (" / ".join(_number(way[count]) for way in ways) for count in counts)
        links.append((name, " / ".join(way["format"] or "-" for way in ways), *bits))
    print_table("Bits on links, up / down", ("link", "formats", "a training sample", "an inference"), links, left=2)
    work = sorted(result["operations"], key=lambda row: OPERATIONS.index(row["operation"]))
    rows = [(row["operation"], " x ".join(filter(None, (row["left"], row["right"]))), row) for row in work]
    words = sorted(result["memory_words"], key=lambda row: row["operation"])
    rows += [(f"{row['operation']} words", row["format"], row) for row in words]
    print_table(
        "Operations and memory accesses of a sample", ("operation", "formats", "training", "inference"),
        [(*names, _number(row["training"]), _number(row["inference"])) for *names, row in rows], left=2,
    )  # fmt: skip
    for technology in dict.fromkeys(row["technology"] for row in result["joules"]):
        lines, shown = [], [x for x in result["joules"] if x["technology"] == technology]
        charged = [part for part in PARTS if any(part in row["by_part"] for row in shown)]
        for row in shown:
            total, parts = row["total"], [row["by_part"].get(part) for part in charged]
            lines.append([
                _ONE[row["use"], row["unit"]],
                si(total["typical"], "J"), si_range(total["low"], total["high"], "J"),
                *(si(part["typical"], "J") if part else "0" for part in parts),
            ])  # fmt: skip
        columns = ("for", "typical", "low to high", *(PARTS[part] for part in charged))
        print_table(f"Joules on {technology}", columns, lines)
    print_bands(result["bands"])
    if result["ranks"]:
        _print_ranks(result["ranks"])
    for note in result["notes"]:
        print_text(note)
    for name, why in result["without"].items():
        print_text(f"{name} is not beside it: {why}")
    if result["saved"]:
        print(f"ledgers   {result['saved']}")


_SHOWN = 8
"""Wires and ranks that are shown; the rest is in the JSON."""


def _print_ranks(ranks: Mapping[str, Any]) -> None:
    from ..report import si

    def cut(rows: list[tuple[Any, ...]], what: str) -> list[tuple[Any, ...]]:
        left = len(rows) - _SHOWN
        return rows if left <= 0 else [*rows[:_SHOWN], (f"{left:,} more {what}", *[""] * (len(rows[0]) - 1))]

    crossings = sorted(ranks["crossings"], key=lambda x: -x["size"])
    print_table(
        "Between ranks, a step of training", ("link", "ranks", "messages", "bytes", "a second"),
        cut([
            (f"{x['link']} {x['direction']}", f"{x['sender']} to {x['receiver']}", _number(x["messages"]),
             _number(x["size"]), si(x["bits_per_second"], "bit/s"))
            for x in crossings
        ], "wires"), left=2,
    )  # fmt: skip
    loads = sorted(ranks["ranks"], key=lambda x: -x["operations"])
    print_table(
        "On ranks, a step of training", ("rank", "layers", "multiply-accumulates", "parameters"),
        cut([
            (str(x["rank"]), ", ".join(x["layers"]), _number(x["operations"]), _number(x["parameters"])) for x in loads
        ], "ranks"), left=2,
    )  # fmt: skip
    times = ranks["seconds_per_step"]
    print_text(
        f"A step takes {si(times['taking_turns'], 's')} if ranks and wires take turns, as they do, and no less than "
        f"{si(times['all_overlapping'], 's')} if all overlap, with wires of {ranks['wire']} and "
        f"{ranks['operations_per_second']:g} multiply-accumulates a second on each rank."
    )


_ONE = {
    ("training", "sample"): "a sample",
    ("training", "step"): "a step",
    ("training", "epoch"): "an epoch",
    ("inference", "sample"): "an inference",
}


def _sources(made: "Estimate") -> str:
    """Where ones and toggles come from, in words."""
    rows = [row for row in made.assumptions() if "note" not in row]
    sources = dict.fromkeys(row["ones_and_toggles"] for row in rows)
    if len(sources) == 1:
        return f"ones and toggles: {next(iter(sources))}"
    counted = [source for source in sources if not source.startswith("activity ")]
    others = dict.fromkeys(
        f"{row['link']} {row['direction']} {row['purpose']!r}" for row in rows if row["ones_and_toggles"] not in counted
    )
    (activity,) = (source for source in sources if source not in counted)
    return f"ones and toggles: {counted[0]}; {activity} for {', '.join(others)}"


def _number(x: float) -> str:
    """A count, whole or rounded.

    >>> _number(2500.0), _number(12.25), _number(0.0), _number(112351.2), _number(3.2e15)
    ('2,500', '12.25', '0', '112,351', '3.2e+15')
    """
    if x >= 1e12:
        return f"{x:.4g}"
    return f"{x:,.0f}" if x == int(x) or x >= 1000 else f"{x:.2f}"
