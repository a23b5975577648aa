"""The command `lowbit-dtp`: the roof, under which training, energy models and exporters meet.

Everything heavy is imported by the command that needs it, so that `--help` answers at once.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .version import __version__

if TYPE_CHECKING:
    from hw_models import Bill, HardwareConfig
    from lowbit_dtp.data import DataSet
    from lowbit_dtp.experiment import Comparison
    from lowbit_dtp.ledger import Ledger
    from lowbit_dtp.runs import Evaluation

TECHNOLOGIES = "45nm,7nm"
INTERRUPTED = 130
"""Exit status that Typer makes of Ctrl-C."""
GOLDEN_SAMPLES = 32
"""Test images that become golden vectors, beside those made for each neuron."""

app = typer.Typer(
    name="lowbit-dtp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[Path, typer.Argument(help="A run folder, or a comparison of several.", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Data = Annotated[
    str | None,
    typer.Option("--data", help="digits, mnist, fashion-mnist, cifar10, or a .npz file or folder of IDX files."),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder to look for data sets in first.")]
Rule = Annotated[str | None, typer.Option("--rule", help="Only runs of this rule.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Only the run with this seed.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: runs/DATA)")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file whose keys override the data set's.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training data.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Samples a minibatch.")]
Sizes = Annotated[str | None, typer.Option("--sizes", help="Neurons of each layer: 784-500-500-10.")]
Links = Annotated[
    list[str] | None,
    typer.Option("--link", help="Formats of a link: h1-h2=binary, or h1-h2=ternary/binary for up/down. Repeatable."),
]
Gradient = Annotated[
    str | None, typer.Option("--gradient", help="Format in which straight-through sends gradients: fixed(4,-2), ...")
]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Of the forward weights.")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="numpy: compiled kernels; cpu, cuda: torch, all seeds in one batch; auto: cuda if there is one.",
    ),
]
TF32 = Annotated[bool, typer.Option("--tf32", help="Let a GPU round the factors of float32 products to 11 bits.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads to use. Changes the speed, never a number.")]
PlacementOption = Annotated[
    str | None, typer.Option("--placement", help="Which wire each link is: h1-h2=board,rest=on-die:2mm.")
]
Technologies = Annotated[str, typer.Option("--technology", help="Technologies to price on, comma-separated.")]
Weights = Annotated[str, typer.Option("--weights", help="Fixed-point format of the weights: fixed(W,I).")]
Signals = Annotated[str, typer.Option("--signals", help="Format for links that were trained with real numbers.")]


def main() -> None:
    """Run the command; a user's mistake ends in one line on standard error and exit status 2, not in a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise


def fail(message: str) -> NoReturn:
    """End with `message` on standard error."""
    print(f"lowbit-dtp: {message}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", help="Python file with rules, formats or data sets of your own. Repeatable."),
    ] = None,
) -> None:
    """What does a neural network cost when its neurons talk in bits?

    Trains networks whose forward and feedback signals are binary or few-bit, counts every bit on every link, prices
    them in joules, and exports the network as fixed point.

    [bold]Examples[/bold]

      lowbit-dtp compare --data digits

      lowbit-dtp compare --data mnist --rules dtp,straight-through,fixed-lower --epochs 5 --seeds 1 --out runs/mnist

      lowbit-dtp compare --data mnist --epochs 500 --seeds 10 --device cuda --out runs/thesis

      lowbit-dtp price runs/mnist --placement h1-h2=board

      lowbit-dtp export runs/mnist --rule dtp --target c --weights 'fixed<8,1>' --verify
    """
    if version:
        print(f"lowbit-dtp {__version__}")
        raise typer.Exit()
    from .plugins import load

    load(plugin or [])


