"""A decoder as large as users have them, counted in seconds and without a weight."""

import pytest

torch = pytest.importorskip("torch")

from lowbit_dtp.ledger import Direction, Work  # noqa: E402
from lowbit_dtp.torch_modules import estimate_model  # noqa: E402
from tests.lowbit_dtp.decoders import Decoder  # noqa: E402
from tests.lowbit_dtp.test_torch_work import macs  # noqa: E402


def test_a_decoder_of_seven_billion_weights_needs_none_of_them() -> None:
    tokens, cut = 128, ("blocks.7", "blocks.15", "blocks.23")
    with torch.device("meta"):
        model, text = Decoder(), torch.zeros(1, tokens, dtype=torch.long)
    made = estimate_model(model, [text], dict.fromkeys(cut, "fixed(8,3)/fixed(4,1)"), optimizer="AdamW")
    size = sum(x.numel() for x in model.parameters())
    products = sum(x.numel() for name, x in model.named_parameters() if x.ndim == 2 and name != "embed.weight")
    assert size == 6_738_415_616
    assert macs(made.training, "gradient") == tokens * products
    assert macs(made.training, "activations") == tokens * products + 32 * 2 * tokens**2 * 4096
    assert made.training.bits(direction=Direction.FORWARD) == 3 * tokens * 4096 * 8
    assert made.training.bits(direction=Direction.FEEDBACK) == 3 * tokens * 4096 * 4
    assert made.training.work[Work("head", "update", "square-root", "float32")] == 32000 * 4096
    assert not model._forward_hooks
