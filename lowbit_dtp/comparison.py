"""Comparisons: the same network trained by several rules, compared in error, bits and joules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .batches import Batch, train_all
from .choices import choose
from .experiment import Comparison, Experiment, ExperimentError
from .ledger import Direction, Ledger
from .network import link_names, long_link_names
from .observer import Observer
from .panel import baseline, cost, energy_tree, price_list, sample_counts
from .runs import folder_name, network_file, provenance, run_folders, save_curves, summary_row
from .storage import read_json, read_tensors
from .summary import Baseline, DataRow, ExportRow, Range, Row, Summary

if TYPE_CHECKING:
    from export import Trial
    from hw_models import Bill, HardwareConfig, Technology

    from .data import DataSet

TECHNOLOGIES = ("45nm", "7nm")
"""Default technologies for prices."""
BASELINE = "straight-through"
"""Rule whose gradients a reader of the report may give any width."""
GOLDEN_SAMPLES = 32
"""Test inputs that become golden vectors, beside those made for each neuron."""
CALIBRATION_SAMPLES = 1000
"""Training inputs on which exports choose the scales of weights of few bits."""


def compare(
    comparison: Comparison,
    folder: Path | str,
    *,
    data_dir: Path | None = None,
    technologies: Sequence[str] = TECHNOLOGIES,
    export: bool = True,
    weights: str | Mapping[str, str] | None = None,
    signals: str = "fixed(8,1)",
    device: str = "numpy",
    ensemble: int | None = None,
    diagnose: bool = False,
    jobs: int | None = 1,
    threads: int | None = None,
    dask: str = "",
    observer: Observer | None = None,
) -> Summary:
    """Train every rule and seed of `comparison` into `folder`; return the summary, and write it and a report there.

    The curves of all runs are written there, too, as `curves.csv`. Finished runs are not changed, and stopped runs
    continue. `jobs` runs are trained at once, each by so many `threads`, or the workers of a `dask` cluster train them;
    the results are the same: see `batches.train_all`. Joules are priced on `technologies`.
    With `export`, the first rule's network of seed 0 is exported as C, with weights and real-valued links in the
    formats `weights` (None: as they were trained, and fixed(8,1) for floats) and `signals`; if that fails, the summary
    has the reason. A `device` other than `numpy` trains `ensemble` seeds in one batch, or all. With `diagnose`, rules
    are diagnosed after each epoch: see `diagnosis`. Raises ValueError, before any training, if something cannot be
    run.
    """
    from hw_models import Technology

    from .backends.devices import usable
    from .data import load
    from .report import write_report

    folder, device, observer = Path(folder), usable(device), observer or Observer()
    rules = comparison.named_rules()
    seeds = range(comparison.seeds)
    if not rules or not seeds:
        raise ExperimentError("compare needs at least one rule and one seed")
    with comparison.naming("placement"):
        placement = placement_of(comparison.placement)
        for link in placement.links:
            if link not in long_link_names(comparison.content["sizes"]):
                choose("link", link, dict.fromkeys(link_names(comparison.content["sizes"])))
    processes = [Technology.load(name) for name in technologies]
    experiments = {rule: [comparison.experiment(rule, seed) for seed in seeds] for rule in rules}
    for experiment in (x for each in experiments.values() for x in each):
        experiment.built()  # raises errors before training
    data = load(comparison.content["data"], data_dir)
    runs = {rule: {seed: f"{folder_name(rule)}/seed-{seed}" for seed in seeds} for rule in rules}
    for rule in rules:
        observer.announce(rule, experiments[rule][0])
    at_a_time = 1 if device == "numpy" else ensemble or len(seeds)
    batches = []
    for rule in rules:
        for start in range(0, len(seeds), at_a_time):
            of = seeds[start : start + at_a_time]
            folders = tuple(folder / runs[rule][seed] for seed in of)
            batches.append(Batch(rule, tuple(experiments[rule][seed] for seed in of), folders))
    train_all(
        batches, data, observer, data_dir=data_dir, device=device, diagnose=diagnose, jobs=jobs, threads=threads,
        dask=dask,
    )  # fmt: skip
    rows, books = [], []
    for rule in rules:
        row, training, inference = summary_row(rule, folder, runs[rule], folder_name(rule))
        network = folder / runs[rule][0] / "network.safetensors"
        used, as_simulated = deployed(inference, network, weights, signals, calibration_inputs(data))
        rows.append(priced(replace(row, not_as_exported=as_simulated), training, used, placement, processes))
        books.append(training)
    rows = with_ratios(rows, books, placement, processes)
    exported, reason = None, "it was not requested"
    if export:
        exported, reason = _exported(rules[0], folder / runs[rules[0]][0], folder / "export", weights, signals, data)
    summary = Summary(
        rows=tuple(rows),
        network=experiments[rules[0]][0].network().describe(),
        data=_data_row(data),
        experiment=comparison.content,
        placement=comparison.placement,
        exported=exported,
        not_exported=reason,
        prices=price_list(
            processes, placement, rows, _baseline(experiments[rules[0]][0], rows, books, placement, processes)
        ),
        **provenance(),
    )
    summary.save(folder)
    save_curves(folder)
    write_report(folder)
    return summary


def summarize_run(folder: Path, technologies: Sequence[str] = TECHNOLOGIES, data_dir: Path | None = None) -> Summary:
    """The summary of a single run, with every link a default wire. Raises StorageError if `folder` is none."""
    from hw_models import Technology

    from .data import load

    [(rule, seed, _)] = run_folders(folder)
    experiment = Experiment.load(folder / "experiment.toml")
    row, training, inference = summary_row(rule, folder, {seed: "."})
    inference, as_simulated = deployed(inference, folder / "network.safetensors")
    processes, placement = [Technology.load(name) for name in technologies], placement_of("")
    row = priced(replace(row, not_as_exported=as_simulated), training, inference, placement, processes)
    _, network = read_tensors(folder / "network.safetensors")
    recorded = read_json(folder / "run.json")
    try:
        data = _data_row(load(experiment.data, data_dir))
    except (OSError, ValueError) as error:  # only the picture of the filters needs it
        data = DataRow(experiment.data, f"not found ({error})", None, network["links"][0]["forward"])
    return Summary(
        rows=(row,),
        network=network,
        data=data,
        experiment=asdict(experiment),
        placement="",
        exported=None,
        not_exported="this is a single run; lowbit-dtp export exports it",
        prices=price_list(processes, placement, [row], _baseline(experiment, [row], [training], placement, processes)),
        **{name: recorded[name] for name in ("command", "versions", "commit", "machine")},
    )


def with_ratios(
    rows: Sequence[Row], ledgers: Sequence[Ledger], placement: "HardwareConfig", technologies: "Sequence[Technology]"
) -> list[Row]:
    """`rows` with the bands of their joules divided by those of the first one that straight-through trained, if any."""
    from hw_models import price
    from hw_models.uncertainty import ratio

    trained = [row.rule for row, book in zip(rows, ledgers, strict=True) if book.samples]
    against = next((rule for rule in trained if rule.partition("@")[0] == BASELINE), "")
    found: dict[str, dict[str, Range]] = {row.rule: {} for row in rows}
    for technology in technologies if against else ():
        books = {row.rule: book for row, book in zip(rows, ledgers, strict=True) if row.rule in trained}
        bills = {rule: price(book, placement.within(book), technology).per("sample") for rule, book in books.items()}
        for rule, bill in bills.items():
            if rule != against:
                band = ratio(bill, bills[against])
                found[rule][technology.name] = Range(band.low, band.typical, band.high)
    return [replace(row, against=against if found[row.rule] else "", ratios=found[row.rule]) for row in rows]


def _straight_through(rows: Sequence[Row], ledgers: Sequence[Ledger]) -> Baseline | None:
    """The first of `rows` that straight-through trained, if any, as a baseline."""
    for row, ledger in zip(rows, ledgers, strict=True):
        if row.rule.partition("@")[0] == BASELINE and row.counts:
            return baseline(ledger, row.counts)
    return None


def _baseline(
    experiment: Experiment, rows: Sequence[Row], ledgers: Sequence[Ledger], placement: "HardwareConfig",
    technologies: "Sequence[Technology]",
) -> Baseline | None:  # fmt: skip
    """Straight-through, estimated for the network of `experiment` if no row is of it; None if it cannot learn that."""
    from hw_models import price

    from .baselines import as_baseline, data_of
    from .estimation import estimate

    if any(row.rule.partition("@")[0] == BASELINE for row in rows):
        return _straight_through(rows, ledgers)
    try:
        trained = as_baseline(experiment, BASELINE, "float32")
        training = estimate(trained, data=data_of(experiment, ledgers[0], Ledger())).training
    except ValueError:
        return None
    if not training.samples:  # with 0 epochs
        return None
    bills = {x.name: price(training, placement.within(training), x).per("sample") for x in technologies}
    return baseline(training, sample_counts(training, bills), estimated=True)


def placement_of(text: str, **options: Any) -> "HardwareConfig":
    """The placement that `text` names; a link that it does not name is a default wire."""
    from hw_models import HardwareConfig

    return HardwareConfig.parse(text, **options) if text else HardwareConfig(**options)


def priced(
    row: Row, training: Ledger, inference: Ledger, placement: "HardwareConfig", technologies: "Sequence[Technology]"
) -> Row:
    """`row` with its columns of energy. A ledger without samples costs nothing."""
    from hw_models import price

    names = [technology.name for technology in technologies]
    bills: dict[str, dict[str, Bill | None]] = {
        use: {
            technology.name: price(book, placement.within(book), technology).per("sample") if book.samples else None
            for technology in technologies
        }
        for use, book in (("training", training), ("inference", inference))
    }
    trained = {name: bill for name, bill in bills["training"].items() if bill}
    return replace(
        row,
        joules_per_sample={name: cost(bill) for name, bill in bills["training"].items()},
        joules_per_inference={name: cost(bill) for name, bill in bills["inference"].items()},
        energy_parts={
            name: {use: {part: cost(of[name], part) for part in _PARTS} for use, of in bills.items()} for name in names
        },
        energy_tree={name: energy_tree(bill) for name, bill in trained.items()},
        counts=sample_counts(training, trained) if trained else None,
        links_share={name: _links_share(bill) for name, bill in bills["training"].items()},
        break_even_gradient_bits=break_even(training),
    )


def _links_share(bill: "Bill | None") -> float | None:
    """Share of links in the typical total; None if nothing cost anything."""
    return bill.links_share.typical if bill and bill.total.typical else None


def deployed(
    inference: Ledger,
    network: Path,
    weights: str | Mapping[str, str] | None = None,
    signals: str = "fixed(8,1)",
    calibration: np.ndarray | None = None,
) -> tuple[Ledger, str]:
    """What the inference of the network in the file `network` costs as it would be exported, with its own sums.

    If it cannot be exported, the ledger as it is, and the reason.
    """
    from export import FixedNetwork, levels_number
    from hw_models import as_exported

    try:
        layers = FixedNetwork.load(network, weights, signals, calibration).layers
        sums = {layer.name: layer.sum_bits for layer in layers}
        return as_exported(inference, {x.name: levels_number(x.weight_levels) for x in layers}, signals, sums), ""
    except ValueError as error:
        return inference, str(error)


def calibration_inputs(data: "DataSet") -> np.ndarray:
    """Training inputs [samples, inputs] on which an export chooses scales."""
    return np.asarray(data.train.inputs[:CALIBRATION_SAMPLES])


def deployed_untrained(inference: Ledger, weights: str | None = None) -> tuple[Ledger, str]:
    """`deployed` of a network that has no weights yet: with sums that cannot overflow, whatever they are."""
    from export import number_format
    from hw_models import as_exported

    weights = number_format(weights or "fixed(8,1)")
    try:
        return as_exported(inference, weights), ""
    except ValueError as error:
        return inference, str(error)


_PARTS = ("link", "compute", "memory")


def break_even(ledger: Ledger) -> dict[str, float]:
    """By link with activations up and targets down: the gradient width with which straight-through sends as much."""
    from hw_models import break_even_gradient_bits

    both = (Direction.FORWARD, "activations"), (Direction.FEEDBACK, "target")
    links = [link for link in ledger.links() if all(any(ledger.message_types(link, *sent)) for sent in both)]
    return {link: break_even_gradient_bits(ledger, link) for link in links}


def export_run(
    rule: str,
    run: Path,
    folder: Path,
    target: str,
    weights: str | Mapping[str, str] | None,
    signals: str,
    verify: bool,
    data: "DataSet",
    best: bool = False,
    options: Mapping[str, Any] | None = None,
    max_loss: float = 0.5,
    on_trial: "Callable[[Trial], None]" = lambda trial: None,
) -> ExportRow:
    """Export the network of `run`, a run of `rule`, into `folder`: the last one, or the `best` (see `network_file`).

    `options` are those of the target, by name. `max_loss` is for `auto` weights, as in `export.fewest_bits`, which are
    tried on the validation samples.
    """
    from export import add_to_manifest, export_network, write_page

    inputs, labels = np.asarray(data.test.inputs), np.asarray(data.test.labels)
    made = export_network(
        network_file(run, best), target, folder, weights, signals,
        inputs[:GOLDEN_SAMPLES], verify, (inputs, labels), options, calibration_inputs(data),
        (np.asarray(data.valid.inputs), np.asarray(data.valid.labels)), max_loss, on_trial,
    )  # fmt: skip
    accuracy = made.accuracy.as_dict() if made.accuracy else {}
    figures = {
        "verification": made.verification.status if made.verification else "not requested",
        "accuracy": accuracy,
        **_frame_joules(run, signals, made.weight_numbers, made.sum_bits),
    }
    add_to_manifest(folder, figures=figures)
    write_page(folder)
    return ExportRow(
        rule=rule,
        target=target,
        weights=made.weights_text,
        signals=made.quantized_links,
        folder=str(folder),
        files=len(made.files),
        accumulator_bits=made.sum_bits,
        verify=made.verification.status if made.verification else "not requested",
        test_error_percent_float=accuracy.get("trained_error_percent"),
        test_error_percent_integer=accuracy.get("integer_error_percent"),
        agreement_percent=accuracy.get("agreement_percent"),
    )


def _frame_joules(
    run: Path, signals: str, weights: Mapping[str, str], accumulator_bits: Mapping[str, int]
) -> dict[str, Any]:
    """Joules of a frame of the exported network of `run` by technology, in words; or why there are none."""
    from hw_models import Technology, as_exported, price

    from .ledger import load
    from .report import si

    try:
        inference = load(run / "ledger.json")["inference"]
        used = as_exported(inference, weights, signals, accumulator_bits)
    except (ValueError, OSError) as error:
        return {"no_joules": str(error)}
    if not used.samples:
        return {"no_joules": f"{run}: no inference was counted"}
    joules = {}
    for name in TECHNOLOGIES:
        total = price(used, placement_of("").within(used), Technology.load(name)).per("sample").total
        joules[name] = f"{si(total.typical, 'J')} ({si(total.low, 'J')} to {si(total.high, 'J')})"
    return {"joules": joules}


def _exported(
    rule: str, run: Path, folder: Path, weights: str | Mapping[str, str] | None, signals: str, data: "DataSet"
) -> tuple[ExportRow | None, str]:
    """The export as C, or the reason why there is none: a format that cannot be exported does not stop training."""
    try:
        return export_run(rule, run, folder, "c", weights, signals, True, data), ""
    except (ValueError, OSError, RuntimeError) as error:
        return None, str(error)


def _data_row(data: "DataSet") -> DataRow:
    return DataRow(data.name, data.source, list(data.image_shape), data.input_format.name)
