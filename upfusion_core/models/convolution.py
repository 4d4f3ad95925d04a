"""Convolution of small feature maps by wide kernels, whose time on a CPU goes into rearranging the kernels."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Network = TypeVar("Network", bound=nn.Module)

CHANNELS_A_POSITION = 4
"""Output channels for each output position of the batch from which on the matrix product is the faster way.

Measured on AVX-512 cores: 1280 channels on 8 x 8 cells take 0.56 of the time in a batch of 2 and 0.88 in one of 4, on
4 x 4 cells 0.27 and 0.55 in batches of 2 and 8; with more positions the ordinary convolution wins.
"""


class WideConv2d(nn.Conv2d):
    """torch's convolution; on a CPU in float32, one matrix product where the feature maps are small.

    oneDNN brings the weights into an order of its own at every call, which costs more than the convolution itself
    where weights outnumber what they are applied to. The product reads them as they lie, mapped from the file or not.
    """

    @classmethod
    def like(cls, other: nn.Conv2d) -> WideConv2d:
        """The same layer with the same parameters."""
        layer = cls.__new__(cls)
        layer.__dict__ = dict(other.__dict__)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        height, width = (self._length(size, axis) for axis, size in enumerate(x.shape[-2:]))
        few = len(x) * height * width * CHANNELS_A_POSITION <= self.out_channels
        if not few or x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        columns = F.unfold(x, self.kernel_size, self.dilation, self._border, self.stride)  # (B, C·9, H'·W')
        product = self.weight.flatten(1) @ columns.transpose(0, 1).flatten(1)
        result = product if self.bias is None else product + self.bias[:, None]
        return result.unflatten(1, (len(x), height, width)).transpose(0, 1).contiguous()

    @property
    def _border(self) -> tuple[int, ...]:
        assert isinstance(self.padding, tuple), "widen takes none whose padding is a word"
        return self.padding

    def _length(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
        return (size + 2 * self._border[axis] - reach - 1) // self.stride[axis] + 1


def widen(network: Network) -> Network:
    """The network with its 3x3 convolutions replaced, in place; names and parameters stay."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Conv2d and layer.kernel_size == (3, 3) and layer.groups == 1:
                setattr(parent, name, WideConv2d.like(layer))
    return network
