"""The energy of a ledger on a technology: `price(ledger, config, technology) -> Bill`, in joules with a range.

>>> from lowbit_dtp.ledger import Ledger, Work
>>> ledger = Ledger(samples=1)
>>> ledger.worked(Work("h1", "activations", "multiply-accumulate", "binary", "float32"), 1000)
>>> price(ledger, HardwareConfig(), Technology.load("45nm")).total.typical == 1000 * 0.9e-12
True
"""

from .exported import as_exported
from .hardware import HardwareConfig, Wire
from .machine import Machine
from .machine_price import price_on
from .price import Bill, Item, break_even_gradient_bits, price
from .technology import Constant, Range, Technology, Term
from .timing import Power, Timing, power, time_on, with_static

__all__ = [
    "Bill",
    "Constant",
    "HardwareConfig",
    "Item",
    "Machine",
    "Power",
    "Range",
    "Technology",
    "Term",
    "Timing",
    "Wire",
    "as_exported",
    "break_even_gradient_bits",
    "power",
    "price",
    "price_on",
    "time_on",
    "with_static",
]
