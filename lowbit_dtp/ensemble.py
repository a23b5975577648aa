"""Ensembles: runs of one kind, trained in one batch with a leading axis over the runs in every array."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .backends import Array, backend_of
from .backends.devices import mover
from .codings import CodedCounts
from .counts import Counts, Traffic, by_member
from .ledger import Ledger, merged
from .network import Network
from .optimizers import Optimizer, State
from .training import Progress
from .wires import Wires

RATES = ("learning_rate", "feedback_learning_rate")


class Run(NamedTuple):
    """All that changes while a network, or an ensemble, is trained."""

    net: Network
    optimizer: Optimizer
    progress: Progress


def stack(runs: Sequence[Run], device: str) -> Run:
    """Runs in NumPy arrays, of one architecture and equal progress, as one on `device`. Learning rates may differ."""
    move = mover(device)
    first = runs[0]

    def stacked(values: list[Any]) -> Array:
        return move(np.stack(values))

    state = {
        key: tuple(stacked([run.optimizer.state[key][i] for run in runs]) for i in range(len(words)))
        for key, words in first.optimizer.state.items()
    }
    each = {name: tuple(getattr(run.optimizer, name) for run in runs) for name in RATES}
    rates: dict[str, Any] = {name: values[0] if len(set(values)) == 1 else values for name, values in each.items()}
    progress = replace(
        first.progress,
        loss=stacked([run.progress.loss for run in runs]),
        ledger=stack_ledgers([run.progress.ledger for run in runs], stacked),
    )
    net = Network.ensemble([run.net for run in runs]).each_array(move)
    return Run(net, replace(first.optimizer, state=state, **rates), progress)


def unstack(run: Run) -> list[Run]:
    """The members of an ensemble as runs in NumPy arrays; for a single network, its run."""
    net, optimizer, progress = run
    if net.members is None:
        return [run]
    xp = backend_of(net.layers[0].weight)
    host, loss, ledgers = net.each_array(xp.numpy), xp.numpy(progress.loss), unstack_ledger(progress.ledger)
    state = {key: [xp.numpy(word) for word in words] for key, words in optimizer.state.items()}
    runs = []
    for i, ledger in enumerate(ledgers):
        ledger.wires = ledger.wires.each(lambda x: _unsigned(xp.numpy(x)))
        rates = {name: rate[i] for name in RATES if isinstance(rate := getattr(optimizer, name), Sequence)}
        own: State = {key: tuple(_of_member(x, i) for x in words) for key, words in state.items()}
        runs.append(
            Run(
                host.each_array(lambda x, i=i: x[i]),  # type: ignore[misc]
                replace(optimizer, state=own, **rates),
                replace(progress, loss=loss[i], ledger=ledger),
            )
        )
    return runs


def snapshots(net: Network) -> list[Network]:
    """Copies of the members of an ensemble in NumPy arrays, as they are now; of a single network, one."""
    xp = backend_of(net.layers[0].weight)
    if net.members is None:
        return [net.each_array(lambda x: np.array(xp.numpy(x)))]
    host = net.each_array(xp.numpy)
    return [host.each_array(lambda x, i=i: np.array(x[i])) for i in range(net.members)]  # type: ignore[misc]


def stack_ledgers(ledgers: Sequence[Ledger], stack: Callable[[list[Any]], Array]) -> Ledger:
    """The ledger of an ensemble whose members have `ledgers`, the inverse of `unstack_ledger`; `stack` joins arrays."""
    together = merged(ledgers)
    for message_type, traffic in together.counts.traffic.items():
        each = [ledger.traffic[message_type] for ledger in ledgers]
        traffic.ones = stack([t.ones for t in each])
        traffic.toggles = stack([t.toggles for t in each])
    if together.codings:
        together.coded_counts = CodedCounts.stacked([x.coded_counts for x in ledgers if x.coded_counts is not None])
    together.wires = Wires({wire: stack([ledger.wires[wire] for ledger in ledgers]) for wire in ledgers[0].wires})
    return together


def unstack_ledger(ledger: Ledger) -> list[Ledger]:
    """The ledger of each member of an ensemble, as if it had been trained by itself.

    If a member was to send an invalid number, its ledger raises ValueError when its `traffic` is read.
    """
    members, counts = ledger.runs, ledger.counts.settle()
    by_kind = {
        message_type: (t.messages // members, [by_member(count, members) for count in (t.ones, t.toggles, t.invalid)])
        for message_type, t in counts.traffic.items()
    }
    return [
        Ledger(
            1,
            ledger.epochs // members,
            ledger.steps // members,
            ledger.samples // members,
            ledger.batch,
            ledger.wires.each(lambda x, i=i: x[i]),  # type: ignore[misc]
            Counts(
                {kind: Traffic(messages, *(x[i] for x in each)) for kind, (messages, each) in by_kind.items()},
                {work: times // members for work, times in counts.work.items()},
                {access: words // members for access, words in counts.accesses.items()},
            ),
            coded_counts=ledger.coded_counts and ledger.coded_counts.of_member(i, members),
        )
        for i in range(members)
    ]


def _of_member(x: np.ndarray, i: int) -> np.ndarray:
    """The part of member `i` of an array with an axis over members, or the array if all members share it."""
    return x[i] if len(x) > 1 else x[0].copy()


def _unsigned(words: np.ndarray) -> np.ndarray:
    """Unsigned words, as the NumPy backend has them, for the signed words of torch."""
    return words.view({np.dtype(np.int64): np.uint64, np.dtype(np.int32): np.uint32}.get(words.dtype, words.dtype))


def member_bytes(net: Network, optimizer: Optimizer, batch: int, tested: int = 1000) -> int:
    """Estimate of the memory that one member of an ensemble takes on a device, rather too high than too low.

    Weights, optimizer state, gradients and two temporaries; some twelve numbers a neuron of each sample of a minibatch
    in training, and six where `tested` samples are tested at a time.
    """
    parameters = sum(prod(x.shape) for x in net.tensors().values())
    samples = max(12 * batch, 6 * tested)
    return 4 * (parameters * (4 + optimizer.state_words) + samples * sum(net.sizes))
