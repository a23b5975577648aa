"""Scales that cross with codes, sampled bits, and your own formats: on links, in the ledger, in files."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from export.fixed import Levels
from lowbit_dtp import data, formats, optimizers, packing
from lowbit_dtp import ledger as ledgers
from lowbit_dtp.backends import backend_of, packed, torch_formats
from lowbit_dtp.backends.torch_gpu import tensor_of
from lowbit_dtp.data import Samples
from lowbit_dtp.formats import Format, ScaledFormat, Table, bernoulli, binary01, mxfp4, nvfp4, shared, spelling
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules import DTP, StraightThrough
from lowbit_dtp.storage import StorageError
from lowbit_dtp.training import Progress, fit
from tests.conformance.cases import FORMATS

SCALED = [fmt for fmt in FORMATS if isinstance(fmt, ScaledFormat)]
SIZES = [64, 40, 36, 10]


@pytest.fixture(scope="module")
def few() -> Samples:
    train = data.load("digits").train
    return Samples(train.stored[:110], train.labels[:110], train.format)


def sent(fmt: Format, x: Any, ledger: Ledger) -> Signal:
    link, stream = Link(fmt, fmt, "h1", "h2"), RandomStream(0)
    link.send(x[:1], Direction.FEEDBACK, "error", ledger, stream)
    return link.send(x[1:], Direction.FEEDBACK, "error", ledger, stream)


# --- what crosses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fmt", "bits"),
    [
        (shared(4), 4 * 70 + 8),
        (shared(3, 4), 3 * 70 + 4),
        (mxfp4, 4 * 70 + 3 * 8),
        (formats.mxint8, 8 * 70 + 3 * 8),
        (nvfp4, 4 * 70 + 5 * 8 + 32),
    ],
    ids=str,
)
@pytest.mark.parametrize("array", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_scales_are_counted(fmt: Format, bits: int, array: Callable[[Any], Any]) -> None:
    x = np.random.default_rng(0).standard_normal((5, 70)).astype(np.float32)
    ledger = Ledger(samples=5)
    signal = sent(fmt, array(x), ledger)
    assert signal.shape == (4, 70)
    assert np.array_equal(np.asarray(signal.values), fmt.quantize(x[1:]).astype(np.float32))
    assert ledger.bits(per="sample") == bits
    assert ledger.bits(per="sample", word_bits=64) == -(-bits // 64) * 64
    assert ledger.codes(per="sample") == 70
    words = packing.pack(fmt.encode(x), fmt.bits)
    rows = [sum(int(word) << 64 * i for i, word in enumerate(row)) for row in words]
    assert ledger.ones() == sum(row.bit_count() for row in rows)
    assert ledger.toggles() == sum((a ^ b).bit_count() for a, b in pairwise(rows))


@pytest.mark.parametrize("fmt", [shared(4), nvfp4], ids=str)
@pytest.mark.parametrize("device", ["numpy", "torch"])
def test_a_message_in_codes_is_carried_as_it_is(fmt: Format, device: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, 70)).astype(np.float32)
    array: Any = np.asarray if device == "numpy" else lambda x: tensor_of(x, "cpu")
    ledgers = [Ledger(samples=5) for _ in range(2)]
    plain = Link(fmt, lower="a", upper="b").send(array(x), Direction.FORWARD, "activations", ledgers[0])
    coded = Signal(array(fmt.encode(x)), fmt, array(x))
    again = Link(fmt, lower="a", upper="b").send(coded, Direction.FORWARD, "activations", ledgers[1])
    assert again.shape == plain.shape == (5, 70)
    assert ledgers[0] == ledgers[1]
    assert np.array_equal(np.asarray(again.values), np.asarray(plain.values))


def test_files_from_before_there_were_scales() -> None:
    ledger = Ledger(samples=4)
    sent(formats.fixed(4, 1), np.ones((4, 6), np.float32), ledger)
    old = ledger.as_dict()
    for row in old["traffic"]:
        assert row.pop("scale_bits") == 0
    assert Ledger.from_dict(old) == ledger


def test_a_ledger_with_scales_is_saved(tmp_path: Any) -> None:
    ledger = Ledger(samples=5)
    sent(mxfp4, np.ones((5, 33), np.float32), ledger)
    ledgers.save(tmp_path / "ledger.json", training=ledger)
    assert ledgers.load(tmp_path / "ledger.json")["training"].bits(per="sample") == 4 * 33 + 2 * 8


@pytest.mark.parametrize("fmt", [*SCALED, bernoulli, formats.e4m3, formats.bfloat16], ids=str)
def test_formats_without_thresholds_are_not_exported(fmt: Format) -> None:
    with pytest.raises(ValueError, match=rf"^link h1-h2: {re.escape(fmt.name)} is .*; choose .*format$"):
        Levels.of(fmt, "link h1-h2")


# --- sampled bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neurons", [1, 63, 64, 65, 500])
@pytest.mark.parametrize("count", [1, 3, 600])
def test_sampled_bits_are_packed(count: int, neurons: int) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-0.2, 1.2, (count, neurons)).astype(np.float32)
    uniform = (random.integers(0, 2**24, x.shape) * 2.0**-24).astype(np.float32)
    words, nan = packed.pack_draws(x, uniform)
    assert not nan
    assert np.array_equal(words, packing.pack(bernoulli.encode(x, uniform), 1))
    for place in (0, x.size - 1):
        spoilt = x.copy()
        spoilt.flat[place] = np.nan
        assert packed.pack_draws(spoilt, uniform)[1]
        with pytest.raises(ValueError, match=r"^bernoulli cannot send NaN$"):
            backend_of(x).transmit(spoilt, bernoulli, uniform, None)


def test_products_of_sampled_bits_are_those_of_bits() -> None:
    """The same kernels: equal to the bit."""
    random, layer = np.random.default_rng(0), Network.build(SIZES, [Link()] * 3).layers[0]
    x, error = (random.standard_normal((20, n)).astype(np.float32) for n in (64, 40))
    signal = Link(bernoulli, lower="a", upper="b").send(x, Direction.FORWARD, "activations", Ledger(), RandomStream(3))
    assert signal.packed_neurons == 64 and signal.carried.dtype == np.uint64
    bits = Signal(signal.carried, binary01, x, 64)
    xp = backend_of(x)
    for found, expected in [
        (signal.values, bits.values),
        (xp.pre_activation(signal, layer.weight, layer.bias), xp.pre_activation(bits, layer.weight, layer.bias)),
        (np.asarray(xp.gradients(signal, error, None)[0]), np.asarray(xp.gradients(bits, error, None)[0])),
    ]:
        assert np.array_equal(found, expected)
    assert packed.levels_of(bernoulli) == packed.levels_of(binary01)


def test_a_network_of_sampled_bits_trains_as_with_stochastic_rounding_to_a_bit(few: Samples) -> None:
    found = []
    for name in ("bernoulli", "ufixed(1,1,stochastic)"):
        net, progress = (
            Network.build(SIZES, [Link("ufixed(5,1)"), Link(name), Link()], activation="sigmoid"),
            Progress(),
        )
        for _ in fit(net, StraightThrough(), optimizers.SGD(0.1), few, 1, 25, 0, progress):
            pass
        found.append((net.tensors(), progress.ledger))
    (mine, ledger), (theirs, other) = found
    assert (ledger.bits(), ledger.ones(), ledger.toggles()) == (other.bits(), other.ones(), other.toggles())
    for name, x in mine.items():
        np.testing.assert_allclose(x, theirs[name], atol=1e-5)


# --- torch ------------------------------------------------------------------------------------------------------------

NEW = [fmt for fmt in FORMATS if fmt.name.startswith(("shared", "mx", "nv", "fp", "bf", "float16", "bern"))]


@pytest.mark.parametrize(
    "fmt",
    [shared(4), shared(4, 8, "stochastic"), bernoulli, formats.e4m3, formats.bfloat16, formats.mxint8, nvfp4],
    ids=str,
)
def test_recorded_steps_on_tensors_are_the_plain_ones(fmt: Format, few: Samples) -> None:
    found = []
    for mode in ("plain", "recorded"):
        links, progress = [Link("ufixed(5,1)"), Link("binary", fmt), Link(fmt, fmt)], Progress()
        net = Network.build(SIZES, links, seed=1).on("cpu")
        for _ in fit(net, DTP(), optimizers.RMSprop(0.002), few.on("cpu"), 2, 55, 0, progress, mode):
            pass
        found.append(({name: x.numpy().tobytes() for name, x in net.tensors().items()}, progress.ledger))
    assert found[0] == found[1]


@pytest.mark.parametrize("fmt", NEW, ids=str)
def test_codes_wait_for_no_device(fmt: Format) -> None:
    """On torch's device without memory, where asking for a number is an error."""
    x = torch.empty(3, 5, 70, device="meta")
    xp = backend_of(x)
    crossed = xp.transmit(x, fmt, torch.empty_like(x), None)
    signal = Signal(crossed.words, fmt, x, crossed.packed_neurons)
    assert signal.shape == signal.values.shape == x.shape


