"""Memory: the cost of reading or writing the words of an array."""

from lowbit_dtp.ledger import Access

from .hardware import HardwareConfig
from .technology import Technology, Term

PARAMETERS = ("weight", "bias", "feedback", "feedback_bias")
"""Arrays of which one read serves `HardwareConfig.reuse` samples."""


def access_terms(access: Access, words: int, config: HardwareConfig, technology: Technology) -> tuple[Term, ...]:
    """Cost of `words` read or written: bits / 64 times the cost of a 64-bit access.

    In SRAM the array is in the smallest listed memory that holds it, or in banks of the largest. A write costs as much
    as a read, since the sources publish only reads.
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
