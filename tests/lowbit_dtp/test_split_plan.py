"""Plans of split networks, held to what ranks really send."""

from dataclasses import replace

import pytest

from lowbit_dtp import Comparison
from lowbit_dtp.data import load
from lowbit_dtp.distributed import Placement, SplitError, split_network
from lowbit_dtp.distributed.planning import Wire, plan
from lowbit_dtp.distributed.split import split_samples
from lowbit_dtp.ledger import Direction
from lowbit_dtp.training import Progress, fit
from tests.conformance.test_split import Threads, on_ranks


@pytest.mark.parametrize("spec", ["dtp", "straight-through@ternary*0.05", "dtp-fixed"])
def test_a_plan_has_the_messages_and_bytes_that_ranks_send(spec: str) -> None:
    experiment = replace(Comparison.load("digits").experiment(spec, seed=0), epochs=1)
    made, train = plan(experiment, "h1|h2,output"), load("digits").train

    def work(transport: Threads) -> list[int]:
        net, rule, optimizer = experiment.built()
        net = split_network(net, Placement({"h1": 0, "h2": 1, "output": 1}), transport)
        for _ in fit(net, rule, optimizer, split_samples(train, net), 1, experiment.batch, 0, Progress(), "plain"):
            pass
        return transport.sent

    sent = on_ranks(2, work)
    for rank in range(2):
        crossings = [x for x in made.crossings if x.sender == rank]
        assert sum(x.messages for x in crossings) * made.steps == pytest.approx(len(sent[rank]))
        assert sum(x.size for x in crossings) * made.steps == pytest.approx(sum(sent[rank]))


def test_a_plan_of_a_rank_for_each_layer_says_what_each_sends_and_holds() -> None:
    made = plan(Comparison.load("mnist").experiment("straight-through", seed=0), "each")
    assert [(x.sender, x.receiver, x.link, x.direction, x.payload) for x in made.crossings] == [
        (0, 1, "h1-h2", Direction.FORWARD, 100 * 8 * 8),  # 500 bits are 8 words of 64
        (1, 2, "h2-output", Direction.FORWARD, 100 * 500 * 4),
        (2, 1, "h2-output", Direction.FEEDBACK, 100 * 500 * 4),
        (1, 0, "h1-h2", Direction.FEEDBACK, 100 * 500 * 4),
    ]
    assert [(x.layers, x.operations) for x in made.ranks] == [
        (("h1",), 100 * 784 * 500 * 2), (("h2",), 100 * 500 * 500 * 3), (("output",), 100 * 500 * 10 * 3),
    ]  # fmt: skip
    wire = Wire.parse("10Mbit/s,1ms")
    size = 6400 + 3 * 200_000 + 4 * 32
    assert made.turns(wire, 1e9) == pytest.approx(4 * 1e-3 + 8 * size / 1e7 + (78.4 + 75 + 1.5) * 1e6 / 1e9)
    assert made.overlapped(wire, 1e9) == pytest.approx(8 * 200_032 / 1e7)


def test_a_split_or_wire_that_is_none_is_refused() -> None:
    experiment = Comparison.load("digits").experiment("dtp", seed=0)
    with pytest.raises(SplitError, match=r"--split .h1\|h2.: output is on no rank; name every layer"):
        plan(experiment, "h1|h2")
    for text in ("10Mb", "10Mbit/s", "0Mbit/s,1ms", "10Mbit/s,ms"):
        with pytest.raises(ValueError, match=f"wire {text!r}: give its bits a second and its latency"):
            Wire.parse(text)
