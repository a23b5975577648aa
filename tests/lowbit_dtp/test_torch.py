"""Torch tensors: random numbers, words and products to the bit; recorded steps, and steps that never wait."""

import shutil
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lowbit_dtp import data, optimizers, rules
from lowbit_dtp.backends import Array, backend_of, packed, torch_gpu, torch_products
from lowbit_dtp.backends.torch_graph import Recorded
from lowbit_dtp.data import Samples
from lowbit_dtp.ensemble import unstack_ledger
from lowbit_dtp.formats import binary, binary01, fixed, ternary, ufixed
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.packing import pack, unpack
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules import LearningRule
from lowbit_dtp.steps import RecordedSteps, Training
from lowbit_dtp.tasks import TASKS
from lowbit_dtp.training import Evaluator, Progress, evaluate, fit
from tests.conformance.cases import CLASSIFIERS

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
every_device = pytest.mark.parametrize("device", DEVICES)
OF_EACH_KIND = (
    "dtp", "dtp-alternating", "dtp-output", "dtp-fixed-mirror", "l-drl", "direct-dtp", "straight-through",
    "straight-through-fixed(4,1)", "fixed-lower", "direct-feedback-alignment", "ternary-errors", "stochastic-dtp",
    "contrastive-hebbian",
)  # fmt: skip
every_rule = pytest.mark.parametrize("rule", [CLASSIFIERS[name] for name in OF_EACH_KIND], ids=OF_EACH_KIND)
SEEDS = (0, 1, 2**40)
SIZES = [64, 20, 20, 10]
LINKS = [Link("ufixed(5,1)"), Link("binary", "fixed(4,1,stochastic)"), Link("fixed(6,1)", "fixed(6,1)")]


@pytest.fixture(scope="module")
def few() -> Samples:
    """Samples of which minibatches of 25 leave a remainder."""
    train = data.load("digits").train
    return Samples(train.stored[:103], train.labels[:103], train.format)


def numpy_of(x: Any) -> np.ndarray:
    return backend_of(x).numpy(x)


# --- random numbers, words, counts ------------------------------------------------------------------------------------


@every_device
@pytest.mark.parametrize("step", [0, 7, 2**33 + 1])
@pytest.mark.parametrize("seed", [3, 2**40 + 5, (1, 2, 2**63)], ids=str)
def test_random_numbers_are_those_of_the_kernels(seed: Any, step: int, device: str) -> None:
    shape = (5, 77) if isinstance(seed, int) else (3, 5, 77)
    here, there = np.zeros(shape, np.float32), torch.zeros(shape, device=device)
    for when in (step, torch.tensor(step, device=device)):
        drawn = RandomStream(seed, when)
        expected = RandomStream(seed, step)
        np.testing.assert_array_equal(numpy_of(drawn.uniform("x", there)), expected.uniform("x", here))
        np.testing.assert_allclose(numpy_of(drawn.normal("x", there)), expected.normal("x", here), atol=2e-6)


@every_device
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 7, 8, 12, 16, 20, 31])
def test_words(bits: int, device: str) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (2, 3, 77)).astype(np.uint32)
    words = torch_gpu.pack(torch.tensor(codes.astype(np.int64), device=device), bits)
    assert np.array_equal(numpy_of(words).view(np.uint64), pack(codes, bits))
    assert np.array_equal(numpy_of(torch_gpu.unpack(words, bits, 77)), unpack(pack(codes, bits), bits, 77))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_every_bit_is_counted(dtype: torch.dtype) -> None:
    ends = torch.iinfo(dtype)
    words = torch.cat(
        [torch.randint(ends.min, ends.max, (500,), dtype=dtype), torch.tensor([ends.min, ends.max, 0], dtype=dtype)]
    )
    unsigned = words.numpy().view(f"u{words.element_size()}")
    assert np.array_equal(torch_gpu._popcount(words).numpy(), np.bitwise_count(unsigned))


@every_device
@pytest.mark.parametrize("fmt", [binary, ternary, fixed(4, 1), ufixed(8, 0), fixed(6, 1)], ids=str)
def test_signals_are_held_as_words(fmt: Any, device: str) -> None:
    """640 neurons take as many bits a sample as they send, and nothing else stays with the signal."""
    x = torch.randn(4, 10, 640, device=device)
    signal = Link(fmt, lower="a", upper="b").send(x, Direction.FORWARD, "activations", Ledger())
    assert signal.carried.element_size() * signal.carried.numel() * 8 == 4 * 10 * 640 * fmt.bits
    assert np.array_equal(numpy_of(signal.values), fmt.quantize(numpy_of(x)).astype(np.float32))
    assert signal.made == {}


