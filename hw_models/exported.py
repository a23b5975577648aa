"""The ledger of inference as the exported network runs: whole numbers and comparisons, without functions."""

from collections.abc import Mapping
from math import gcd

from lowbit_dtp.choices import choose
from lowbit_dtp.formats import FixedPoint, Float, Format, parse
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType, Traffic, Work


def as_exported(
    ledger: Ledger,
    weights: str | Mapping[str, str] = "fixed(8,1)",
    signals: str = "fixed(8,1)",
    accumulator_bits: Mapping[str, int] | None = None,
) -> Ledger:
    """`ledger` of inference, with what the integer network that `export` writes would do for the same samples.

    Weights and links that carry floats have the formats `weights` and `signals`; half of the bits of such links are
    taken to be ones, and to toggle. A mapping gives the format of the weights of each layer, whatever the ledger has. A
    hidden layer finds the code of each sum among its thresholds in as many comparisons as the code has bits. The output
    adds a bias and compares the sums. A comparison is an addition. Sums have `accumulator_bits` by layer; where that
    has none, bits that no sum of the formats can overflow. ValueError if the ledger is not of one forward pass through
    a chain of layers.
    """
    _check_one_pass(ledger)
    made = ledger.empty()
    messages = {message.link: _sent(message, traffic, signals) for message, traffic in ledger.traffic.items()}
    for message, traffic in messages.values():
        made.crossed(message, traffic.messages, traffic.ones, traffic.toggles)
    products = {w.layer: (w, times) for w, times in ledger.work.items() if w.operation == "multiply-accumulate"}
    if len(products) != len(messages):
        raise ValueError(f"{len(messages)} links and {len(products)} layers are no chain, so they are not exported")
    above = [message for message, _ in list(messages.values())[1:]] + [None]
    for (message, traffic), (work, times), up in zip(messages.values(), products.values(), above, strict=True):
        given = _as_integer(work.right, weights) if isinstance(weights, str) else choose("layer", work.layer, weights)
        signal, weight = parse(message.format), parse(given)
        neurons = times // (traffic.messages * message.width)
        bits = (accumulator_bits or {}).get(work.layer) or sum_bits(message.width, signal, weight)
        layer = _Layer(made, work.layer, traffic.messages, message.width, neurons, bits)
        layer.multiplies(signal, weight)
        if up is None:
            layer.decides()
        else:
            layer.compares(parse(up.format))
    return made


def sum_bits(fan_in: int, signal: Format, weight: Format) -> int:
    """Bits of two's complement that hold every sum of `fan_in` products of whole numbers.

    >>> sum_bits(500, parse("binary"), parse("binary")), sum_bits(784, parse("ufixed(8,0)"), parse("fixed(8,1)"))
    (10, 26)
    """
    return (fan_in * _largest_level(signal) * _largest_level(weight)).bit_length() + 1


class _Layer:
    """Writes what a layer of the exported network does into a ledger."""

    def __init__(self, ledger: Ledger, name: str, samples: int, fan_in: int, neurons: int, bits: int) -> None:
        self.ledger, self.name, self.samples, self.fan_in, self.neurons = ledger, name, samples, fan_in, neurons
        self.bits, width = bits, min(bits, 32)  # formats end at 32 bits: wider additions are priced as those
        self.number = f"fixed({width},{width})"

    def multiplies(self, signal: Format, weight: Format) -> None:
        inputs, products = self.samples * self.fan_in, self.samples * self.fan_in * self.neurons
        self.ledger.worked(Work(self.name, "activations", "multiply-accumulate", signal.name, weight.name), products)
        for operation in ("write", "read"):
            self.accesses("input", operation, signal.name, signal.bits, self.fan_in, inputs)
        self.accesses("weight", "read", weight.name, weight.bits, self.fan_in * self.neurons, products)

    def compares(self, code: Format) -> None:
        """Each sum with as many thresholds as its code has bits: a binary search."""
        outputs = self.samples * self.neurons
        thresholds = self.neurons * (len(code.table().values) - 1)
        self.ledger.worked(Work(self.name, "threshold", "add", self.number), outputs * code.bits)
        self.accesses("thresholds", "read", self.number, self.bits, thresholds, outputs * code.bits)
        for operation in ("write", "read"):
            self.accesses("state", operation, code.name, code.bits, self.neurons, outputs)

    def decides(self) -> None:
        """The class with the largest sum and bias."""
        outputs = self.samples * self.neurons
        self.ledger.worked(Work(self.name, "bias", "add", self.number), outputs)
        self.ledger.worked(Work(self.name, "winner", "add", self.number), outputs - self.samples)
        for array, operation in (("bias", "read"), ("state", "write"), ("state", "read")):
            self.accesses(array, operation, self.number, self.bits, self.neurons, outputs)

    def accesses(self, array: str, operation: str, fmt: str, bits: int, numbers: int, words: int) -> None:
        self.ledger.accessed(Access(self.name, array, operation, fmt, bits, numbers * bits, "activations"), words)


def _check_one_pass(ledger: Ledger) -> None:
    for message in ledger.traffic:
        if message.direction is not Direction.FORWARD or message.purpose != "activations":
            raise ValueError(
                f"link {message.link} carries {message.purpose} {message.direction} in inference, which is not one "
                "forward pass, so it is not exported"
            )


def _largest_level(fmt: Format) -> int:
    """Largest magnitude of the values of `fmt`, in units of the largest number that divides them all."""
    if isinstance(fmt, FixedPoint):
        return round(max(-fmt.lowest_level, fmt.highest_level))
    ratios = [value.as_integer_ratio() for value in fmt.table().values]
    unit = max(denominator for _, denominator in ratios)
    levels = [abs(numerator) * (unit // denominator) for numerator, denominator in ratios]
    return max(levels) // gcd(*levels)


def _as_integer(name: str, otherwise: str) -> str:
    """`name` of a format, or `otherwise` if it is a float's."""
    return otherwise if isinstance(parse(name), Float) else name


def _sent(message: MessageType, traffic: Traffic, signals: str) -> tuple[MessageType, Traffic]:
    fmt = parse(_as_integer(message.format, signals))
    try:
        fmt.table()
    except ValueError as error:
        raise ValueError(f"link {message.link}: {error}") from None
    if fmt.name == message.format:
        return message, traffic
    changed = message._replace(format=fmt.name, bits=fmt.bits, scale_bits=fmt.scale_bits(message.width))
    half = traffic.messages * changed.message_bits // 2
    return changed, Traffic(traffic.messages, half, half)
