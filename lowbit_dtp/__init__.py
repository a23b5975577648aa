"""Train networks with binary or few-bit signals, count every bit on every link, price them in joules, and export."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import data, formats, optimizers, rules
    from .comparison import compare
    from .estimation import estimate
    from .experiment import Comparison
    from .ledger import Direction, Ledger
    from .links import Link
    from .network import Network
    from .summary import Summary
    from .training import Progress, evaluate, fit

_HOMES = {
    "Comparison": "experiment",
    "Direction": "ledger",
    "Ledger": "ledger",
    "Link": "links",
    "Network": "network",
    "Progress": "training",
    "Summary": "summary",
    "compare": "comparison",
    "estimate": "estimation",
    "evaluate": "training",
    "fit": "training",
}
_MODULES = ("data", "formats", "optimizers", "rules")


def __getattr__(name: str) -> Any:
    """Import on first use: the command line starts before kernels are compiled or loaded."""
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Comparison",
    "Direction",
    "Ledger",
    "Link",
    "Network",
    "Progress",
    "Summary",
    "compare",
    "data",
    "estimate",
    "evaluate",
    "fit",
    "formats",
    "optimizers",
    "rules",
]
