"""Links on Brevitas' quantizers carry what these give, in their own formats; few-bit gradients come down."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("brevitas", reason="Brevitas is not installed")

from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear, QuantReLU  # noqa: E402
from brevitas.quant import Int16Bias, ShiftedUint8ActPerTensorFloat  # noqa: E402
from brevitas.quant.binary import SignedBinaryActPerTensorConst  # noqa: E402
from brevitas.quant.ternary import SignedTernaryWeightPerTensorConst  # noqa: E402
from torch import nn  # noqa: E402

from lowbit_dtp import Direction, Link  # noqa: E402
from lowbit_dtp.formats import parse  # noqa: E402
from lowbit_dtp.torch_modules import LinkModule, parameter_formats, unwire, wire  # noqa: E402

UP, DOWN = Direction.FORWARD, Direction.FEEDBACK
SIGN = {"act_quant": SignedBinaryActPerTensorConst}
SHIFTED = {"act_quant": ShiftedUint8ActPerTensorFloat}


def model(**quantizer: object) -> nn.Module:
    """With `quantizer` between two linear modules, and the same weights each time."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 5), QuantIdentity(**quantizer), nn.Linear(5, 2))
    made(torch.randn(8, 6))  # the quantizer finds its scale
    return made


@pytest.mark.parametrize("returned", [False, True], ids=["unpacked", "QuantTensor"])
@pytest.mark.parametrize(
    ("given", "name", "bits"),
    [
        ({"bit_width": 3}, "fixed(3,3)", 3),
        ({"bit_width": 4, "signed": False}, "ufixed(4,4)", 4),
        (SIGN, "binary", 1),
        (SHIFTED, "ufixed(8,8)", 8),
    ],
    ids=["3 bits", "4 bits", "sign", "zero point"],
)
def test_a_quantizers_own_format_crosses(given: dict, name: str, bits: int, returned: bool) -> None:
    x = torch.randn(4, 6)
    plain = model(**given)
    if returned:
        plain[1].return_quant_tensor, plain[2] = True, QuantLinear(5, 2, bias=False, weight_bit_width=4)
    wired = copy.deepcopy(plain)
    ledger = wire(wired, {"1": "/float32"})
    expected, made = plain(x), wired(x)
    assert torch.equal(made, expected)
    for out in (expected, made):
        out.square().mean().backward()
    for (_, one), (_, other) in zip(plain.named_parameters(), wired.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)
    kinds = [kind for kind, _ in ledger.message_types("1") if kind.direction is UP]
    assert [(kind.format, kind.bits) for kind in kinds] == [(parse(name).name, bits)]
    assert ledger.bits("1", UP) == 4 * 5 * bits


def test_ones_are_those_of_the_codes() -> None:
    made = model(bit_width=4, signed=False, return_quant_tensor=True)
    del made[2]
    ledger = wire(made, {"1": "/ternary"})
    sent = made(torch.randn(4, 6))
    assert sent.bit_width == 4 and sent.int().max() > 1
    [(_, traffic)] = ledger.message_types("1")
    assert traffic.ones == sum(int(n).bit_count() for n in sent.int().flatten())


def test_ternary_gradients_come_down_from_a_quantized_model() -> None:
    made = nn.Sequential(
        QuantConv2d(1, 3, 3, weight_bit_width=4), QuantReLU(bit_width=2), nn.Flatten(), QuantLinear(3 * 9, 2, bias=True)
    )
    made(torch.randn(8, 1, 5, 5))
    made.eval()  # its scales no longer depend on what it is given
    seen: list = []
    made[0].register_forward_hook(lambda module, args, out: out.register_hook(seen.append) and None)
    ledger = wire(made, {"1": "/ternary*0.5"})
    made(torch.randn(8, 1, 5, 5)).square().mean().mul(100).backward()
    assert {round(8 * x, 4) for x in seen[0].flatten().tolist()} == {-0.5, 0.0, 0.5}
    assert (ledger.bits("1", UP, per="sample"), ledger.bits("1", DOWN, per="sample")) == (54.0, 54.0)
    unwire(made)
    made(torch.randn(8, 1, 5, 5)).sum().backward()
    assert ledger.samples == 8 and ledger.bits("1") == 8 * 108


def test_a_given_forward_format_arrives_as_a_plain_tensor() -> None:
    made = nn.Sequential(QuantIdentity(bit_width=4, return_quant_tensor=True), nn.Identity())
    ledger = wire(made, {"0": "binary"})
    assert made(torch.tensor([[0.3, -2.0]])).tolist() == [[1.0, -1.0]]
    assert ledger.bits("0", UP) == 2


def test_a_disabled_quantizer_gives_float32() -> None:
    link = LinkModule(Link(label="cut"))
    quantizer = QuantIdentity(bit_width=4, return_quant_tensor=True)
    link(quantizer(torch.randn(2, 3)))
    x = torch.randn(2, 3)
    assert torch.equal(link(x), x)
    assert link.books.training.bits("cut", UP) == 2 * 3 * (4 + 32)


def test_formats_of_parameters() -> None:
    ternary = {"weight_quant": SignedTernaryWeightPerTensorConst, "threshold": 0.5, "scaling_init": 0.1}
    made = nn.Sequential(
        QuantConv2d(1, 2, 3, weight_bit_width=4),
        QuantLinear(4, 3, bias=True, bias_quant=Int16Bias, **ternary),
        nn.Linear(3, 3),
        QuantLinear(3, 3, bias=True, weight_quant=None),
    )
    found = {name: fmt.name for name, fmt in parameter_formats(made).items()}
    assert found == {
        "0.weight": parse("symmetric(4,4)").name, "1.weight": "ternary", "1.bias": "fixed(16,16)"
    }  # fmt: skip