@app.command()
def compare(
    data: Data = None,
    rules: Annotated[str | None, typer.Option("--rules", help="dtp,straight-through@fixed(4,-2),... in order.")] = None,
    epochs: Epochs = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Runs of each rule, with seeds 0, 1, ...")] = None,
    out: Out = None,
    config: Config = None,
    data_dir: DataDir = None,
    batch: Batch = None,
    sizes: Sizes = None,
    link: Links = None,
    gradient: Gradient = None,
    placement: PlacementOption = None,
    technology: Technologies = TECHNOLOGIES,
    weights: Weights = "fixed(8,1)",
    signals: Signals = "fixed(8,1)",
    threads: Threads = None,
    device: Device = "numpy",
    ensemble: Annotated[
        int | None, typer.Option("--ensemble", min=1, help="Most seeds to train in one batch.  (default: all)")
    ] = None,
    tf32: TF32 = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log curves for TensorBoard, too.")] = False,
    as_json: Json = False,
) -> None:
    """Train the same network by several rules; compare error, bits and joules; write a report.

    The same command again goes on where it was stopped, on another device if that is asked for.

    [bold]Example[/bold]: lowbit-dtp compare --data mnist --rules dtp,straight-through,fixed-lower --epochs 5 --seeds 1
    """
    device = _device(device, tf32)
    comparison = _comparison(data, config, epochs, batch, sizes, link, gradient, placement, seeds=seeds,
                 compare=_split(rules) if rules else None)  # fmt: skip
    folder = out or Path("runs") / Path(comparison.content["data"]).stem  # which may be a path
    summary = _compare(
        comparison, folder, data_dir, technology, weights, signals, threads, device, ensemble, tensorboard
    )
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    _print_rows(summary)
    print(f"\nreport    {folder / 'report.html'}")
    if summary["exported"]:
        exported = summary["exported"]
        print(f"export    {exported['folder']} ({exported['rule']}, {exported['weights']}): C against golden vectors: "
              f"{exported['verify']}")  # fmt: skip
    print(
        f"\nnext      lowbit-dtp price {folder} --placement h1-h2=on-die:5mm\n"
        f"          lowbit-dtp export {folder} --target mem --weights 'fixed<6,1>'\n"
        f"          lowbit-dtp compare --data mnist --epochs 5 --seeds 1"
    )


@app.command()
def train(
    data: Data = None,
    rule: Annotated[str, typer.Option("--rule", help="Learning rule, or rule@gradient format.")] = "dtp",
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, noise and order.")] = 0,
    out: Out = None,
    config: Config = None,
    data_dir: DataDir = None,
    batch: Batch = None,
    sizes: Sizes = None,
    link: Links = None,
    gradient: Gradient = None,
    learning_rate: Rate = None,
    threads: Threads = None,
    device: Device = "numpy",
    tf32: TF32 = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log curves for TensorBoard, too.")] = False,
    as_json: Json = False,
) -> None:
    """Train one network by one rule, into one run folder. The same command again goes on where it was stopped.

    [bold]Example[/bold]: lowbit-dtp train --data digits --rule dtp --link h1-h2=ternary --out runs/ternary
    """
    from . import ledger as ledgers
    from .runs import link_row, run_ensemble
    from .storage import read_json

    device = _device(device, tf32)
    comparison = _comparison(data, config, epochs, batch, sizes, link, gradient, None)
    if learning_rate is not None:
        comparison.content["optimizer"]["learning_rate"] = learning_rate
    folder = out or Path("runs") / f"{Path(comparison.content['data']).stem}-train"
    experiment = comparison.experiment(rule, seed)
    experiment.built()  # raises now what training would raise
    with _progress() as bar, _logging([folder], tensorboard) as log:
        samples = _data(comparison, data_dir, threads)
        on_step = bar(rule, experiment.steps(len(samples.train)))
        run_ensemble([experiment], [folder], samples, device=device, on_step=on_step, on_evaluation=log)
    books = ledgers.load(folder / "ledger.json")
    result = {key: value for key, value in read_json(folder / "run.json").items() if key.endswith(("percent", "epoch"))}
    result |= {"folder": str(folder), "links": {x: link_row(x, **books) for x in books["training"].links()}}
    _print(result, as_json)


