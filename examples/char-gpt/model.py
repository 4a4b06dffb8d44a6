"""A GPT of about a million parameters that reads bytes, and the English text it reads."""

import os
import pydoc_data.topics

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT = int(os.environ.get("CHAR_GPT_CONTEXT", "64"))
WIDTH = int(os.environ.get("CHAR_GPT_WIDTH", "128"))
LAYERS = int(os.environ.get("CHAR_GPT_LAYERS", "5"))
HEADS = 4
VOCABULARY = 256  # bytes


class Block(nn.Module):
    """Attention to what came before, then a little thought about it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.qkv(self.norm_1(x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norm_2(x))))


class CharGPT(nn.Module):
    """Predicts each next byte; called with a batch of texts it returns the loss of each."""

    def __init__(self) -> None:
        super().__init__()
        self.byte, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, text: Tensor) -> Tensor:
        seen, wanted = text[:, :-1], text[:, 1:]
        places = torch.arange(seen.shape[1], device=text.device)
        logits = self.head(self.norm(self.blocks(self.byte(seen) + self.place(places))))
        losses = functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        return losses.mean(dim=1)


def corpus() -> Tensor:
    """Return the help texts that come with Python, some 460,000 bytes of English."""
    topics = pydoc_data.topics.topics
    text = "".join(topics[name] for name in sorted(topics))
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()


def samples(text: Tensor, step: int, batch: int, rank: int, world_size: int) -> Tensor:
    """Return this rank's share of a step's global batch, the same whatever came before."""
    dice = torch.Generator().manual_seed(step)
    starts = torch.randint(len(text) - CONTEXT, (batch,), generator=dice)[rank::world_size]
    return torch.stack([text[start : start + CONTEXT + 1] for start in starts])
