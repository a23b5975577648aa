"""A decoder like Llama's, by hand: what a model of a user is like."""

import torch
from torch import nn
from torch.nn import functional


class Norm(nn.Module):
    """Root-mean-square normalization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = (m(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        half = width // self.heads // 2
        rate = 10000.0 ** (-torch.arange(half, device=x.device) / half)
        angle = torch.arange(tokens, device=x.device)[:, None] * rate

        def turned(y: torch.Tensor) -> torch.Tensor:
            a, b = y.chunk(2, -1)
            return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

        y = functional.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(batch, tokens, width))


class Gated(nn.Module):
    """Two layers, the lower one gated."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention and a gated layer, each beside a shortcut."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.before, self.attention = Norm(width), Attention(width, heads)
        self.between, self.mlp = Norm(width), Gated(width, inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.before(x))
        return x + self.mlp(self.between(x))


class Decoder(nn.Module):
    """Logits [batch, tokens, words] of the next word. The sizes of Llama 2 7B by default."""

    def __init__(
        self, blocks: int = 32, width: int = 4096, heads: int = 32, inner: int = 11008, words: int = 32000
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(Block(width, heads, inner) for _ in range(blocks))
        self.norm, self.head = Norm(width), nn.Linear(width, words, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
