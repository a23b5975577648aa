"""Training of a network that is split over ranks, into a run folder like any other, which rank 0 writes.

After each epoch rank 0 collects the arrays of all ranks, for the checkpoint. So a run that was split can be continued
in one process or split otherwise, and the other way round, and its folder holds what the same training in one process
gives.
"""

import time
import tomllib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoint
from ..backends import Array
from ..backends.shapes import ShapeArray
from ..data import DataSet, Samples
from ..ensemble import Run, snapshots
from ..experiment import Experiment
from ..formats import parse
from ..ledger import Direction, Ledger
from ..network import Network
from ..optimizers import Optimizer
from ..runs import Evaluation, Member, is_finished, sparseness, versions
from ..storage import locked
from ..training import Evaluator, Progress, evaluate, fit
from .exchange import gather, receive_arrays, send_arrays, told
from .split import Placement, SplitError, check, split_network, split_samples
from .transport import Transport

PARTS = ("train", "valid", "test")


def run_split(
    experiment: Experiment,
    folder: Path,
    load: Callable[[], DataSet],
    split: str,
    transport: Transport,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    on_evaluation: Callable[[Evaluation], None] = lambda evaluation: None,
) -> None:
    """Train `experiment` with its layers on ranks as `split` spells it, continuing from the checkpoint in `folder`.

    Every rank calls it; `folder` is read and written by rank 0 alone. `load` gives the data, and is called by the ranks
    of the lowest layer and of the output layer. Weights and ledgers are those of `runs.run`, bit for bit.

    SplitError if the ranks differ in experiment, versions or data, or the rule cannot be split; WireError if a rank is
    lost. The run then continues from its last checkpoint.
    """
    rule, task = experiment.learning_rule(), experiment.learned_task()
    whole, _, optimizer = experiment.built()
    placement = Placement.parse(split, [layer.name for layer in whole.layers], transport.size)
    check(rule, task, placement)
    _agree(transport, placement, "experiment", tomllib.loads(experiment.as_toml()))
    _agree(transport, placement, "versions", versions())
    net = split_network(whole, placement, transport)
    train, valid, test = _samples(transport, placement, net, load)
    with ExitStack() as locks:
        member, progress = None, Progress(ledger=Ledger(codings=experiment.codings))
        base, begun = Ledger(codings=experiment.codings), None
        if transport.rank == 0:
            finished = is_finished(folder, experiment)
            if not finished:
                locks.enter_context(locked(folder))
                member = Member.begun(0, experiment, folder, whole, optimizer)
                base = member.run.progress.ledger
                position = _position(member.run.progress)
                begun = [position, member.saved_step is not None, member.is_done(member.run.progress.epoch)]
        begun = told(transport, begun)
        if begun is None:
            return
        position, is_continued, done = begun
        if is_continued:
            _restore(transport, placement, whole, net, optimizer, base, progress)
        for name, value in position.items():
            setattr(progress, name, value)
        inference = net.with_links(rule.inference_links(net.links))
        scored = (valid, test, train) if experiment.training_error else (valid, test)
        scores = [Evaluator(inference, samples, mode="plain", task=task, rule=rule) for samples in scored]
        if member is not None:
            member.goes_on(f"numpy, {transport.size} ranks: {split}", 1)
        started = time.perf_counter()
        steps = fit(
            net, rule, optimizer, train, experiment.epochs, experiment.batch, experiment.seed, progress, "plain", task
        )
        for step in () if done else steps:
            on_step(progress.step)
            if not step.epoch_ends:
                continue
            seconds = time.perf_counter() - started
            known = step.epoch_loss is not None and not isinstance(step.epoch_loss, ShapeArray)
            states = gather(transport, {
                "loss": float(step.epoch_loss) if known and step.epoch_loss is not None else None,
                "scores": [score() for score in scores],
            })  # fmt: skip
            run = _collected(transport, placement, whole, net, optimizer, base, progress)
            if member is not None and run is not None:
                loss = next((x["loss"] for x in states if x["loss"] is not None), None)
                valid_score, test_score, *train_score = states[placement[whole.layers[-1].name]]["scores"]
                ledger = run.progress.ledger
                up, down = (ledger.bits(direction=direction) for direction in (Direction.FORWARD, Direction.FEEDBACK))
                evaluation = Evaluation(
                    progress.epoch, loss, valid_score, test_score, round(seconds, 4), up, down, task.measure,
                    **sparseness(ledger, 0, 1), train_score=train_score[0] if train_score else None,
                )  # fmt: skip
                if member.evaluated(evaluation):
                    member.best_network = snapshots(run.net.with_links(rule.inference_links(run.net.links)))[0]
                on_evaluation(evaluation)
                member.save(run)
                done = member.is_done(progress.epoch)
            done, started = told(transport, done), time.perf_counter()
            if done:
                break
        testing = Ledger(codings=experiment.codings)
        last = [evaluate(inference, test, testing, task=task, rule=rule), scores[0]()]
        errors = told(transport, last, placement[whole.layers[-1].name])
        run = _collected(transport, placement, whole, net, optimizer, base, progress)
        tested = _together(transport, Ledger(codings=experiment.codings), testing)
        if member is not None and run is not None:
            named = zip((f"test_{task.measure}", f"valid_{task.measure}"), errors, strict=True)
            results: dict[str, Any] = {"measure": task.measure, **dict(named)}
            member.finish(run, results, whole.with_links(rule.inference_links(whole.links)), tested)


