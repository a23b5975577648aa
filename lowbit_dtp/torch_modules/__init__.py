"""Links in any torch model: few-bit activations up, few-bit gradients down, and every bit in a ledger.

>>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
>>> ledger = wire(model, {"0": "fixed(4,1)/ternary*0.05"})
>>> model(torch.ones(3, 4)).sum().backward()
>>> ledger.bits("0", Direction.FORWARD, per="sample"), ledger.bits("0", Direction.FEEDBACK, per="sample")
(32.0, 16.0)
"""

try:
    import torch as torch
except ImportError as error:
    raise ImportError("lowbit_dtp.torch_modules needs torch: pip install lowbit-dtp[torch]") from error

from ..ledger import Direction as Direction
from .alignment import align, unalign
from .link import LinkModule
from .planning import estimate_model
from .quantizers import parameter_formats
from .targets import StagedModel, decoder_of
from .wiring import WiredLedger, ledger_of, unwire, wire
from .work import count_update, count_work

__all__ = [
    "Direction", "LinkModule", "StagedModel", "WiredLedger", "align", "count_update", "count_work", "decoder_of",
    "estimate_model", "ledger_of", "parameter_formats", "unalign", "unwire", "wire",
]  # fmt: skip
