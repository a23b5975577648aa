"""Expected results of difference target propagation in whole numbers, in plain NumPy, int64.

Nothing here but `Format.quantize` and the random bits is the project's own.
"""

from typing import Any

import numpy as np

from lowbit_dtp.formats import Format
from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream

Integers = Any
ONE = 4096


def send(sums: Integers, fmt: Format) -> Any:
    """What arrives of `sums` in units of 1/4096."""
    return fmt.quantize(np.asarray(sums, np.float64) / ONE)


def products(values: Any, weights: Integers, fraction_bits: int) -> Integers:
    """`values @ weights` in units of 1/4096, rounded down; in units of 1/65536 the values are whole."""
    whole = np.rint(values * 65536).astype(np.int64)
    assert (whole == values * 65536).all()
    return np.floor_divide((whole @ weights.astype(np.int64)) * ONE, 65536 * 2**fraction_bits)


def clip(sums: Integers) -> Integers:
    return np.minimum(np.maximum(sums, -ONE), ONE)


def state(sums: Integers) -> Integers:
    """8 bits: units of 1/128."""
    return np.minimum(np.maximum(np.floor_divide(sums, 32), -128), 127)


def byte(x: Integers) -> Integers:
    return np.minimum(np.maximum(x, -127), 127)


def inside(sums: Integers) -> Integers:
    return (abs(sums) < ONE).astype(np.int64)


def softmax_error(logits: Integers, labels: Any) -> Integers:
    """Softmax less one-hot in units of 1/128: powers of e to sixteenths, in units of 2^-15."""
    steps = np.floor_divide(logits.max(-1, keepdims=True) - logits, ONE // 16)
    powers = np.rint(2.0**15 * np.exp(-np.minimum(steps, 255) / 16)).astype(np.int64)
    total = powers.sum(-1, keepdims=True)
    return byte(np.floor_divide(128 * powers + total // 2, total) - 128 * np.eye(logits.shape[-1], dtype=int)[labels])


def gradients(rule: Any, net: Network, inputs: Any, labels: Any, stream: RandomStream) -> dict[Any, Integers]:
    """Gradients in units of the levels that arrived times those of the errors; `inputs` are values."""
    bits = [layer.projection.fraction_bits for layer in net.layers]  # type: ignore[attr-defined]
    w = [layer.arrays() for layer in net.layers]
    top = len(w) - 1

    def unit(fmt: Format) -> int:
        return 1 if fmt.name in ("binary", "ternary") else 2 ** (fmt.word - fmt.integer)  # type: ignore[attr-defined]

    def up(i: int, arrived: Any) -> Integers:
        return products(arrived, w[i]["weight"], bits[i])

    def down(i: int, above: Integers) -> Integers:
        return state(products(send(above, net.links[i + 1].feedback), w[i]["feedback"], bits[i]))

    def outer(arrived: Any, fmt: Format, error: Integers) -> Integers:
        return (arrived * unit(fmt)).astype(np.int64).T @ error

    arrived, sums = [net.links[0].forward.quantize(inputs)], []
    for i in range(len(w)):
        sums.append(up(i, arrived[i]))
        # states cross; a bit of theirs is that of the sum
        arrived.append(send(state(sums[i]) * 32, net.links[i + 1].forward) if i < top else None)
    made = {}
    error = softmax_error(sums[top], labels)
    made[net.layers[top].name, "weight"] = outer(arrived[top], net.links[top].forward, error)
    if top:
        fmt = net.links[top].feedback
        message = products(error / 128, w[top]["weight"].T, bits[top])
        gradient = np.rint(send(message, fmt) * unit(fmt)).astype(np.int64)
        target = clip(sums[top - 1]) - np.floor_divide(gradient * ONE, unit(fmt) * 2**rule.target_shift)
        error = byte(gradient * inside(sums[top - 1]))
    for i in reversed(range(top)):
        made[net.layers[i].name, "weight"] = outer(arrived[i], net.links[i].forward, error)
        if i:
            change = down(i - 1, target) - down(i - 1, clip(sums[i]))
            error = byte(-change * inside(sums[i - 1]))
            target = clip(sums[i - 1]) + 32 * change
    for i in range(top - 1):
        drawn = stream.bits(f"noise h{i + 1}", sums[i])
        four = np.asarray(drawn, np.uint64).astype("<u4").view(np.uint8).reshape(*sums[i].shape, 4)
        noisy = clip(sums[i]) + 2**rule.noise_shift * (four.astype(np.int64).sum(-1) - 510)
        lifted = 32 * state(up(i + 1, send(noisy, net.links[i + 1].forward)))
        recalled = down(i, lifted)
        error = byte((recalled - state(noisy)) * ((recalled > -128) & (recalled < 127)))
        fmt = net.links[i + 1].feedback
        made[net.layers[i].name, "feedback"] = outer(send(lifted, fmt), fmt, error)
    return made