def test_a_run_goes_on_with_another_backend() -> None:
    """The last word on a wire is NumPy's codes or words, or torch's words, and counts the same."""
    x = np.random.default_rng(0).standard_normal((3, 70)).astype(np.float32)
    for fmt in (binary, ternary, fixed(4, 1), fixed(12, 3)):
        there, here = backend_of(torch.zeros(1)), backend_of(x)
        words = there.transmit(torch.tensor(x), fmt, None, None).words[-1]
        codes = here.encode(x, fmt, None)[-1]
        expected = there.transmit(torch.tensor(x), fmt, None, words).toggles.item()
        assert expected > 0
        assert there.transmit(torch.tensor(x), fmt, None, torch_gpu.tensor_of(codes, "cpu")).toggles == expected
        assert here.transmit(x, fmt, None, words.numpy().view(np.uint64)).toggles == expected


# --- products ---------------------------------------------------------------------------------------------------------


@every_device
@pytest.mark.parametrize("exact", [torch_products.EXACT, 5000])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("fmt", [binary, binary01, ternary, fixed(4, 1), ufixed(8, 0), fixed(8, 1)], ids=str)
def test_products_are_exact(fmt: Any, dtype: type, exact: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against int64, whole or in parts."""
    monkeypatch.setattr(torch_products, "EXACT", exact)
    for shape in [(5, 70, 9), (1, 2000, 3), (0, 5, 2), (3, 2, 1), (33, 500, 64)]:
        check_product(fmt, shape, dtype, device)


def check_product(fmt: Any, shape: tuple[int, int, int], dtype: type, device: str) -> None:
    rows, below, neurons = shape
    draw, ends, levels = np.random.default_rng(0), np.iinfo(dtype), packed.levels_of(fmt)
    weights = draw.integers(ends.min // 4, ends.max // 4, (below, neurons), endpoint=True).astype(dtype)
    weights.flat[:2] = ends.min, ends.max
    codes = draw.integers(0, levels.highest, (rows, below), endpoint=True).astype(np.uint8)
    expected = (levels.low + levels.step * (codes.astype(np.int64) ^ levels.flip)) @ weights.astype(np.int64)
    words = torch_gpu.pack(torch.tensor(codes, device=device), fmt.bits)
    arranged = torch_products.Weights.arrange(torch.tensor(weights, device=device))
    if levels.largest * int(np.abs(weights.astype(np.int64)).sum(0).max()) >= 2**30:
        return  # near or over what 32 bits hold, of which the next test is
    found = torch_products.product(words, levels, arranged)
    assert found.dtype == torch.int32
    assert np.array_equal(numpy_of(found), expected)
    assert (arranged.below, arranged.neurons) == (below, neurons)


def test_products_that_might_not_be_exact_are_refused() -> None:
    weights = torch_products.Weights.arrange(torch.full((1000, 1), 2**15 - 1, dtype=torch.int16))
    words = torch_gpu.pack(torch.zeros((1, 1000), dtype=torch.uint8), 8)
    with pytest.raises(ValueError, match=r"^sums of 1000 products might not fit in 32 bits$"):
        torch_products.product(words, packed.levels_of(fixed(8, 1)), weights)
    with pytest.raises(TypeError, match=r"^weights are int8 or int16 \[below, neurons\], not torch.float32 of shape "):
        torch_products.Weights.arrange(torch.zeros(2, 2))


# --- steps ------------------------------------------------------------------------------------------------------------


def ensemble(device: str, links: list[Link] = LINKS, rule: LearningRule | None = None) -> Network:
    """Networks with what `rule` adds to them, as one."""
    nets = [Network.build(SIZES, links, seed=seed) for seed in SEEDS]
    for net, seed in zip(nets, SEEDS, strict=True):
        if rule is not None:
            rule.prepare(net, seed)
    return Network.ensemble(nets).on(device)


def trained(
    rule: LearningRule,
    few: Samples,
    device: str,
    mode: str,
    rates: Any = (0.01, 0.004),
    links: list[Link] = LINKS,
) -> tuple[Network, Progress, list[list[float]]]:
    net, progress = ensemble(device, links, rule), Progress()
    steps = fit(net, rule, optimizers.RMSprop(*rates), few.on(device), 3, 25, SEEDS, progress, mode)
    losses = []
    for step in steps:
        losses += [] if step.loss is None else [numpy_of(step.loss).tolist()]
        losses += [numpy_of(step.epoch_loss).tolist()] if step.epoch_ends else []
    return net, progress, losses


@every_device
@every_rule
def test_a_recorded_step_is_the_step_as_written(rule: LearningRule, few: Samples, device: str) -> None:
    """Weights, losses and every count, over phases, a short last minibatch, fading noise and stochastic rounding."""
    if isinstance(rule, rules.TargetProp):
        rule = type(rule)(noise=0.5, half_noise_epoch=1.0, schedule=rule.schedule)
    if type(rule) is not rules.DTP:  # a remainder is recorded once more, which takes seconds a rule
        few = Samples(few.stored[:100], few.labels[:100], few.format)
    plain, recorded = (trained(rule, few, device, mode) for mode in ("plain", "recorded"))
    tolerance = {"cpu": 0, "cuda": 1e-5}[device]
    for name, x in plain[0].tensors().items():
        np.testing.assert_allclose(numpy_of(recorded[0].tensors()[name]), numpy_of(x), atol=tolerance, err_msg=name)
    np.testing.assert_allclose(recorded[2], plain[2], rtol=tolerance)
    if device == "cpu":
        assert recorded[1].ledger == plain[1].ledger


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_step_is_the_step_as_written(few: Samples) -> None:
    rule = rules.DTP(noise=0.5, half_noise_epoch=1.0)
    links = [Link("ufixed(5,1)"), Link("binary", "binary"), Link("fixed(6,1)")]  # the fewer, the sooner compiled
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "a step compiled by torch.compile gives other numbers")
        plain, compiled = (trained(rule, few, "cpu", mode, links=links) for mode in ("plain", "compiled"))
    np.testing.assert_allclose(compiled[2], plain[2], rtol=1e-3)
    assert compiled[1].ledger.work == plain[1].ledger.work
    assert compiled[1].ledger.bits("h1-h2") == plain[1].ledger.bits("h1-h2")


@every_rule
def test_a_step_never_waits_and_fetches_nothing(
    rule: LearningRule, few: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On torch's device without memory, where asking for a number or mixing devices is an error, twice.

    The second time, as when a CUDA graph is captured, nothing is brought from NumPy either.
    """

    def meta(x: np.ndarray) -> torch.Tensor:
        return torch_gpu.tensor_of(x, "meta")

    net = ensemble("numpy", rule=rule).each_array(meta)
    samples = Samples(meta(few.stored), meta(few.labels), few.format)
    trainee = net.with_links(rule.training_links(net.links))
    optimizer = optimizers.RMSprop([0.1, 0.2, 0.3], schedule="cosine(3)")
    progress = Progress(ledger=Ledger(runs=3))
    steps = RecordedSteps(trainee, samples, Training(rule, optimizer, TASKS["classify"], 25, SEEDS), progress)
    steps.begin(0)
    loop, evaluator = steps.loop, Evaluator(net, samples)
    for phase in rule.phases:
        steps.take(phase, 25)
        evaluator._distance(loop.indices(25)[0], loop.start, Ledger())
    monkeypatch.setattr(torch_gpu, "tensor_of", None)
    for phase in rule.phases:
        steps.take_in_place((phase, 25), progress.ledger)
        evaluator._distance(loop.indices(25)[0], loop.start, Ledger())


class Asks(rules.StraightThrough):
    """Reads a number in a step."""

    def step(self, *args: Any) -> Any:
        step = super().step(*args)
        return step if float(step.loss.sum()) >= 0 else None


def test_an_array_has_what_tensors_and_numpy_arrays_have() -> None:
    promised = {name for name, member in vars(Array).items() if callable(member) or isinstance(member, property)}
    assert {"shape", "sum", "__rmul__"} <= promised
    for kind in (np.ndarray, torch.Tensor):
        assert [name for name in promised if not hasattr(kind, name)] == []


def test_what_cannot_be_recorded_says_so(few: Samples) -> None:
    with pytest.raises(RuntimeError, match=r"^a recorded step cannot read a number, in an `if`.*mode='plain'\)$"):
        trained(Asks(), few, "cpu", "recorded")
    trained(Asks(), few, "cpu", "plain")


def test_a_machine_without_a_compiler_trains_all_the_same(few: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nand more")

    expected = trained(rules.FixedLower(), few, "cpu", "recorded")
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: fails)
    with pytest.warns(
        UserWarning, match=r"^torch.compile cannot be used here, so steps stay as they are: no compiler$"
    ):
        found = trained(rules.FixedLower(), few, "cpu", "compiled")
    assert found[2] == expected[2]


class Compiled:
    """What stands for torch.compile: the work as written, then `spoil`, while `times` last."""

    def __init__(self, spoil: Callable[..., None], times: int) -> None:
        self.spoil, self.times, self.calls = spoil, times, 0

    def __call__(self, work: Callable[..., Any], **settings: Any) -> Callable[..., None]:
        def compiled(*arrays: torch.Tensor) -> None:
            work(*arrays)
            self.calls += 1
            if self.calls <= self.times:
                self.spoil(*arrays)

        return compiled


OTHER_NUMBERS = r"^a step compiled by torch.compile gives other numbers, so steps stay as they are$"


@every_device
def test_a_run_whose_compiled_steps_give_other_numbers_goes_on_uncompiled(
    few: Samples, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One column of the weights of one member, which has moved by a tenth too much."""

    def spoil(*arrays: torch.Tensor) -> None:
        next(x for x in arrays if x.shape == (3, 64, 20))[1, :, 3].mul_(1.01)

    expected = trained(rules.StraightThrough(), few, device, "recorded")
    compiled = Compiled(spoil, 10**9)
    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.warns(UserWarning, match=OTHER_NUMBERS):
        found = trained(rules.StraightThrough(), few, device, "compiled")
    assert found[2] == expected[2]
    assert found[1].ledger == expected[1].ledger
    assert compiled.calls == 10


@pytest.mark.parametrize(
    ("spoil", "times", "trusted"),
    [
        (lambda x, count: None, 0, True),
        (lambda x, count: x.mul_(1 + 3e-7), 12, True),
        (lambda x, count: x[0].add_(0.01), 12, False),
        (lambda x, count: x[0].add_(0.1), 9, True),
        (lambda x, count: x[int(count) // 25 % 2].add_(0.01), 12, True),
        (lambda x, count: x[int(count) // 25 % 2].add_(2), 12, False),
        (lambda x, count: x[0].fill_(torch.nan), 12, False),
        (lambda x, count: x[7].zero_(), 12, False),
        (lambda x, count: count.add_(1), 12, False),
    ],
    ids=["as it is", "rounding", "one of 8", "nine times", "a little, elsewhere each time", "much, elsewhere each time",
         "a NaN", "no NaN", "a count"],
)  # fmt: skip
def test_compiled_work_is_compared_with_the_work_as_written(
    spoil: Callable[..., Any], times: int, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same state, and what is kept is what the work as written came to."""
    x, count = torch.zeros(8), torch.zeros((), dtype=torch.int64)

    def body() -> None:
        x.add_(1)
        x[7].fill_(torch.nan)
        count.add_(25)

    compiled = Compiled(spoil, times)
    monkeypatch.setattr(torch, "compile", compiled)
    again = Recorded(body, [x, count])
    again.compile()
    with warnings.catch_warnings(record=True) as told:
        calls = 0
        while again._tries:
            again()
            calls += 1
            torch.testing.assert_close(x, torch.tensor([calls + 1.0] * 7 + [torch.nan]), equal_nan=True)
            assert count == 25 * (calls + 1)
    assert [str(x.message) for x in told] == ([] if trusted else [OTHER_NUMBERS.strip("^$")])
    assert calls == compiled.calls and (calls < 10 or times == 9 if trusted else calls == 10)
    again()
    assert compiled.calls == calls + trusted


def test_recorded_work_keeps_what_changes_and_drops_what_is_not_used() -> None:
    x, calls = torch.zeros(3), []

    def body() -> None:
        calls.append(1)
        x.sin()
        x.add_(1)

    again = Recorded(body, [x, x])
    again()
    again()
    assert (x.tolist(), calls, again.operations) == ([3.0] * 3, [1], 1)


@every_device
def test_members_end_as_they_would_alone(few: Samples, device: str) -> None:
    """With learning rates, target steps and noise of their own, in NumPy and on the device."""
    rates, backward, noise, step = (0.01, 0.02, 0.005), (0.004, 0.001, 0.003), (0.5, 0.1, 0.3), (0.28, 0.1, 0.5)
    rule = rules.DTP(target_step=step, noise=noise, half_noise_epoch=2.0)
    together = [
        trained(rule, few, where, mode, (rates, backward)) for where, mode in (("numpy", "plain"), (device, "recorded"))
    ]
    for i, seed in enumerate(SEEDS):
        alone, progress = Network.build(SIZES, LINKS, seed=seed), Progress()
        rule = rules.DTP(target_step=step[i], noise=noise[i], half_noise_epoch=2.0)
        steps = fit(alone, rule, optimizers.RMSprop(rates[i], backward[i]), few, 3, 25, seed, progress)
        losses = []
        for x in steps:
            losses += [] if x.loss is None else [float(x.loss)]
            losses += [float(x.epoch_loss)] if x.epoch_ends else []
        for net, those, found in together:
            assert [loss[i] for loss in found] == pytest.approx(losses, rel=0.02)
            member = unstack_ledger(those.ledger)[i]
            assert (member.work, member.accesses) == (progress.ledger.work, progress.ledger.accesses)
            counts = [(x.runs, x.epochs, x.steps, x.samples) for x in (member, progress.ledger)]
            assert counts[0] == counts[1]
            wrong = evaluate(net, few.on("numpy" if isinstance(net.layers[0].bias, np.ndarray) else device))
            assert wrong[i] == pytest.approx(evaluate(alone, few), abs=3)


@pytest.mark.parametrize("device", ["numpy", *DEVICES])
def test_a_network_on_a_device_is_a_copy(device: str, few: Samples) -> None:
    net = Network.build(SIZES, LINKS)
    before = {name: x.copy() for name, x in net.tensors().items()}
    copy, samples = net.on(device), few.on(device)
    for _ in fit(copy, rules.StraightThrough(), optimizers.RMSprop(0.01), samples, 1, 25):
        pass
    for name, x in net.tensors().items():
        assert np.array_equal(x, before[name])
        assert not np.array_equal(numpy_of(copy.tensors()[name]), x) or "feedback" in name


@every_device
def test_tests_are_recorded_once_for_all(few: Samples, device: str) -> None:
    net, samples = ensemble(device), few.on(device)
    recorded = Evaluator(net, samples, 40, "recorded")
    for _ in range(3):
        expected = evaluate(net, samples, batch=40)
        for _ in range(4):
            assert recorded().tolist() == expected.tolist()
        for _ in fit(net, rules.StraightThrough(), optimizers.RMSprop(0.01), samples, 1, 25, SEEDS):
            pass
    ledgers = [Ledger(), Ledger()]
    for ledger, where in zip(ledgers, ("numpy", device), strict=True):
        evaluate(ensemble(where), few.on(where), ledger)
    assert [x.samples for x in ledgers] == [3 * 103, 3 * 103]
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize("device", ["numpy", *DEVICES])
def test_a_member_is_tested_as_it_would_be_alone(device: str, few: Samples) -> None:
    """Random rounding included."""
    links = [Link("ufixed(5,1)"), Link("fixed(3,1,stochastic)"), Link("fixed(3,2,stochastic)")]
    alone = [evaluate(Network.build(SIZES, links, seed=seed), few, batch=40) for seed in SEEDS]
    assert evaluate(ensemble(device, links), few.on(device), batch=40).tolist() == pytest.approx(alone, abs=1.0)
    assert len(set(alone)) > 1


@every_device
def test_what_cannot_be_sent_is_told_when_the_ledger_is_read(few: Samples, device: str) -> None:
    net, progress = ensemble(device), Progress()
    net.layers[0].bias[1, 0] = torch.nan
    for _ in fit(net, rules.StraightThrough(), optimizers.SGD(0.01), few.on(device), 1, 25, SEEDS, progress):
        pass
    message = "link h1-h2, forward 'activations': binary was given NaN, or infinity, which it cannot send"
    with pytest.raises(ValueError, match=rf"^{message} \(member 1 of the ensemble\)$"):
        progress.ledger.bits()
    members = unstack_ledger(progress.ledger)
    assert members[0].bits() == members[2].bits() > 0
    with pytest.raises(ValueError, match=f"^{message}$"):
        members[1].bits()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda few: fit(ensemble("numpy"), rules.DTP(), optimizers.SGD(0.1), few, 1, seed=SEEDS, mode="recorded"),
            "mode 'recorded' is not for ensembles of numpy float32; there are: plain",
        ),
        (
            lambda few: fit(ensemble("cpu"), rules.DTP(), optimizers.SGD(0.1), few, 1, seed=SEEDS, mode="fast"),
            "no mode 'fast'; there are: auto, compiled, plain, recorded",
        ),
        (
            lambda few: fit(ensemble("cpu"), rules.DTP(), optimizers.SGD(0.1), few, 1, seed=(1, 2)),
            r"seed must be 3 seeds, one for each member, not \(1, 2\)",
        ),
        (
            lambda few: fit(Network.build(SIZES, LINKS), rules.DTP(), optimizers.SGD(0.1), few, 1, seed=(1, 2)),
            r"seed must be a whole number for a single network, not \(1, 2\)",
        ),
    ],
)
def test_errors(act: Callable[[Samples], Any], message: str, few: Samples) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        next(act(few))
