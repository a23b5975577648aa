"""Links in torch models: the numbers and counts of a `Network`, however torch runs the model."""

import copy
import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lowbit_dtp import rules
from lowbit_dtp.formats import Format
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.rules.rule import StepContext
from lowbit_dtp.torch_modules import LinkModule, WiredLedger, ledger_of, unwire, wire
from tests.conformance.cases import FORMATS, small_inputs

UP, DOWN = Direction.FORWARD, Direction.FEEDBACK


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Five samples and their labels."""
    return torch.from_numpy(small_inputs(6)), torch.arange(5) % 3


def learn(model: Any, passes: int = 1) -> None:
    """Passes with gradients; their sum is left in the parameters."""
    x, labels = batch()
    for _ in range(passes):
        nn.functional.cross_entropy(model(x), labels).backward()


def traffic(ledger: Ledger) -> dict[Any, Any]:
    return {
        (kind.link, kind.direction, kind.purpose, kind.format, kind.width): (t.messages, t.ones, t.toggles)
        for kind, t in ledger.traffic.items()
    }


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if not fmt.stochastic], ids=str)
def test_a_chain_has_the_codes_gradients_and_ledger_of_a_network(fmt: Format) -> None:
    links = [Link(), Link(fmt, fmt), Link("ternary", "fixed(4,-2)")]
    net = Network.build([6, 12, 10, 3], links)
    x, labels = batch()
    expected = Ledger()
    step = rules.StraightThrough().step(net, x.numpy(), labels.numpy(), expected, StepContext())

    model = small()
    for module, layer in zip(model[::2], net.layers, strict=True):
        module.weight.data = torch.from_numpy(np.ascontiguousarray(layer.weight.T))  # type: ignore[union-attr]
        module.bias.data = torch.from_numpy(layer.bias.copy())  # type: ignore[union-attr]
    ledger = wire(model, {"1": f"{fmt}/{fmt}", "3": "ternary/fixed(4,-2)"})
    learn(model)

    for (name, array), gradient in step.gradients.items():
        if name not in ("h1", "h2", "output") or array not in ("weight", "bias"):
            continue
        module: Any = model[2 * ("h1", "h2", "output").index(name)]
        ours = module.weight.grad.T if array == "weight" else module.bias.grad
        np.testing.assert_allclose(ours.numpy(), np.asarray(gradient), rtol=1e-5, atol=1e-6)
    names = {"h1-h2": "1", "h2-output": "3"}
    there = {(names[link], *rest): x for (link, *rest), x in traffic(expected).items() if link in names}
    found = traffic(ledger)
    assert found.keys() == there.keys()
    for kind, counts in there.items():
        if fmt.bits >= 16 or fmt.name == "nvfp4":  # whose last bits, and scales, depend on the order of sums
            assert found[kind][0] == counts[0]
            assert found[kind][1:] == pytest.approx(counts[1:], rel=0.05)
        else:
            assert found[kind] == counts
    assert (ledger.samples, ledger.batch) == (5, 5)


def in_autocast(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out: torch.Tensor = model(x)
        return out.float()

    return run


class Checkpointed(nn.Module):
    """The chain, of which the lower part is computed again for the gradients."""

    def __init__(self, chain: nn.Sequential, reentrant: bool) -> None:
        super().__init__()
        self.chain, self.reentrant = chain, reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: Any = checkpoint(self.chain[:4], x.requires_grad_(), use_reentrant=self.reentrant)
        out: torch.Tensor = self.chain[4](hidden)
        return out


@pytest.mark.parametrize("way", ["compiled", "autocast", "checkpoint", "reentrant checkpoint"])
def test_however_torch_runs_the_model_it_sends_the_same(way: str) -> None:
    formats = {"1": "binary/ternary*0.05", "3": "fixed(4,1)/binary*0.1"}
    plain = small()
    expected = wire(plain, formats)
    learn(plain, 2)
    model: Any = small()
    if "checkpoint" in way:
        model = Checkpointed(model, way.startswith("reentrant"))
        formats = {f"chain.{name}": spelled for name, spelled in formats.items()}
    ledger = wire(model, formats)
    run: Any = model
    if way == "compiled":
        run = torch.compile(model, backend="aot_eager")
    elif way == "autocast":
        run = in_autocast(model)
    learn(run, 2)
    codes = {(link.split(".")[-1], *rest): counts for (link, *rest), counts in traffic(ledger).items()}
    if way == "autocast":  # of bfloat16 activations, some bits differ
        assert {kind: counts[0] for kind, counts in codes.items()} == {
            kind: counts[0] for kind, counts in traffic(expected).items()
        }
        return
    assert codes == traffic(expected)
    assert ledger.samples == expected.samples == 10
    assert not ledger.inference.traffic
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_stochastic_rounding_is_drawn_alike_when_a_checkpoint_computes_again() -> None:
    model = Checkpointed(small(), reentrant=False)
    ledger = wire(model, {"chain.1": "fixed(2,0,stochastic)/fixed(2,-2,stochastic)"})
    torch.manual_seed(1)
    x, _ = batch()
    seen: list[torch.Tensor] = []
    model.chain[2].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    model(x).sum().backward()
    assert len(seen) == 2 and torch.equal(*seen)
    model(x)
    assert not torch.equal(seen[0], seen[2])
    assert ledger.codes("chain.1", UP) == 10 * 12


def test_accumulated_gradients_are_one_step_and_passes_without_gradients_are_inference() -> None:
    model = small()
    ledger = wire(model, {"1": "binary"})
    optimizer, other = (torch.optim.SGD(x.parameters(), 0.1) for x in (model, small()))
    for _ in range(2):
        learn(model, 3)
        optimizer.step()
        other.step()
    model.eval()
    with torch.no_grad():
        model(batch()[0][:4])
    assert (ledger.steps, ledger.samples, ledger.batch) == (2, 30, 5)
    assert (ledger.inference.steps, ledger.inference.samples) == (0, 4)
    assert ledger.bits("1", UP) == 30 * 12 and ledger.bits("1", DOWN) == 30 * 12 * 32
    assert ledger.inference.bits("1") == 4 * 12
    assert ledger.bits("1", per="step") == 15 * 12 * 33


def test_the_samples_of_a_gradient_are_those_of_its_own_pass() -> None:
    gradients = []
    for passes in (0, 1):
        model = small()
        wire(model, {"1": "float32/fixed(8,-4)"})
        x, labels = batch()
        loss = nn.functional.cross_entropy(model(x), labels)
        for _ in range(passes):
            with torch.no_grad():
                model(torch.ones(50, 6))
        loss.backward()
        gradients.append(model[0].weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_links_send_gradients_without_the_scale_of_mixed_precision() -> None:
    plain, model = small(), small()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    expected = wire(plain, {"1": "binary/ternary*0.05"})
    ledger = wire(model, {"1": "binary/ternary*0.05"}, scaler=scaler)
    learn(plain)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, labels = batch()
    scaler.scale(nn.functional.cross_entropy(model(x), labels)).backward()
    scaler.unscale_(optimizer)
    assert traffic(ledger) == traffic(expected)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    scaler.update()
    before = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    (scaler.scale(model(x).sum()) * float("inf")).backward()  # overflows, and passes the link as it is
    scaler.step(optimizer)
    assert not model[0].weight.grad.isfinite().any()
    assert ledger.steps == 0 and ledger.codes("1", DOWN) == 2 * 5 * 12
    assert all(torch.equal(new, old) for new, old in zip(model.state_dict().values(), before.values(), strict=True))


def test_a_compiled_model_is_compiled_again_when_links_come_and_go() -> None:
    model, x = small(), batch()[0]
    out = model(x)
    run = torch.compile(model, backend="aot_eager")
    run(x).sum().backward()
    ledger = wire(model, {"1": "binary/ternary"})
    run(x).sum().backward()
    assert ledger.bits("1") == 5 * 12 * 3 and ledger.samples == 5
    unwire(model)
    torch.testing.assert_close(run(x), out)
    assert ledger.samples == 5


def test_rest_is_what_is_called_and_each_module_has_one_link() -> None:
    tanh = nn.Tanh()
    model = nn.Sequential(nn.Linear(2, 2), tanh, nn.Sequential(nn.Linear(2, 2), tanh))
    ledger = wire(model, {"1": "binary"}, rest="float32")
    model(torch.ones(1, 2))
    assert {kind.link: (kind.format, t.messages) for kind, t in ledger.traffic.items()} == {
        "0": ("float32", 1), "1": ("binary", 2), "2": ("float32", 1)
    }  # fmt: skip
    blocks = Blocks()
    ledger = wire(blocks, {"head": "binary"}, rest="float32")
    blocks(torch.ones(1, 2))
    assert ledger.links() == ["blocks.0", "blocks.1", "head"]


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.head = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        out: torch.Tensor = self.head(x)
        return out


def test_what_arrives_over_float32_has_32_bits_and_the_wires_keep_one_message() -> None:
    model = small().double()
    ledger = wire(model, {"1": "float32"})
    seen: list[torch.Tensor] = []
    model[2].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(batch()[0].double())
    assert seen[0].dtype == torch.float64 and torch.equal(seen[0], seen[0].float().double())
    assert seen[0].unique().numel() > 30
    word = ledger.wires["1", UP]
    assert word.size == 12 and word.base is None


def test_a_wired_model_is_saved_whole_with_its_links() -> None:
    model, file = small(), io.BytesIO()
    wire(model, {"1": "ternary/ternary*0.05"})
    torch.save(model, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    learn(other)
    learn(model)
    assert ledger_of(other) == ledger_of(model) and ledger_of(other).samples == 5


def test_the_state_dict_and_an_unwired_model_are_as_before() -> None:
    model = small()
    before, x = copy.deepcopy(model.state_dict()), batch()[0]
    out = model(x)
    ledger = wire(model, {"*": "binary/binary*0.1"})
    assert not torch.equal(model(x), out)
    assert list(model.state_dict()) == list(before)
    small(1).load_state_dict(model.state_dict())
    model.load_state_dict(before)
    unwire(model)
    assert torch.equal(model(x), out)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    samples = ledger.samples
    learn(model)
    assert ledger.samples == samples


def test_a_copy_of_a_wired_model_has_a_ledger_of_its_own() -> None:
    model = small()
    ledger = wire(model, {"1": "ternary/ternary*0.05"})
    other = copy.deepcopy(model)
    learn(other)
    assert not ledger.traffic and ledger.samples == 0
    assert ledger_of(other).codes("1", UP) == 5 * 12 and ledger_of(other).samples == 5
    torch.optim.SGD(other.parameters(), 0.1).step()
    assert (ledger.steps, ledger_of(other).steps) == (0, 1)
    learn(model)
    assert ledger == ledger_of(model) and ledger.codes("1", DOWN) == 5 * 12


class Convolutional(nn.Module):
    """Layers of several kinds, with an operation in place after a link and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.block(self.block(x)).relu_()
        out: torch.Tensor = self.head(x.flatten(1))
        return out


