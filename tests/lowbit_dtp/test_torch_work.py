"""Work and memory accesses of torch models: against `Network`, by hand, on meta tensors, and in training."""

import copy
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from hw_models import HardwareConfig, Technology, price  # noqa: E402
from lowbit_dtp import Link, estimate  # noqa: E402
from lowbit_dtp.ledger import Direction  # noqa: E402
from lowbit_dtp.optimizers import SGD, Adam, Optimizer, RMSprop  # noqa: E402
from lowbit_dtp.torch_modules import count_update, count_work, estimate_model, wire  # noqa: E402
from tests.lowbit_dtp.decoders import Decoder  # noqa: E402


def loss(output: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(output, torch.zeros(len(output), dtype=torch.long))


def macs(ledger: Any, purpose: str) -> int:
    return sum(n for w, n in ledger.work.items() if (w.operation, w.purpose) == ("multiply-accumulate", purpose))


@pytest.mark.parametrize("links", ["float32", "fixed(4,1)"])
@pytest.mark.parametrize(
    ("name", "settings", "rule"),
    [("SGD", {}, SGD(1.0)), ("SGD", {"momentum": 0.9}, SGD(1.0, momentum=0.9)), ("AdamW", {}, Adam(1.0))],
)
def test_a_chain_counts_as_a_network(links: str, name: str, settings: dict[str, Any], rule: Optimizer) -> None:
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    given = {"1": f"{links}/ternary", "3": f"{links}/ternary"}
    made = estimate_model(model, [torch.empty(4, 6)], given, loss=loss, optimizer=name, settings=settings, steps=3)
    inner = [Link(links, "ternary") for _ in range(2)]
    known = estimate(
        [6, 7, 5, 3], "straight-through", [Link(), *inner], rule, samples=12, batch=4, inferences=12, activation="tanh"
    )
    names = {"h1": ("0", "1"), "h2": ("2", "3"), "output": ("4", "loss")}
    for one, other in ((made.training, known.training), (made.inference, known.inference)):
        expected = {}
        for work, times in other.work.items():  # a function is a module of its own, as is the loss
            product, function = names[work.layer]
            layer = function if work.operation == "tanh" or work.purpose == "softmax" else product
            expected[work._replace(layer=layer)] = times
        assert one.work == expected
        assert one.accesses == {a._replace(layer=names[a.layer][0]): n for a, n in other.accesses.items()}
    training = {("1", "h1-h2"), ("3", "h2-output")}
    for link, edge in training:
        for direction in Direction:
            assert made.training.bits(link, direction) == known.training.bits(edge, direction)


def test_counts_of_a_convolutional_net() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    ledger = count_work(model, [torch.zeros(2, 3, 8, 8)])
    first, second, last = 2 * 64 * 4 * 27, 2 * 4 * 6 * 18, 2 * 24 * 5
    assert [macs(ledger, p) for p in ("activations", "error", "gradient")] == [
        first + second + last, second + last, first + second + last,
    ]  # fmt: skip
    words = {(a.layer, a.operation, a.purpose): n for a, n in ledger.accesses.items() if a.array == "weight"}
    assert words["0", "read", "activations"] == 2 * 108  # positions of a sample share a read
    assert words["4", "read", "error"] == 2 * 6 * 2 * 9
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_product_has_the_formats_of_its_operands() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high, self.relu = nn.Linear(6, 7), nn.Linear(7, 3), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.high(self.low(x))

    made = estimate_model(
        Net(), [torch.empty(2, 6)], {"low": "binary/fixed(4,1)"}, weight_formats={"high.weight": "ternary"}
    )
    of = {(w.layer, w.purpose): (w.left, w.right) for w in made.training.work if w.operation == "multiply-accumulate"}
    assert of == {
        ("low", "activations"): ("float32", "float32"),
        ("high", "activations"): ("binary", "ternary"),
        ("high", "error"): ("float32", "ternary"),
        ("high", "gradient"): ("binary", "float32"),
        ("low", "gradient"): ("float32", "fixed(4,1)"),
    }
    with pytest.raises(ValueError, match=r"^no parameter 'weight'; there are: high.bias, high.weight, low.bias, low"):
        estimate_model(Net(), [torch.empty(2, 6)], {}, weight_formats={"weight": "ternary"})


def test_an_estimate_is_what_training_counts_but_for_ones_and_toggles() -> None:
    model, text = Decoder(2, 8, 2, 12, 11), torch.zeros(3, 5, dtype=torch.long)
    links = {"blocks.0": "fixed(4,1)/shared(4)", "blocks.1": "binary"}
    made = estimate_model(model, [text], links, optimizer="Adam", steps=2)
    ledger = wire(model, links)
    trainer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        functional.cross_entropy(model(text).flatten(0, 1), text.flatten()).backward()
        trainer.step()
    with torch.no_grad():
        model(text), model(text)
    for one, other in ((made.training, ledger), (made.inference, ledger.inference)):
        assert (one.work, one.accesses) == (other.work, other.accesses)
        assert {m: t.messages for m, t in one.traffic.items()} == {m: t.messages for m, t in other.traffic.items()}
        assert (one.samples, one.batch) == (other.samples, other.batch)
    assert ledger.steps == made.training.steps == 2
    assert {row.get("ones_and_toggles", row.get("note")) for row in made.assumptions()} == {
        "activity 0.5", "the loss is not counted",
    }  # fmt: skip
    bill = price(ledger, HardwareConfig(), Technology.load("45nm"))
    assert set(bill.by("part")) == {"link", "compute", "memory"}
    assert bill.total.typical > 0


def test_a_checkpoint_computes_again_and_sends_once() -> None:
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Module):
        def __init__(self, again: bool) -> None:
            super().__init__()
            self.low, self.high, self.again = nn.Sequential(nn.Linear(6, 7), nn.Tanh()), nn.Linear(7, 3), again

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.high(checkpoint(self.low, x, use_reentrant=False) if self.again else self.low(x))

    once, twice = (estimate_model(Net(again), [torch.empty(2, 6)], {"low.0": "binary"}) for again in (False, True))
    assert once.training.traffic == twice.training.traffic
    assert macs(twice.training, "gradient") == macs(once.training, "gradient")
    assert macs(twice.training, "activations") == macs(once.training, "activations") + 2 * 6 * 7


