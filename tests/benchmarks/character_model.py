"""Loss of a small transformer over the bits of a token on the links between its blocks.

    python tests/benchmarks/character_model.py

The text is what Python's `help` says of the language itself; the last tenth is for validation. Prints the table that
docs/torch.md has.
"""

import argparse
from collections.abc import Sequence
from pydoc_data.topics import topics

import torch
from torch import nn

from lowbit_dtp.torch_modules import Direction, wire

TEXT = "\n".join(topics[name] for name in sorted(topics) if topics[name].isascii())[:200_000]
LETTERS = sorted(set(TEXT))
CODES = torch.tensor([LETTERS.index(letter) for letter in TEXT])
TRAIN, VALID = CODES[: len(CODES) * 9 // 10], CODES[len(CODES) * 9 // 10 :]

CASES = {
    "float32": "float32",
    "8 bits": "fixed(8,4)/shared(8)",
    "4 bits": "fixed(4,3)/shared(4)",
    "2 bits": "fixed(2,2)/shared(2)",
}
"""Formats of the links between blocks, up and down."""


class Block(nn.Module):
    """Causal attention and a perceptron, both beside a path that skips them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [batch, tokens, width]."""
        y = self.norms[0](x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False, is_causal=True)[0]
        return x + self.perceptron(self.norms[1](x))


class CharacterModel(nn.Module):
    """A decoder that tells the next letter."""

    def __init__(self, letters: int, context: int, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.letters, self.positions = nn.Embedding(letters, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, 2) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, letters))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Logits [batch, tokens, letters] of whole numbers [batch, tokens]."""
        x = self.letters(codes) + self.positions.weight[: codes.shape[1]]
        logits: torch.Tensor = self.head(self.blocks(x))
        return logits


def train(formats: str, steps: int, seed: int = 0, context: int = 32, batch: int = 16) -> tuple[float, list[float]]:
    """Nats a letter in validation, and the bits a token, up and down, on the first link."""
    torch.manual_seed(seed)
    model = CharacterModel(len(LETTERS), context)
    ledger = wire(model, {"blocks.[01]": formats})
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)

    def loss(text: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        windows = text[starts[:, None] + torch.arange(context + 1)]
        return nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())

    for _ in range(steps):
        optimizer.zero_grad()
        loss(TRAIN, torch.randint(len(TRAIN) - context, (batch,))).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = loss(VALID, torch.arange(0, len(VALID) - context, 2 * context)).item()
    tokens = ledger.samples * context
    return found, [ledger.bits("blocks.0", way) / tokens for way in (Direction.FORWARD, Direction.FEEDBACK)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args(arguments)
    print("| links | formats | bits a token up | down | nats a letter |\n|---|---|---|---|---|")
    for name, formats in CASES.items():
        runs = [train(formats, given.steps, seed) for seed in range(given.seeds)]
        losses = torch.tensor([found for found, _ in runs])
        up, down = runs[0][1]
        spread = f" ± {losses.std():.2f}" if given.seeds > 1 else ""
        print(f"| {name} | `{formats}` | {up:g} | {down:g} | {losses.mean():.2f}{spread} |", flush=True)


if __name__ == "__main__":
    main()