@app.command()
def evaluate(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    part: Annotated[str, typer.Option("--part", help="train, valid or test.")] = "test",
    data_dir: DataDir = None,
    device: Device = "numpy",
    tf32: TF32 = False,
    as_json: Json = False,
) -> None:
    """Classify a data set with trained networks; print the error and the bits of an inference.

    [bold]Example[/bold]: lowbit-dtp evaluate runs/demo --rule dtp --part valid
    """
    from .choices import choose
    from .data import load
    from .experiment import Experiment
    from .ledger import Ledger
    from .network import Network
    from .runs import run_folders
    from .training import evaluate as error_percent

    device = _device(device, tf32)
    _use_threads(None)
    rows, loaded = [], cache(load)
    for spec, number, folder in run_folders(run, rule, seed):
        samples = loaded(Experiment.load(folder / "experiment.toml").data, data_dir)
        chosen = choose("part", part, {name: getattr(samples, name) for name in ("train", "valid", "test")})
        book = Ledger()
        error = error_percent(Network.load(folder / "network.safetensors").on(device), chosen.on(device), book)
        bits = {link: book.bits(link, per="sample") for link in book.links()}
        rows.append({"rule": spec, "seed": number, "part": part, "samples": len(chosen), "error_percent": error,
                     "bits_per_inference": bits})  # fmt: skip
    _print(rows, as_json)


