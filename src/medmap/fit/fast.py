"""The training step made fast on a CPU: bfloat16 where the processor multiplies it natively, float32 where it counts.

The weights stay float32, laid out in one flat buffer a parameter group, so that the optimiser makes one pass over
memory; a bfloat16 copy of that buffer is what convolutions multiply with, refreshed by one cast a step. Weight
gradients of deep layers on small maps go through one matrix product instead of the library's convolution kernel, which
is slow there. ``benchmarks/train_speed.py`` measures all of it against a plain loop.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from medmap.fit.thin import zeros_beside

if TYPE_CHECKING:
    from collections.abc import Iterable

# Where the matrix product wins: few output positions, many channels, a kernel larger than one (measured, oneDNN 3.x).
DEEP_POSITIONS = 4096
DEEP_WEIGHTS = 128 * 128


def keep_heap() -> None:
    """Let the C library keep freed activations instead of returning them to the system at every step (glibc only).

    mallopt(3): a larger threshold for mmap, for trimming, and more growth at once. Without it each step faults its
    pages in again.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is None:
        return
    for option, value in ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 28)):
        mallopt(option, value)


class _Convolution(torch.autograd.Function):
    """A convolution in bfloat16 whose float32 weight receives the gradient."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor, low: torch.Tensor, geometry: Any) -> torch.Tensor:
        stride, padding = geometry
        ndim = images.ndim - 2
        ctx.save_for_backward(images, low)
        ctx.geometry = geometry
        return torch.convolution(images, low, None, stride, padding, [1] * ndim, False, [0] * ndim, 1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, None, None]:
        images, low = ctx.saved_tensors
        stride, padding = ctx.geometry
        ndim = images.ndim - 2
        form = torch.channels_last if ndim == 2 else torch.channels_last_3d
        grad = grads[0].contiguous(memory_format=form)
        positions = grad.numel() // low.shape[0]
        deep = positions <= DEEP_POSITIONS and low.shape[0] * low.shape[1] >= DEEP_WEIGHTS and low.shape[2] > 1
        wanted = [ctx.needs_input_grad[0], not deep, False]
        grad_images, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, images, low, None, stride, padding, [1] * ndim, False, [0] * ndim, 1, wanted
        )
        if deep:
            grad_weight = _weight_gradient(images, grad, low.shape, stride, padding)
        return grad_images, grad_weight.float(), None, None


def _weight_gradient(
    images: torch.Tensor, grad: torch.Tensor, shape: torch.Size, stride: list[int], padding: list[int]
) -> torch.Tensor:
    """(out, in, kernel …): the sum over positions of gradient times patch, as one matrix product."""
    pads = [side for amount in reversed(padding) for side in (amount, amount)]
    padded = functional.pad(images, pads).movedim(1, -1).contiguous()
    steps = padded.stride()
    out, channels, *kernel = shape
    moves = [along * by for along, by in zip(steps[1:-1], stride, strict=True)]
    patches = padded.as_strided((len(images), *grad.shape[2:], *kernel, channels), (steps[0], *moves, *steps[1:-1], 1))
    rows = grad.movedim(1, -1).reshape(-1, out)
    product = torch.mm(rows.t(), patches.reshape(len(rows), -1))
    return product.view(out, *kernel, channels).movedim(-1, 1)


class _FastConv2d(nn.Conv2d):
    low: torch.Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Convolution.apply(
            images.to(torch.bfloat16), self.weight, self.low, (list(self.stride), list(self.padding))
        )
        return out if self.bias is None else out + self.bias.to(out.dtype).reshape(-1, 1, 1)


class _FastConv3d(nn.Conv3d):
    low: torch.Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images, padding = zeros_beside(images.to(torch.bfloat16), self)
        out: torch.Tensor = _Convolution.apply(images, self.weight, self.low, (list(self.stride), padding))
        return out if self.bias is None else out + self.bias.to(out.dtype).reshape(-1, 1, 1, 1)


_FAST: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _FastConv2d, nn.Conv3d: _FastConv3d}


class FlatWeights:
    """The parameters of each optimiser group in one buffer, with their gradients and, for bfloat16, a low copy.

    Args:
        net: Its parameters become views of the buffers; names and shapes stay.
        groups: Optimiser groups over the net's parameters; ``params`` is replaced by the buffer.
        low_precision: Whether convolutions multiply in bfloat16.
    """

    def __init__(self, net: nn.Module, groups: list[dict[str, Any]], low_precision: bool) -> None:
        self.groups: list[dict[str, Any]] = []
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        places: dict[int, torch.Tensor] = {}
        for group in groups:
            buffer, low = self._flatten(list(group["params"]), places, low_precision)
            self.groups.append({**group, "params": [buffer]})
            if low is not None:
                self._pairs.append((low, buffer))
        if low_precision:
            _swap_convolutions(net, places)
        self.refresh()

    @staticmethod
    def _flatten(
        params: list[nn.Parameter], places: dict[int, torch.Tensor], low_precision: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        count = sum(p.numel() for p in params)
        buffer, grad = torch.empty(count), torch.zeros(count)
        low = torch.empty(count, dtype=torch.bfloat16) if low_precision else None
        start = 0
        for p in params:
            shape, stride = p.shape, p.stride()
            buffer.as_strided(shape, stride, start).copy_(p.data)
            p.data = buffer.as_strided(shape, stride, start)
            p.grad = grad.as_strided(shape, stride, start)
            if low is not None:
                places[id(p)] = low.as_strided(shape, stride, start)
            start += p.numel()
        buffer.requires_grad_()
        buffer.grad = grad
        return buffer, low

    def zero_grad(self) -> None:
        """Set every gradient to zero, keeping the buffers."""
        for group in self.groups:
            for buffer in group["params"]:
                buffer.grad.zero_()

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the low copies follow the weights; after every step and every load."""
        for low, buffer in self._pairs:
            low.copy_(buffer)


def _swap_convolutions(net: nn.Module, places: dict[int, torch.Tensor]) -> None:
    """Let plain convolutions (no groups, no dilation, zero padding) multiply their low copies."""
    for module in _plain_convolutions(net.modules()):
        module.low = places[id(module.weight)]
        module.__class__ = _FAST[type(module)]  # type: ignore[assignment]


def _plain_convolutions(modules: Iterable[nn.Module]) -> list[nn.Conv2d | nn.Conv3d]:
    return [
        m
        for m in modules
        if type(m) in _FAST
        and isinstance(m, (nn.Conv2d, nn.Conv3d))
        and m.groups == 1
        and set(m.dilation) == {1}
        and m.padding_mode == "zeros"
        and not isinstance(m.padding, str)
    ]
