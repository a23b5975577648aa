"""Memory: what it costs to read or write the words of an array."""

from lowbit_dtp.ledger import Access

from .hardware import HardwareConfig
from .technology import Technology, Term

PARAMETERS = ("weight", "bias", "feedback", "feedback_bias")
"""Arrays whose words, once read, serve as many samples as `HardwareConfig.reuse` says."""


def access_terms(access: Access, words: int, config: HardwareConfig, technology: Technology) -> tuple[Term, ...]:
    """Cost of `words` read or written, by the bit: bits / 64 times the cost of a 64-bit access.

    In SRAM the array sits in the smallest listed memory that holds it, or in banks of the largest. A write costs what
    a read does, since the sources publish reads alone.
    """
    needed_by = f"{access.operation} of {access.array} in layer {access.layer}"
    if config.memory == "sram":
        memories = technology.memories()
        if not memories:
            technology.constant("sram", needed_by)  # raises: there is none of any size
        fitting = [memory for memory in memories if (memory.capacity_bits or 0) >= access.capacity_bits]
        constant = (fitting or memories[-1:])[0]
    else:
        constant = technology.constant(config.memory, needed_by)
    if constant.per != "64-bit access":
        raise ValueError(
            f"constant {constant.name!r} of technology {technology.name!r} is per {constant.per}; "
            f"{needed_by} needs one per 64-bit access"
        )
    reuse = config.reuse if access.operation == "read" and access.array in PARAMETERS else 1
    return (Term(constant, words * access.bits / 64 / reuse),)