def test_messages_are_samples_of_images_and_tokens_of_sequences() -> None:
    model, x = Convolutional(), torch.randn(2, 3, 6, 6)
    ledger = wire(model, {"stem.0": "fixed(4,1)/shared(4)", "block": "binary/ternary"}, rest="float32")
    model(x).sum().backward()
    assert {(kind.link, kind.direction, kind.width): t.messages for kind, t in ledger.traffic.items()} == {
        ("stem.0", UP, 144): 2, ("stem.1", UP, 144): 2, ("block", UP, 144): 4, ("head", UP, 3): 2,
        ("stem.0", DOWN, 144): 2, ("stem.1", DOWN, 144): 2, ("block", DOWN, 144): 4, ("head", DOWN, 3): 2,
    }  # fmt: skip
    assert ledger.bits("stem.0", DOWN) == 2 * (144 * 4 + 8)  # with the exponent of a sample
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for messages, count, width in (("auto", 10, 8), ("token", 10, 8), ("sample", 2, 40)):
        ledger = wire(encoder, {"linear2": "shared(4)"}, messages=messages)
        encoder(torch.randn(2, 5, 8)).sum().backward()
        assert [(kind.width, t.messages) for kind, t in ledger.message_types("linear2", UP)] == [(width, count)]
        unwire(encoder)