def test_steps_are_counted_whatever_wraps_the_model() -> None:
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    expected = count_work(model, [torch.empty(2, 6)])
    ledger = wire(model, {"0": "binary"})
    compiled = torch.compile(model, backend="eager")
    for _ in range(3):
        compiled(torch.ones(2, 6)).sum().backward()
    assert macs(ledger, "gradient") == 3 * macs(expected, "gradient")
    assert count_work(compiled, [torch.empty(2, 6)]).accesses.keys() == ledger.accesses.keys()


def test_a_model_that_depends_on_numbers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.low(x) if x.sum().item() > 0 else x

    model = Net()
    with pytest.raises(ValueError, match=r"^what Net computes depends on numbers, not on shapes: DataDependentOutput"):
        count_work(model, [torch.ones(2, 6)])
    ledger = wire(model, {"low": "binary"})
    with pytest.warns(UserWarning, match=r"^operations and memory accesses of Net are not counted: what Net computes"):
        model(torch.ones(2, 6))
    assert ledger.bits("low") == 6
    assert not ledger.work
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.ones(2, 6))  # said once


def test_hooks_of_others_see_no_tensor_without_numbers() -> None:
    model, seen = nn.Sequential(nn.Linear(6, 3)), []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    ledger = wire(model, {"0": "binary"})
    output = model(torch.ones(2, 6))
    assert [type(x) for x in seen] == [torch.Tensor]
    assert len(model[0]._forward_hooks) == 2
    assert set(output.flatten().tolist()) <= {-1.0, 1.0}
    assert ledger.work


def test_what_cannot_be_estimated() -> None:
    model = nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"^steps must be a whole number, 1 or more, not 0$"):
        estimate_model(model, [torch.empty(1, 2)], {}, steps=0)
    with pytest.raises(ValueError, match=r"^no optimizer 'LBFGS'; there are: Adam, AdamW, RMSprop, SGD$"):
        count_update(count_work(model, [torch.empty(1, 2)]), dict(model.named_parameters()), "LBFGS", {})
    with pytest.raises(ValueError, match=r"^the model is given no tensor with an axis of samples, so its work cannot"):
        count_work(model, [1.0])


def test_work_of_updates_is_that_of_the_rules() -> None:
    parameter = {"low.weight": nn.Parameter(torch.empty(2, 3)), "low.bias": torch.empty(3)}
    for name, settings, rule in (("RMSprop", {}, RMSprop(1.0)), ("SGD", {"momentum": 0.5}, SGD(1.0, momentum=0.5))):
        count_update(ledger := count_work(nn.Identity(), [torch.empty(1, 2)]), parameter, name, settings, 5)
        assert {w.operation: n for w, n in ledger.work.items()} == {k: n * 30 for k, n in rule.operations.items()}
