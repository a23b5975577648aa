"""A network split over ranks learns what it learns in one process, bit for bit: every rule, every format."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import rules
from lowbit_dtp.data import Samples
from lowbit_dtp.distributed import Placement, SplitError, split_network
from lowbit_dtp.distributed.split import check, split_samples
from lowbit_dtp.distributed.transport import HEADER_BYTES, Bytes
from lowbit_dtp.formats import Format, ufixed
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network, layer_names
from lowbit_dtp.optimizers import RMSprop
from lowbit_dtp.tasks import Classify, Task
from lowbit_dtp.training import Progress, evaluate, fit
from tests.conformance.cases import FORMATS, LABELS, RULES, RuleCase, small_inputs
from tests.conformance.test_estimates import network, samples_of


@dataclass
class Threads:
    """Ranks that are threads of one process."""

    rank: int
    size: int
    wires: dict[tuple[int, int], "queue.Queue[Bytes]"]
    sent: list[int] = field(default_factory=list)
    """Bytes of each message."""

    def send(self, rank: int, message: Bytes) -> None:
        self.sent.append(message.size)
        self.wires[self.rank, rank].put(message)

    def receive(self, rank: int, size: int) -> Bytes:
        return self.wires[rank, self.rank].get(timeout=20)


def on_ranks(size: int, work: Callable[[Threads], Any]) -> list[Any]:
    """What `work` gives on each rank."""
    wires: dict[tuple[int, int], queue.Queue[Bytes]] = {(a, b): queue.Queue() for a in range(size) for b in range(size)}
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, size, wires))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def trained(net: Network, rule: rules.LearningRule, task: Task, samples: Samples) -> tuple[Network, dict[str, Ledger]]:
    """The network after two epochs, and the ledgers of training and of an evaluation."""
    progress, testing = Progress(), Ledger()
    for _ in fit(net, rule, RMSprop(1e-3), samples, 2, 2, progress=progress, task=task, mode="plain"):
        pass
    inference = net.with_links(rule.inference_links(net.links))
    evaluate(inference, samples, testing, task=task, rule=rule)
    return net, {"training": progress.ledger, "inference": testing}


def learns_the_same(
    build: Callable[[], Network], rule: rules.LearningRule, task: Task, samples: Samples, groups: Sequence[str]
) -> list[Threads]:
    """Hold a training on ranks, `groups` of layers, to one in one process; returns the ranks."""
    expected, ledgers = trained(build(), rule, task, samples)
    placement = Placement.parse("|".join(groups), [layer.name for layer in expected.layers], len(groups))
    check(rule, task, placement)

    def work(transport: Threads) -> tuple[Threads, Network, dict[str, Ledger]]:
        net = split_network(build(), placement, transport)
        return transport, *trained(net, rule, task, split_samples(samples, net))

    ranks = on_ranks(len(groups), work)
    for transport, net, _ in ranks:
        for layer in (layer for layer in net.layers if placement[layer.name] == transport.rank):
            arrays = expected.layer(layer.name).arrays()
            for name, x in layer.arrays().items():
                np.testing.assert_array_equal(x, arrays[name])
    for name, ledger in ledgers.items():
        together = ledger.empty()
        for _, _, counted in ranks:
            together += Ledger(0, counts=counted[name].counts)
        assert together.as_dict() == ledger.as_dict()  # rows in the same order, too
    return [transport for transport, _, _ in ranks]


@pytest.mark.parametrize("learner", RULES.values(), ids=RULES)
def test_every_rule_learns_the_same_on_several_ranks(learner: RuleCase) -> None:
    at = {min(len(learner.sizes) // 2, len(learner.sizes) - 2): Link("binary", "ternary")}
    groups = layer_names(learner.sizes)[1:]
    if learner.task.name in ("reconstruct", "quantize") and len(groups) > 1:
        placement = Placement.parse("|".join(groups), groups, len(groups))
        with pytest.raises(SplitError, match="put the lowest layer and the output on one rank"):
            check(learner.rule, learner.task, placement)
        groups = [f"{groups[0]},{groups[-1]}", *groups[1:-1]]
    learns_the_same(lambda: network(learner, at), learner.rule, learner.task, samples_of(learner), groups)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_message_of_any_format_is_the_ledgers_padded_bits_and_a_header(fmt: Format) -> None:
    links = [Link(ufixed(8, 0)), Link(fmt, fmt), Link()]
    samples = Samples(small_inputs(6), LABELS)
    ranks = learns_the_same(
        lambda: Network.build([6, 70, 5, 3], links), rules.DTP(), Classify(), samples, ["h1", "h2,output"]
    )
    _, ledgers = trained(Network.build([6, 70, 5, 3], links), rules.DTP(), Classify(), samples)
    for transport, direction in zip(ranks, Direction, strict=True):
        bits = sum(ledger.bits("h1-h2", direction, word_bits=64) for ledger in ledgers.values())
        assert sum(transport.sent) == bits / 8 + HEADER_BYTES * len(transport.sent)


def test_a_wider_network_takes_the_kernels_of_one_process() -> None:
    links = [Link(ufixed(8, 0)), Link("binary", "binary"), Link("ternary", "fixed(4,-2)")]
    rng = np.random.default_rng(0)
    samples = Samples(rng.integers(0, 256, (150, 64), np.uint8), rng.integers(0, 10, 150), ufixed(8, 0))
    learns_the_same(
        lambda: Network.build([64, 100, 100, 10], links), rules.DTP(), Classify(), samples, ["h1", "h2", "output"]
    )


@pytest.mark.parametrize(
    ("text", "size", "said"),
    [
        ("h1|h3", 2, "--split 'h1|h3': no layer 'h3'; there are: h1, h2, output"),
        ("h1|h2", 2, "--split 'h1|h2': output is on no rank; name every layer"),
        ("h1|h1,h2,output", 2, "--split 'h1|h1,h2,output': h1 is named twice; a layer is on one rank"),
        (
            "h1|h2,output", 3,
            "--split 'h1|h2,output' is for 2 ranks, and 3 run; start torchrun with --nproc-per-node 2, or --nnodes",
        ),
    ],
)  # fmt: skip
def test_a_placement_that_is_none_is_refused(text: str, size: int, said: str) -> None:
    with pytest.raises(SplitError) as error:
        Placement.parse(text, ["h1", "h2", "output"], size)
    assert str(error.value) == said


def test_a_rule_that_settles_as_far_as_needed_is_refused() -> None:
    with pytest.raises(SplitError, match="stops when all layers have settled, which no rank knows alone"):
        check(rules.ContrastiveHebbian(tolerance=0.1), Classify(), Placement({"h1": 0, "output": 1}))