@app.command()
def price(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    technology: Technologies = TECHNOLOGIES,
    placement: PlacementOption = None,
    memory: Annotated[str, typer.Option("--memory", help="Where weights are kept: sram or dram.")] = "sram",
    reuse: Annotated[int, typer.Option("--reuse", help="Samples for which a weight, once read, is used.")] = 1,
    word_bits: Annotated[int, typer.Option("--word-bits", help="Pad each message to words of so many bits.")] = 1,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Price inference with weights of this format.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Joules per sample, in training and in inference, split by link, layer and memory, with their range.

    [bold]Example[/bold]: lowbit-dtp price runs/demo --rule dtp --technology 7nm --placement h1-h2=board --reuse 50
    """
    from hw_models import Technology, price, with_weights

    from . import ledger as ledgers
    from .runs import run_folders

    runs = run_folders(run, rule, seed)
    where = _placement(_recorded_placement(run) if placement is None else placement,
                       memory=memory, reuse=reuse, word_bits=word_bits)  # fmt: skip
    result = []
    for spec in dict.fromkeys(spec for spec, _, _ in runs):
        books = [ledgers.load(folder / "ledger.json") for other, _, folder in runs if other == spec]
        for use in ("training", "inference"):
            book = ledgers.merged(b[use] for b in books)
            if use == "inference" and weights:
                book = with_weights(book, weights)
            for name in _split(technology):
                bill = price(book, where, Technology.load(name)).per("sample")
                result.append(
                    {"rule": spec, "use": use, **bill.as_dict(), "break_even_gradient_bits": _break_even(book)}
                )
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _print_bills(result)


@app.command()
def export(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    target: Annotated[str, typer.Option("--target", help="mem ($readmemh files) or c (C99).")] = "c",
    weights: Weights = "fixed(8,1)",
    signals: Signals = "fixed(8,1)",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: RUN/export-TARGET)")] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Run what was written, and compare.")] = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a trained network as integers, with golden vectors at every link, and verify it bit for bit.

    [bold]Example[/bold]: lowbit-dtp export runs/demo --rule dtp --target c --weights 'fixed<8,1>'
    """
    from .data import load
    from .experiment import Experiment
    from .runs import run_folders

    spec, number, folder = run_folders(run, rule, seed)[0]
    samples = load(Experiment.load(folder / "experiment.toml").data, data_dir)
    result = _export(folder, out or Path(run) / f"export-{target}", target, weights, signals, verify, samples)
    result = {"rule": spec, "seed": number, **result}
    _print(result, as_json)
    if str(result["verify"]).startswith("failed"):
        raise typer.Exit(1)


@app.command()
def bench(threads: Threads = None, as_json: Json = False) -> None:
    """Time products of few bits and training steps on this machine, beside NumPy, in under a minute.

    [bold]Example[/bold]: lowbit-dtp bench --threads 1
    """
    from .backends import packed
    from .backends.numba_cpu import threads_used

    _use_threads(threads)
    from threadpoolctl import threadpool_limits

    from .benchmark import products, steps

    with threadpool_limits(threads_used(), user_api="blas"):
        timings = [*products(), *steps()]
    rows = [
        {
            "what": x.name,
            "microseconds": x.seconds * 1e6,
            "numpy_ratio": x.numpy_seconds and x.numpy_seconds / x.seconds,
        }
        for x in timings
    ]
    if as_json:
        _print({"threads": threads_used(), "target": packed.features(), "timings": rows}, as_json)
        return
    print(f"{threads_used()} thread{'s' * (threads_used() > 1)}; {packed.describe()}")
    for row in rows:
        ratio = f"{row['numpy_ratio']:6.1f} times NumPy's float32" if row["numpy_ratio"] else ""
        print(f"{row['what']:42} {row['microseconds']:10,.0f} us  {ratio}".rstrip())


@app.command()
def report(run: Run, as_json: Json = False) -> None:
    """Write the page of a comparison again, `RUN/report.html`.

    [bold]Example[/bold]: lowbit-dtp report runs/demo
    """
    from .report import write_report

    _print({"report": str(write_report(run))}, as_json)


data_app = typer.Typer(no_args_is_help=False, invoke_without_command=True)
app.add_typer(data_app, name="data")


@data_app.callback()
def data_found(context: typer.Context, data_dir: DataDir = None, as_json: Json = False) -> None:
    """What data sets there are, and what is found where. `data fetch NAME` downloads one.

    [bold]Example[/bold]: lowbit-dtp data fetch mnist
    """
    if context.invoked_subcommand:
        return
    from .data import SOURCES, find

    found = {name: {f.name: p and str(p) for f, p in find(name, data_dir)} for name in SOURCES}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for name, files in found.items():
        print(f"{name}: {'ships in scikit-learn' if not files else ''}")
        for file, path in files.items():
            print(f"  {file:26} {path or 'not found'}")


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="mnist or fashion-mnist.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Download a data set, checked against its published digests, unless it is there."""
    from .data import fetch

    _print({name: list(map(str, fetch(name, data_dir)))}, as_json)


@data_app.command("convert")
def data_convert(
    copies: Annotated[Path, typer.Argument(help="Folder or tar archive with train/CLASS/*.jpg and test/CLASS/*.jpg.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make the binary batches of cifar10 of JPEG copies of its images; every result on them says so.

    [bold]Example[/bold]: lowbit-dtp data convert cifar10-jpeg.tar.xz --data-dir data
    """
    from .data import convert_cifar10

    _print({"cifar10": list(map(str, convert_cifar10(copies, data_dir)))}, as_json)


def _comparison(
    data: str | None, config: Path | None, epochs: int | None, batch: int | None, sizes: str | None,
    link: list[str] | None, gradient: str | None, placement: str | None, **more: Any,
) -> "Comparison":  # fmt: skip
    """The data set's experiment file, the user's, and the options, in rising order of precedence."""
    from .experiment import Comparison, ExperimentError
    from .formats import parse

    links = {}
    for text in link or []:
        name, equals, formats = text.partition("=")
        if not equals:
            raise ExperimentError(f"--link {text!r}: write LINK=FORMAT or LINK=UP/DOWN, h1-h2=binary say")
        up, _, down = formats.partition("/")
        links[name] = {"forward": parse(up).name, "feedback": parse(down or up).name}
    if sizes and not re.fullmatch(r"\d+(-\d+)+", sizes):
        raise ExperimentError(f"--sizes {sizes!r}: write the neurons of each layer with dashes between, 784-500-10 say")
    return Comparison.load(
        data, config, epochs=epochs, batch=batch, placement=placement, links=links or None,
        sizes=[int(size) for size in sizes.split("-")] if sizes else None,
        rules={"straight-through": {"gradient": parse(gradient).name}} if gradient else None,
        **more,
    )  # fmt: skip


def _data(comparison: "Comparison", data_dir: Path | None, threads: int | None) -> "DataSet":
    from .data import load

    _use_threads(threads)
    return load(comparison.content["data"], data_dir)


def _device(device: str, tf32: bool) -> str:
    """The device to use, checked before anything else; its products are float32 unless `tf32`."""
    from .backends.devices import DeviceError, multiply_in_tf32, usable

    device = usable(device)
    if tf32 and not device.startswith("cuda"):
        raise DeviceError(f"--tf32 is for products on a GPU: give --device cuda, not {device}")
    if device != "numpy":
        multiply_in_tf32(tf32)
    return device


def _use_threads(threads: int | None) -> None:
    """Use so many threads, if any number is given, and say when kernels have to be compiled first."""
    if os.environ.get("LOWBIT_DTP_KERNELS") == "plain":  # there are none, and perhaps no Numba
        return
    from .backends.numba_cpu import on_compile, set_threads

    on_compile(_tell_of_compiling)
    if threads is not None:
        set_threads(threads)


def _tell_of_compiling(kernel: str) -> None:
    """A line for each kernel where somebody watches, else one for all."""
    if sys.stderr.isatty():
        print(f"compiling, once for this machine: {kernel}", file=sys.stderr, flush=True)
    elif not _told:
        print("compiling kernels, once for this machine", file=sys.stderr, flush=True)
    _told.append(kernel)


_told: list[str] = []
"""Kernels compiled so far."""


def _compare(
    comparison: "Comparison", folder: Path, data_dir: Path | None, technologies: str, weights: str, signals: str,
    threads: int | None, device: str, ensemble: int | None, tensorboard: bool,
) -> dict[str, Any]:  # fmt: skip
    """Run every rule and seed of `comparison`, and write `summary.json`, the export and the report."""
    from hw_models import Technology

    from .choices import choose
    from .experiment import ExperimentError
    from .network import link_names
    from .report import write_report
    from .runs import folder_name, provenance, run_ensemble, summary_row
    from .storage import write_json

    names = list(dict.fromkeys(comparison.rules))
    seeds = range(comparison.seeds)
    if not names or not seeds:
        raise ExperimentError("compare needs at least one rule and one seed")
    with comparison.naming("placement"):
        placement = _placement(comparison.placement)
        for link in placement.links:
            choose("link", link, dict.fromkeys(link_names(comparison.content["sizes"])))
    processes = [Technology.load(name) for name in _split(technologies)]
    experiments = [(spec, seed, comparison.experiment(spec, seed)) for spec in names for seed in seeds]
    for _, _, experiment in experiments:  # every mistake is told before the first minute of training
        experiment.built()
    samples = _data(comparison, data_dir, threads)
    at_a_time = 1 if device == "numpy" else ensemble or len(seeds)
    with _progress() as bar:
        for spec in names:
            runs = [(experiment, folder / folder_name(spec) / f"seed-{seed}")
                    for other, seed, experiment in experiments if other == spec]  # fmt: skip
            for start in range(0, len(runs), at_a_time):
                batch, targets = zip(*runs[start : start + at_a_time], strict=True)
                label = f"{spec} {start}" + (f"-{start + len(batch) - 1}" if len(batch) > 1 else "")
                on_step = bar(label, batch[0].steps(len(samples.train)))
                with _logging(targets, tensorboard) as log:
                    run_ensemble(batch, targets, samples, device=device, on_step=on_step, on_evaluation=log)
    rows = []
    for spec in names:
        row, training, inference = summary_row(spec, folder, seeds)
        rows.append(row | _joules(training, inference, placement, processes))
    first = folder / folder_name(names[0]) / "seed-0"
    exported = _export(first, folder / "export", "c", weights, signals, True, samples) | {"rule": names[0]}
    summary = {
        "rows": rows,
        "network": experiments[0][2].network().describe(),
        "data": {"name": samples.name, "source": samples.source, "image_shape": list(samples.image_shape),
                 "input_format": samples.input_format.name},
        "experiment": comparison.content,
        "placement": comparison.placement,
        "exported": exported,
        **provenance(),
    }  # fmt: skip
    write_json(folder / "summary.json", summary)
    write_report(folder)
    return summary


def _joules(
    training: "Ledger", inference: "Ledger", placement: "HardwareConfig", processes: list[Any]
) -> dict[str, Any]:
    """The energy columns of a row."""
    from hw_models import price

    bills: dict[str, dict[str, Bill]] = {
        process.name: {
            "training": price(training, placement, process).per("sample"),
            "inference": price(inference, placement, process).per("sample"),
        }
        for process in processes
    }
    plain = {name: {use: bill.as_dict() for use, bill in uses.items()} for name, uses in bills.items()}
    return {
        "joules_per_sample": {name: uses["training"]["total"] for name, uses in plain.items()},
        "joules_per_inference": {name: uses["inference"]["total"] for name, uses in plain.items()},
        "energy_parts": {n: {use: bill["by_part"] for use, bill in uses.items()} for n, uses in plain.items()},
        "links_share": {n: (uses["training"]["links_share"] or {}).get("typical") for n, uses in plain.items()},
        "break_even_gradient_bits": _break_even(training),
    }


def _break_even(ledger: "Ledger") -> dict[str, float]:
    """For each link that carries targets, the gradient width at which straight-through would send as many bits."""
    from hw_models import break_even_gradient_bits

    from .ledger import Direction

    links = [link for link in ledger.links() if any(ledger.message_types(link, Direction.FEEDBACK, "target"))]
    return {link: break_even_gradient_bits(ledger, link) for link in links}


def _export(
    run: Path, folder: Path, target: str, weights: str, signals: str, verify: bool, samples: "DataSet"
) -> dict[str, Any]:
    """Export the network of `run`, and what is to be said of it."""
    from export import export_network

    inputs = samples.test.inputs
    made = export_network(
        run / "network.safetensors", target, folder, weights, signals,
        inputs[:GOLDEN_SAMPLES], verify, (inputs, samples.test.labels),
    )  # fmt: skip
    accuracy = made.accuracy.as_dict() if made.accuracy else {}
    return {
        "target": target,
        "weights": ", ".join(dict.fromkeys(made.weights.values())),
        "signals": made.quantized_links,
        "folder": str(folder),
        "files": len(made.files),
        "accumulator_bits": made.sum_bits,
        "verify": made.verification.status if made.verification else "not asked for",
        "test_error_percent_float": accuracy.get("trained_error_percent"),
        "test_error_percent_integer": accuracy.get("integer_error_percent"),
        "agreement_percent": accuracy.get("agreement_percent"),
    }


def _placement(text: str, **options: Any) -> "HardwareConfig":
    """The placement that `text` tells; where it tells nothing, every link is the default wire."""
    from hw_models import HardwareConfig

    return HardwareConfig.parse(text, **options) if text else HardwareConfig(**options)


def _recorded_placement(run: Path) -> str:
    from .storage import read_json

    path = Path(run) / "summary.json"
    return str(read_json(path).get("placement", "")) if path.exists() else ""


def _split(text: str) -> list[str]:
    """Parts between commas, but for commas in brackets.

    >>> _split("dtp,straight-through@fixed(4,-2)")
    ['dtp', 'straight-through@fixed(4,-2)']
    """
    return [part.strip() for part in re.split(r",(?![^(<]*[)>])", text) if part.strip()]


@contextmanager
def _progress() -> Iterator[Any]:
    """Bars on standard error: call with a label and a total, then call that with the number of steps done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def bar(label: str, total: int) -> Any:
            task, shown = progress.add_task(label, total=total), 0.0

            def update(done: int) -> None:
                nonlocal shown
                if done == total or monotonic() - shown > 0.1:  # a step may take less than showing it
                    shown = monotonic()
                    progress.update(task, completed=done)

            return update

        yield bar


@contextmanager
def _logging(folders: Sequence[Path], tensorboard: bool) -> Iterator[Any]:
    """A function that takes the index of a run and an evaluation, and logs it for TensorBoard if asked to."""
    if not tensorboard:
        yield lambda index, evaluation: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("--tensorboard needs TensorBoard: pip install 'lowbit-dtp[tensorboard]'") from None
    writers = [SummaryWriter(str(folder / "tensorboard")) for folder in folders]

    def log(index: int, evaluation: "Evaluation") -> None:
        for name, value in vars(evaluation).items():
            if name != "epoch":
                writers[index].add_scalar(name, value, evaluation.epoch)

    try:
        yield log
    finally:
        for writer in writers:
            writer.close()


def _print(result: Any, as_json: bool) -> None:
    """Print `result` as JSON, or as lines of names and values."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    for row in result if isinstance(result, list) else [result]:
        for key, value in row.items():
            if isinstance(value, dict):
                print(f"{key}:")
                for name, part in value.items():
                    print(f"  {name:20} {_plain(part)}")
            else:
                print(f"{key:28} {_plain(value)}")
        if isinstance(result, list):
            print()


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print_rows(summary: dict[str, Any]) -> None:
    """The table of a comparison."""
    from rich.console import Console
    from rich.table import Table

    from .report import si

    rows = summary["rows"]
    processes = list(rows[0]["joules_per_sample"])
    discrete = [x["lower"] + "-" + x["upper"] for x in summary["network"]["links"][1:] if x["feedback"] != "float32"]
    table = Table(title=f"{summary['data']['name']}: training, a mean over {rows[0]['seeds']} seed(s)")
    table.add_column("rule", no_wrap=True)
    table.add_column("test\nerror %", justify="right", no_wrap=True)
    for link in discrete:
        table.add_column(f"{link} bits\nup/down", justify="right", no_wrap=True)
    for process in processes:
        table.add_column(f"{process}\na sample", justify="right", no_wrap=True)
    for row in rows:
        error, links = row["test_error_percent"], row["links"]
        spread = f"±{error['std']:.2f}" if row["seeds"] > 1 else ""
        table.add_row(
            row["rule"],
            f"{error['mean']:.2f}{spread}",
            *(f"{links[x]['up_bits_per_sample']:g}/{links[x]['down_bits_per_sample']:g}" for x in discrete),
            *(si(row["joules_per_sample"][p]["typical"], "J") for p in processes),
        )
    Console().print(table)


def _print_bills(bills: list[dict[str, Any]]) -> None:
    """Bills as a table: a row for each rule, use and technology, and the break-even widths under it."""
    from rich.console import Console
    from rich.table import Table

    from .report import si

    table = Table(title="Joules a sample: typical (low to high)")
    for column in ("rule", "use", "technology", "total", "links", "compute", "memory", "links' share"):
        table.add_column(column, justify="left" if column in ("rule", "use", "technology") else "right")
    for bill in bills:
        parts = [bill["total"], *(bill["by_part"].get(part) for part in ("link", "compute", "memory"))]
        share = bill["links_share"]
        table.add_row(
            bill["rule"], bill["use"], bill["technology"],
            *(f"{si(p['typical'], 'J')}\n({si(p['low'], 'J')} to {si(p['high'], 'J')})" if p else "0" for p in parts),
            f"{100 * share['typical']:.2g} %" if share else "",
        )  # fmt: skip
    Console().print(table)
    even = {(b["rule"], x): bits for b in bills for x, bits in b["break_even_gradient_bits"].items()}
    for (rule, link), bits in even.items():
        print(f"{rule}, {link}: straight-through sends as many bits with a gradient of {bits:g} bits")
    constants = {json.dumps(constant) for bill in bills for constant in bill["constants"]}
    print(f"{len(constants)} constants used; --json lists each with its source")


if __name__ == "__main__":
    main()