# --- formats of one's own ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Doubling(Format):
    """Powers of two from 2^-3 to 1, of either sign, by a rule of its own."""

    name: str = "doubling"
    bits = 3
    largest = 1.0

    def _encode(self, x: Any, uniform: Any) -> Any:
        exponent = np.clip(np.rint(np.log2(np.abs(x) + 1e-30)), -3, 0).astype(np.int64)
        return (exponent + 3 + 4 * np.signbit(x)).astype(self.code_dtype)

    def decode(self, codes: Any, dtype: Any = np.float64) -> Any:
        codes = np.asarray(codes).astype(np.int64)
        return (2.0 ** (codes % 4 - 3) * np.where(codes < 4, 1, -1)).astype(dtype)

    def table(self) -> Table:
        raise ValueError("doubling has no table")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry that is forgotten after the test."""
    monkeypatch.setattr(spelling, "_OWN", {})
    monkeypatch.setattr(spelling, "_PARSERS", [])
    yield


@pytest.mark.parametrize("own", [Doubling(), Table("lop sided", (-1.0, 0.25, 2.0))], ids=str)
@pytest.mark.usefixtures("registry")
def test_a_network_with_a_format_of_ones_own_is_read_back(own: Format, few: Samples, tmp_path: Any) -> None:
    path = tmp_path / "network.safetensors"
    net = Network.build(SIZES, [Link("ufixed(5,1)"), Link(own, own), Link()])
    for _ in fit(net, DTP(), optimizers.RMSprop(0.002), few, 1, 25):
        pass
    net.save(path)
    with pytest.raises(StorageError) as refused:
        Network.load(path)
    assert str(refused.value).startswith(f"{path}: no format {own.name!r}; there are: binary, ")
    assert str(refused.value).endswith("of your own, give it to lowbit_dtp.formats.register first")
    assert formats.register(own) is own
    assert Network.load(path).links == net.links
    assert formats.parse(own.name) is own


@pytest.mark.usefixtures("registry")
def test_a_family_of_formats_is_registered_as_a_function() -> None:
    @formats.register
    def even(text: str) -> Format | None:
        found = re.fullmatch(r"even\((\d+)\)", text)
        return Table(text, tuple(range(0, 2 * int(found[1]), 2))) if found else None

    assert formats.parse("even(3)").table().values == (0, 2, 4)
    with pytest.raises(formats.UnknownFormatError, match=r"^no format 'even\(x\)'; there are: "):
        formats.parse("even(x)")


@pytest.mark.usefixtures("registry")
def test_what_is_not_registered() -> None:
    with pytest.raises(ValueError, match=r"^'ternary' is the name of another format already; give yours a name of "):
        formats.register(Table("ternary", (-2.0, 0.0, 2.0)))
    with pytest.raises(TypeError, match=r"^register a format, or a function from a name to a format, not <class "):
        formats.register(Doubling)
    formats.register(Table("mine", (0.0, 1.0)))
    formats.register(Table("mine", (0.0, 2.0)))
    assert formats.parse("mine*2").table().values == (0.0, 4.0)


def test_a_format_of_ones_own_on_tensors_says_what_is_missing() -> None:
    with pytest.raises(TypeError, match=r"^doubling has no codes on torch tensors; register functions for its type "):
        torch_formats.encode(Doubling(), torch.zeros(2, 3), None)


def test_every_spelling_is_one() -> None:
    """With letters in place of numbers where a spelling has arguments."""
    for text in formats.SPELLINGS:
        shown = text.replace("W", "5").replace("I", "2").replace("E", "6")
        choices = [shown]
        while "|" in choices[0]:
            choices = [re.sub(r"[\w-]+(\|[\w-]+)+", one, x, count=1)
                       for x in choices for one in re.search(r"[\w-]+(?:\|[\w-]+)+", x)[0].split("|")]  # fmt: skip
        for choice in choices:
            assert formats.parse(formats.parse(choice).name) == formats.parse(choice)
    assert any("saturate-symmetric" in text for text in formats.SPELLINGS)
