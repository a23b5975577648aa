"""Wires: the cost of a message on a link."""

from lowbit_dtp.ledger import MessageType, Traffic, padded

from .hardware import HardwareConfig
from .technology import Technology, Term


def crossing_terms(message_type: MessageType, traffic: Traffic, config: HardwareConfig) -> tuple[Term, ...]:
    """Cost of `traffic` on the wire that `config` gives its link.

    A constant per transition is multiplied by the toggles counted, one per bit by all bits, padding included; padding
    does not toggle. ValueError for a cost per metre and a wire without a length, or the reverse.
    """
    wire = config.wire(message_type.link)
    constant = Technology.load(wire.kind).constant("wire", f"link {message_type.link}")
    event, _, metre = constant.per.partition(" and ")
    bits = traffic.messages * padded(message_type.message_bits, config.word_bits)
    counts = {"bit": bits, "transition": traffic.toggles}
    if event not in counts:
        raise ValueError(
            f"wire {wire.kind!r} of link {message_type.link} costs per {constant.per}; "
            "a wire costs per bit, bit and metre, transition, or transition and metre"
        )
    if metre and wire.metres is None:
        raise ValueError(
            f"wire {wire.kind!r} of link {message_type.link} costs per {constant.per}, so it needs a length, "
            f"as in {message_type.link}={wire.kind}:5mm"
        )
    if not metre and wire.metres is not None:
        raise ValueError(
            f"wire {wire.kind!r} of link {message_type.link} costs per {constant.per} whatever its length; "
            f"write {message_type.link}={wire.kind}"
        )
    return (Term(constant, counts[event] * (wire.metres if metre and wire.metres is not None else 1)),)
