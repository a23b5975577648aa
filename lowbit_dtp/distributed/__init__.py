"""One network on several machines: each rank has some of the layers, and packed words cross between them.

Every rank runs the whole learning rule. The layers that it does not have are of arrays without numbers
(`backends.shapes`), which cost no time and no memory; a link between layers on two ranks sends its packed words by a
`Transport`. A rule hears of another layer over links alone, so nothing else has to be sent, and weights and ledger are
those of a training in one process, bit for bit.
"""

from .split import Placement, SplitError, split_network
from .transport import HEADER_BYTES, Transport, WireError

__all__ = ["HEADER_BYTES", "Placement", "SplitError", "Transport", "WireError", "split_network"]
