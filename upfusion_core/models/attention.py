"""Multi-head attention over keys and values that several samples may share."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads·D) -> (B, heads, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def grouped_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, L, heads·D) queries over (G, heads, N, D) keys and values -> (B, L, heads·D).

    The B queries are G equal runs, group-major; every sample of a run attends to the same keys and values. Such
    samples are laid end to end along the query axis, so that what they share is neither copied nor computed again:
    the cameras of a scene share its set latents and its prompt. G = B is ordinary attention.
    """
    groups, heads = key.shape[:2]
    batch, length, width = query.shape
    folded = split_heads(query.reshape(groups, batch // groups * length, width), heads)
    out = scaled_dot_product_attention(folded, key, value)
    return out.transpose(1, 2).reshape(batch, length, width)
