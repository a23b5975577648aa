"""Energy of inference counted as QTools counts it, layer by layer, to compare with its reports.

QTools (Coelho et al., Nature Machine Intelligence 3, 2021; google/qkeras, qkeras/qtools) reads each array once a
sample, in whole words of 64 bits; multiplies with what the formats need, from one gate to a multiplier; and adds in
accumulators that are wide enough for each layer. `price` reads each weight as often as the ledger says, by the bit, and
adds in accumulators of one width.

>>> from lowbit_dtp.formats import binary, fixed
>>> layer = Dense("h1", 784, 300, input=fixed(8, 1), weight=binary, bias=binary)
>>> bill = energy([layer])["h1"]
>>> f"{bill.parameters * 1e12:.2f}", f"{bill.operations * 1e12:.2f}"  # picojoules
('1084.42', '15729.00')
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, log10, sqrt

from lowbit_dtp.choices import choose
from lowbit_dtp.formats import Bernoulli, FixedPoint, Float, Format, SmallFloat, Table, parse
from lowbit_dtp.ledger import Direction, Ledger

WORD = 64
"""Bits of one access to SRAM."""

FLOATS = (16, 32)
"""Widths of floating point that QTools has a cost for."""


@dataclass(frozen=True)
class Costs:
    """Joules of additions, multiplications and accesses, as QTools' file of one process has them."""

    add: float
    """An integer addition, a bit."""
    multiply_squared: float
    multiply: float
    """An integer multiplication: the first a squared bit, the second a bit."""
    add_float: Mapping[int, float]
    multiply_float: Mapping[int, float]
    """A floating-point operation, by width."""
    sram: tuple[float, ...]
    """A 64-bit access to an SRAM of 2^x bits: coefficients of x^3, x^2, x and 1."""
    dram: float
    """A bit from or to DRAM."""

    def added(self, width: float) -> float:
        """An integer addition of `width` bits, which need not be whole."""
        return self.add * width

    def multiplied(self, width: float) -> float:
        """An integer multiplication of two numbers of `width` bits, which need not be whole."""
        return self.multiply_squared * width**2 + self.multiply * width

    def sram_accessed(self, bits: int, least_bits: int) -> float:
        """All words of an array of `bits`, once, in an SRAM of its size but of `least_bits` or more."""
        if not bits:
            return 0.0
        x = log2(max(bits, least_bits))
        word = sum(coefficient * x**power for power, coefficient in enumerate(reversed(self.sram)))
        return ceil(bits / WORD) * max(word, 0.0)


HOROWITZ = Costs(
    add=0.003125e-12,
    multiply_squared=0.002994791667e-12,
    multiply=0.001041666667e-12,
    add_float={16: 0.4e-12, 32: 0.9e-12},
    multiply_float={16: 1.1e-12, 32: 3.7e-12},
    sram=(9.02427321e-04 * 1e-12, -2.68847858e-02 * 1e-12, 2.08900804e-01 * 1e-12, 0.0),
    dram=20.3125e-12,
)
"""45 nm: QTools' fit to Horowitz, ISSCC 2014; google/qkeras, qkeras/qtools/config_public.py, `horowitz`."""


