"""Feedback weights at the upper end of a link: what crosses it then, instead of what a run sent."""

from lowbit_dtp.choices import choose
from lowbit_dtp.formats import parse
from lowbit_dtp.ledger import Direction, Ledger, MessageType, Traffic

STAYS = ("reconstruction", "state")
"""Messages down that the weights decode at the upper end."""
DECODED = "target"
"""The message down whose decoded value crosses: of DTP the difference g(target) - g(state), so one for both."""
LEARNED_FROM = "noisy activations"
"""The message up that the decoder learns to reconstruct, as a real number."""


def with_feedback_weights_above(ledger: Ledger, link: str, lower: str) -> Ledger:
    """`ledger` of a rule with learned inverses, with those of `link` at its upper end instead of in the layer `lower`.

    Codes from above are decoded where they are made, so real numbers cross, in the format of the states of `lower`: the
    noisy activations up, since they are what the decoder learns, and the decoded target down. Half of their bits are
    taken to be ones and to toggle. The arithmetic is the same, and is still listed in the layer `lower`. ValueError if
    no targets cross `link`.
    """
    choose("link", link, dict.fromkeys(ledger.links()))
    if not any(ledger.message_types(link, Direction.FEEDBACK, DECODED)):
        raise ValueError(f"link {link}: no targets cross it, so it has no feedback weights to move to its upper end")
    numbers = [a for a in ledger.accesses if (a.layer, a.array) == (lower, "state")]
    number, neurons = (numbers[0].format, numbers[0].capacity_bits // numbers[0].bits) if numbers else ("float32", 0)
    neurons = neurons or next(m.width for m, _ in ledger.message_types(link, Direction.FORWARD))
    moved = ledger.empty()
    moved.counts.work.update(ledger.work)
    moved.counts.accesses.update(ledger.accesses)
    for message, traffic in ledger.traffic.items():
        if message.link == link and message.direction is Direction.FEEDBACK and message.purpose in STAYS:
            continue
        if message.link == link and message.purpose in (DECODED, LEARNED_FROM):
            bits = parse(number).bits
            message = MessageType(link, message.direction, message.purpose, number, bits, neurons)
            half = traffic.messages * message.message_bits // 2
            traffic = Traffic(traffic.messages, half, half)
        moved.crossed(message, traffic.messages, traffic.ones, traffic.toggles)
    return moved