def test_a_mean_over_samples_and_a_sum_send_the_same_gradients() -> None:
    ledgers = []
    for reduction in ("mean", "sum"):
        model = small()
        ledgers.append(wire(model, {"1": "binary/ternary*0.05"}, is_mean=reduction == "mean"))
        x, labels = batch()
        nn.functional.cross_entropy(model(x), labels, reduction=reduction).backward()
    assert traffic(ledgers[0]) == traffic(ledgers[1])
    assert ledgers[0].ones("1", DOWN)


class Pair(NamedTuple):
    state: torch.Tensor
    name: str


@dataclass
class Output:
    name: str
    state: torch.Tensor | None = None


@dataclass(frozen=True)
class Frozen:
    state: torch.Tensor


class Gives(nn.Module):
    """A module with any output."""

    def __init__(self, make: Callable[[torch.Tensor], Any], take: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.take = Inner(make), take

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.take(self.inner(x))


class Inner(nn.Module):
    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "take"),
    [
        (lambda x: (None, x), lambda out: out[1]),
        (lambda x: [x], lambda out: out[0]),
        (lambda x: Pair(x, "a"), lambda out: out.state),
        (lambda x: Output("a", x), lambda out: out.state),
        (lambda x: Frozen(x), lambda out: out.state),
        (lambda x: {"state": x, "more": x + 1}, lambda out: out["state"]),
    ],
    ids=["tuple", "list", "named tuple", "dataclass", "frozen dataclass", "mapping"],
)
def test_the_first_tensor_of_an_output_is_sent(make: Any, take: Any) -> None:
    model = Gives(make, take)
    ledger = wire(model, {"inner": "binary"})
    out = model(torch.tensor([[0.3, -0.2]]))
    assert out.tolist() == [[1.0, -1.0]]
    assert ledger.bits("inner") == 2