def _position(progress: Progress) -> dict[str, Any]:
    return {name: getattr(progress, name) for name in ("epoch", "phase", "minibatch", "step")}


def _agree(transport: Transport, placement: Placement, what: str, value: Any) -> None:
    """SplitError, on every rank, naming the first rank whose `value` is not that of rank 0, and where it differs."""
    first, *others = gather(transport, value)
    for rank, other in enumerate(others, 1):
        if other != first:
            ours, theirs = (x if isinstance(x, Mapping) else {what: x} for x in (first, other))
            differs = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
            said = "; ".join(f"{name}: {theirs.get(name)!r}, not {ours.get(name)!r}" for name in differs)
            raise SplitError(f"rank {rank} ({', '.join(placement.on(rank))}) has another {what} than rank 0: {said}")


def _samples(
    transport: Transport, placement: Placement, net: Network, load: Callable[[], DataSet]
) -> tuple[Samples, Samples, Samples]:
    """Training, validation and test samples, of which this rank has what its layers need."""
    lowest, output = placement[net.layers[0].name], placement[net.layers[-1].name]
    data = load() if transport.rank in (lowest, output) else None
    shapes = None if data is None else {part: _shape(getattr(data, part)) for part in PARTS}
    all_shapes = gather(transport, shapes)
    if all_shapes[lowest] != all_shapes[output]:
        raise SplitError(f"rank {output} has other data than rank {lowest}: its training samples or labels differ")
    if data is not None:
        made = [split_samples(getattr(data, part), net) for part in PARTS]
    else:
        made = [_without_numbers(all_shapes[lowest][part]) for part in PARTS]
    return made[0], made[1], made[2]


def _shape(samples: Samples) -> dict[str, Any]:
    stored, labels = samples.stored, samples.labels
    digest = sha256(np.ascontiguousarray(labels).tobytes())
    digest.update(np.ascontiguousarray(stored).data)
    return {
        "stored": [list(stored.shape), stored.dtype.name],
        "labels": [list(labels.shape), labels.dtype.name],
        "format": samples.format and samples.format.name,
        "sha256": digest.hexdigest(),
    }


def _without_numbers(shape: Mapping[str, Any]) -> Samples:
    fmt = parse(shape["format"]) if shape["format"] else None
    return Samples(ShapeArray(*shape["stored"]), ShapeArray(*shape["labels"]), fmt)


def _of_rank(arrays: Mapping[str, Array], placement: Placement, rank: int, net: Network) -> dict[str, Array]:
    """Those of `arrays`, named as by `checkpoint.arrays_of`, that `rank` has: of its layers, and of what it sends."""
    names = placement.on(rank)
    wires = {
        f"wires.{link.name}.{direction}"
        for link in net.links
        for direction, sender in ((Direction.FORWARD, link.lower), (Direction.FEEDBACK, link.upper))
        if placement[sender] == rank
    }
    return {
        name: x for name, x in arrays.items()
        if (name in wires if name.startswith("wires.") else name.split(".")[1] in names)
    }  # fmt: skip


def _restore(
    transport: Transport,
    placement: Placement,
    whole: Network,
    net: Network,
    optimizer: Optimizer,
    base: Ledger,
    progress: Progress,
) -> None:
    """Give every rank its arrays of the checkpoint that rank 0 has loaded."""
    if transport.rank == 0:
        arrays = checkpoint.arrays_of(whole, optimizer, base)
        for rank in range(1, transport.size):
            send_arrays(transport, rank, _of_rank(arrays, placement, rank, whole))
        own = _of_rank(arrays, placement, 0, whole)
        optimizer.state = {}
        base.wires.clear()
    else:
        own = receive_arrays(transport, 0)
    checkpoint.put_arrays(own, net, optimizer, progress.ledger)


def _collected(
    transport: Transport,
    placement: Placement,
    whole: Network,
    net: Network,
    optimizer: Optimizer,
    base: Ledger,
    progress: Progress,
) -> Run | None:
    """On rank 0, the run as one process would have it, with `whole` brought up to date; None on others."""
    ledger = _together(transport, base, progress.ledger)
    arrays = _of_rank(checkpoint.arrays_of(net, optimizer, progress.ledger), placement, transport.rank, net)
    if transport.rank != 0:
        send_arrays(transport, 0, arrays)
        return None
    complete = replace(optimizer, state={})
    for part in [arrays, *(receive_arrays(transport, rank) for rank in range(1, transport.size))]:
        checkpoint.put_arrays(part, whole, complete, ledger)
    return Run(whole, complete, Progress(**_position(progress), ledger=ledger))


def _together(transport: Transport, base: Ledger, own: Ledger) -> Ledger:
    """`base` and what all ranks counted since, on every rank."""
    total = base + own
    total.runs = max(base.runs, own.runs)
    for rank, part in enumerate(gather(transport, own.as_dict())):
        if rank != transport.rank:
            counted = Ledger.from_dict(part)
            total += Ledger(0, counts=counted.counts, coded_counts=counted.coded_counts)
    if total.coded_counts is not None:  # rows in the order of first messages, as in one process
        coded = total.coded_counts.settle().counts
        total.coded_counts.counts = {kind: coded[kind] for kind in total.traffic if kind in coded}
    return total