@dataclass(frozen=True)
class Memory:
    """Where QTools keeps arrays; its options of `QTools.pe`, by names of its own in brackets."""

    parameters: str = "sram"
    """`sram`, `dram`, or `fixed`: wired into the logic, read at no cost (weights_on_memory)."""
    activations: str = "sram"
    """`sram` or `dram`; the network's inputs and outputs are in SRAM anyway (activations_on_memory)."""
    least_sram_bits: int = 0
    """No SRAM is smaller, so none costs less an access (min_sram_size)."""
    io_through_dram: bool = False
    """Inputs and outputs are in DRAM, and what is in DRAM passes through SRAM (rd_wr_on_io)."""

    def __post_init__(self) -> None:
        choose("memory of parameters", self.parameters, dict.fromkeys(("sram", "dram", "fixed")))
        choose("memory of activations", self.activations, dict.fromkeys(("sram", "dram")))
        if self.least_sram_bits < 0:
            raise ValueError(f"an SRAM has 0 or more bits, not {self.least_sram_bits}")


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: what it reads, computes and sends."""

    name: str
    inputs: int
    outputs: int
    input: Format
    weight: Format
    bias: Format | None
    sends: Format | None = None
    """Format of the activation that follows; None: its sums are the output."""
    accumulator_bits: int | None = None
    """Width of integer sums; None: what the layer needs."""

    def __post_init__(self) -> None:
        for what in ("inputs", "outputs", "accumulator_bits"):
            number = getattr(self, what)
            if number is not None and number < 1:
                raise ValueError(f"layer {self.name}: {what} must be 1 or more, not {number}")


@dataclass(frozen=True)
class Energy:
    """Joules of one layer for one sample."""

    inputs: float
    """Reading its inputs."""
    outputs: float
    """Writing its sums, as wide as its accumulators; not in `total`, since the activation that follows writes less."""
    parameters: float
    """Reading weights and biases."""
    operations: float
    """Its multiplications and additions."""
    sent: float = 0.0
    """Writing the codes of the activation that follows."""

    @property
    def total(self) -> float:
        """What QTools adds up: inputs, parameters and operations, and what the activation writes."""
        return self.inputs + self.parameters + self.operations + self.sent


def energy(layers: Sequence[Dense], memory: Memory = Memory(), costs: Costs = HOROWITZ) -> dict[str, Energy]:
    """Joules a sample of each layer of a chain, by its name, in the order of `layers`.

    ValueError, naming the layer, for a format that QTools has no quantizer for.
    """
    result: dict[str, Energy] = {}
    for index, layer in enumerate(layers):
        if layer.name in result:
            raise ValueError(f"two layers have the name {layer.name!r}")
        multiplier, accumulator = _operators(layer)
        last = index == len(layers) - 1
        weights = layer.inputs * layer.outputs
        parameters = [(weights, layer.weight)] + ([(layer.outputs, layer.bias)] if layer.bias else [])
        result[layer.name] = Energy(
            inputs=_moved(layer.inputs * layer.input.bits, memory, costs, memory.activations, io=index == 0),
            outputs=_moved(
                layer.outputs * accumulator.bits, memory, costs, memory.activations, io=last and not layer.sends
            ),
            parameters=sum(
                _moved(number * fmt.bits, memory, costs, memory.parameters, io=False) for number, fmt in parameters
            ),
            operations=weights * (multiplier.cost(costs) + accumulator.addition(costs)),
            sent=_moved(layer.outputs * layer.sends.bits, memory, costs, memory.activations, io=last)
            if layer.sends
            else 0.0,
        )
    return result


def _moved(bits: int, memory: Memory, costs: Costs, where: str, *, io: bool) -> float:
    """An array read or written once; `io`: an input or an output of the network."""
    if io:
        where = "dram" if memory.io_through_dram else "sram"
    sram = costs.sram_accessed(bits, memory.least_sram_bits)
    if where == "dram":
        return costs.dram * bits + (sram if memory.io_through_dram else 0.0)
    return sram if where == "sram" else 0.0


def layers_of(ledger: Ledger) -> list[Dense]:
    """The layers of a chain, from the ledger of its inference: sizes, formats of links, weights and biases.

    ValueError, naming the layer, where QTools has no word for what a layer does: several links that end at it, or
    several passes a sample.
    """
    samples = ledger.per("sample")
    layers = ledger.layers()
    arrays = {(a.layer, a.array): a for a in ledger.accesses if a.operation == "read"}
    upper_end = {
        link: max((n for n in layers if link.endswith(f"-{n}")), key=len, default="") for link in ledger.links()
    }
    found: list[Dense] = []
    for name in layers:
        links = [link for link, upper in upper_end.items() if upper == name]
        messages = [(m, t) for link in links for m, t in ledger.message_types(link, Direction.FORWARD)]
        if len(messages) != 1 or messages[0][1].messages != samples:
            sent = sum(traffic.messages for _, traffic in messages) / samples
            raise ValueError(
                f"layer {name} gets {sent:g} messages a sample over {', '.join(links) or 'no link'}; "
                "QTools counts layers that get one over one link"
            )
        message = messages[0][0]
        if (weight := arrays.get((name, "weight"))) is None:
            raise ValueError(f"layer {name} reads no array 'weight', so QTools cannot count it")
        bias = arrays.get((name, "bias"))
        found.append(
            Dense(
                name,
                inputs=message.width,
                outputs=weight.capacity_bits // weight.bits // message.width,
                input=parse(message.format),
                weight=parse(weight.format),
                bias=parse(bias.format) if bias else None,
            )
        )
    inputs = [layer.input for layer in found]
    return [replace(layer, sends=sends) for layer, sends in zip(found, [*inputs[1:], None], strict=True)]


@dataclass(frozen=True)
class _Number:
    """A number as QTools describes it: its kind, and bits before and after the binary point, sign apart."""

    kind: str
    """`fixed`, `power of two`, `ternary`, `binary`, `binary01` or `float`."""
    integer: int
    fraction: int
    signed: bool
    largest: float = 1.0
    """Only of powers of two."""

    @property
    def bits(self) -> int:
        return self.integer + self.fraction + self.signed

    def addition(self, costs: Costs) -> float:
        """Joules of an addition of numbers like this one."""
        return costs.add_float[self.bits] if self.kind == "float" else costs.added(self.bits)

    def fixed(self) -> "_Number":
        """The same number in fixed point; a power of two has as many bits on either side as its exponents reach."""
        if self.kind != "power of two":
            return self
        reach = 2 ** max(self.bits - self.signed - 1, 0)
        highest = min(max(ceil(log2(self.largest)), 0), reach - 1)
        return _Number("fixed", highest, reach, self.signed)


@dataclass(frozen=True)
class _Multiplier:
    """What multiplies: a gate whose cost is `factor` that of an adder of `width` bits, or a multiplier."""

    product: _Number
    factor: float
    width: float
    multiplies: bool = False

    def cost(self, costs: Costs) -> float:
        """Joules of one product."""
        if self.product.kind == "float":
            return costs.multiply_float[self.product.bits]
        return self.factor * (costs.multiplied(self.width) if self.multiplies else costs.added(self.width))


BINARY, BINARY01 = _Number("binary", 1, -1, True), _Number("binary01", 1, 0, False)
TERNARY = _Number("ternary", 2, -1, True)


def _operators(layer: Dense) -> tuple[_Multiplier, _Number]:
    """Multiplier and accumulator of `layer`."""
    try:
        multiplier = _multiplier(_number(layer.weight), _number(layer.input))
        bias = _number(layer.bias) if layer.bias else None
    except ValueError as error:
        raise ValueError(f"layer {layer.name}: {error}") from None
    product = multiplier.product.fixed()
    if product.kind == "float":
        return multiplier, max((product, bias or product), key=lambda number: (number.kind == "float", number.bits))
    if layer.accumulator_bits is not None:
        return multiplier, _Number("fixed", layer.accumulator_bits - 1, 0, True)
    total = replace(product, kind="fixed", integer=product.integer + ceil(log2(layer.inputs)))
    if bias is None:
        return multiplier, total
    if bias.kind == "float":
        return multiplier, bias
    bias = bias.fixed()
    return multiplier, _Number(
        "fixed",
        max(total.integer, bias.integer) + 1,
        max(total.fraction, bias.fraction),
        total.signed or bias.signed,
    )


def _multiplier(weight: _Number, signal: _Number) -> _Multiplier:
    """What multiplies `weight` by `signal`: QTools' table of multipliers, by the kinds of both."""
    signed = weight.signed or signal.signed
    kinds = {weight.kind, signal.kind}
    if "float" in kinds:
        width = max(number.bits for number in (weight, signal) if number.kind == "float")
        return _Multiplier(_Number("float", width - 1, 0, True), 1.0, width)
    if "binary01" in kinds:  # an AND gate for each bit
        other = signal if weight.kind == "binary01" else weight
        product = TERNARY if other.kind == "binary" else other
        return _Multiplier(product, 0.1, product.bits)
    if kinds == {"binary"}:  # an XOR gate
        return _Multiplier(weight, 0.3, 1)
    if kinds & {"binary", "ternary"}:  # a multiplexer: the number, its negative, or zero
        few, other = (weight, signal) if weight.kind in ("binary", "ternary") else (signal, weight)
        product = replace(other, signed=other.signed or few.signed)
        return _Multiplier(product, 0.3 if few.kind == "binary" else 0.6, other.bits)
    if kinds == {"power of two"}:  # an adder of exponents
        width = max(weight.bits, signal.bits) + 1
        product = _Number("power of two", width - signed, 0, signed, weight.largest * signal.largest)
        return _Multiplier(product, 1.0, width)
    if "power of two" in kinds:  # a shifter
        power, other = (weight, signal) if weight.kind == "power of two" else (signal, weight)
        steps = power.fixed()
        gates = sqrt(2**power.bits * other.bits)
        product = _Number("fixed", other.integer + steps.integer, other.fraction + steps.fraction, signed)
        return _Multiplier(product, 1.0, gates * log10(gates))
    product = _Number("fixed", weight.integer + signal.integer, weight.fraction + signal.fraction, signed)
    return _Multiplier(product, 1.0, sqrt(weight.bits * signal.bits), multiplies=True)


def _number(fmt: Format) -> _Number:
    """How QTools describes `fmt`. ValueError where it has no such quantizer."""
    if isinstance(fmt, Float | SmallFloat) and fmt.bits in FLOATS:
        return _Number("float", fmt.bits - 1, 0, True)
    if isinstance(fmt, FixedPoint):
        number = _Number("fixed", fmt.integer - fmt.signed, fmt.word - fmt.integer, fmt.signed)
        return number if fmt.word > 1 else BINARY01
    if isinstance(fmt, Bernoulli):
        return BINARY01
    if isinstance(fmt, Table):
        sizes = {abs(value) for value in fmt.values} - {0.0}
        signed = fmt.values[0] < 0
        if len(sizes) == 1 and len(fmt.values) == 2:
            return BINARY01 if 0.0 in fmt.values else BINARY
        if len(sizes) == 1:
            return TERNARY
        if all(log2(size).is_integer() for size in sizes):
            return _Number("power of two", fmt.bits - signed, 0, signed, fmt.largest)
    raise ValueError(
        f"QTools has no quantizer like {fmt}; it has fixed point, binary, binary01, ternary, tables of powers of two, "
        "and floats of 16 and 32 bits"
    )