def test_what_cannot_be_wired_is_refused_by_name() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"no module 'layer1' in Sequential; there are, for example: 0, 1, 2, 3, 4"):
        wire(model, {"layer1": "binary"})
    with pytest.raises(ValueError, match=r"module '1' is named by '1' and by another pattern; name it once"):
        wire(model, {"*": "binary", "1": "ternary"})
    with pytest.raises(ValueError, match="no format 'binry'"):
        wire(model, {"1": "binry"})
    with pytest.raises(ValueError, match="Sequential is not wired; wire"):
        unwire(model)
    with pytest.raises(ValueError, match="messages must be one of auto, sample, token, not 'pixel'"):
        wire(model, {"1": "binary"}, messages="pixel")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    wire(model, {"1": "binary"})
    with pytest.raises(ValueError, match="Sequential is wired already; unwire it first"):
        wire(model, {"3": "binary"})
    tanh = nn.Tanh()
    with pytest.raises(ValueError, match=r"'1' and '3' are one module, shared, and must have the same formats"):
        wire(nn.Sequential(nn.Linear(2, 2), tanh, nn.Linear(2, 2), tanh), {"1": "binary", "3": "ternary"})
    blocks = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)])})
    with pytest.raises(ValueError, match=r"module 'blocks' is a ModuleList, which is never called.*: 'blocks\.\*'$"):
        wire(blocks, {"blocks": "binary"})
    for make, said in (
        (lambda x: "text", "module 'inner' gives str, in which there is no tensor to send; wire one whose output"),
        (lambda x: x.long(), "link inner: the module gives int64, and links carry floating-point numbers"),
    ):
        broken = Gives(make, lambda out: out)
        wire(broken, {"inner": "binary"})
        with pytest.raises(TypeError, match=said):
            broken(torch.ones(1, 2))
    model = small()
    ledger = wire(model, {"1": "binary/ternary"})
    with pytest.raises(ValueError, match="link 1, forward 'activations': binary"):
        model(torch.full((1, 6), float("nan")))
    x = batch()[0].requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="link 1 carries gradients, but not gradients of gradients"):
        slope.sum().backward()
    unwire(model)
    ledger = wire(model, {"1": "binary/ternary"})
    learn(model)  # and the model works afterwards
    assert ledger.codes("1", DOWN) == 5 * 12


RANK = """
import os, torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from lowbit_dtp.torch_modules import wire, Direction
torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
ledger = wire(model, {"1": "binary/ternary*0.05"})
replicas = DistributedDataParallel(model)
optimizer = torch.optim.SGD(replicas.parameters(), 0.1)
for _ in range(3):
    replicas(torch.randn(4, 6)).sum().backward()
    optimizer.step()
codes = [int(ledger.codes("1", direction)) for direction in (Direction.FORWARD, Direction.FEEDBACK)]
model.eval()
with torch.no_grad():
    model(torch.randn(2, 6))
together = ledger.over_ranks()
print(ledger.samples, ledger.steps, *codes)
print(together.samples, together.steps, together.batch, int(together.codes("1")), together.inference.samples)
print(together.ones("1") - ledger.ones("1") > 0, together.runs)
"""


def test_each_replica_of_distributed_data_parallel_counts_its_own() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK], text=True, stdout=subprocess.PIPE,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [rank.communicate(timeout=200)[0].split() for rank in ranks] == [
        ["12", "3", "144", "144", "24", "3", "8", "576", "4", "True", "1"]
    ] * 2


def test_a_link_can_stand_in_a_model_by_itself() -> None:
    link = LinkModule(Link("ternary", "binary*0.1", "camera", "server"))
    model = nn.Sequential(nn.Linear(4, 6), link, nn.Linear(6, 2))
    model(torch.ones(3, 4)).sum().backward()
    with torch.no_grad():
        model(torch.ones(1, 4))
    assert link.books.training.bits("camera-server", UP) == 3 * 6 * 2
    assert link.books.training.bits("camera-server", DOWN) == 3 * 6
    assert link.books.inference.bits("camera-server") == 6 * 2
    assert "camera-server: ternary/binary*0.1" in repr(model)
    assert isinstance(wire(nn.Sequential(nn.Linear(2, 2)), {"0": "binary"}), WiredLedger)
