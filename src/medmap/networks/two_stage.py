"""Faster R-CNN: where something may be is proposed first, then each proposal is looked at for what it is.

Ren et al. 2015, https://arxiv.org/abs/1506.01497, on a feature pyramid (Lin et al. 2017). The proposals come from the
same places and anchors as those of ``retinanet``. In pictures suppression and RoIAlign (He et al. 2017) are
torchvision's; in volumes, which it does not know, the map is sampled by torch's ``grid_sample`` in the same way. For
export it is two graphs, ``first`` and ``second``, with proposals and RoIAlign between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medmap.networks.detectors import Detector, Heads, Pyramid
from medmap.networks.own import scaled
from medmap.networks.spec import NetworkSpec

PROPOSED = 120  # boxes of an image that the second stage looks at
LOOKED_AT = 600  # the surest places, of which those are taken
MOST_OVERLAP = 0.7  # of two proposals
REGION = {2: 7, 3: 4}  # places a side that a proposal is brought to, by number of axes
SAMPLES = 2  # of a region's place along each axis
STEPS_OF_A_BOX = 8  # a box of so many steps of the finest map belongs to it
DENSE = 256  # numbers of the second stage's hidden layer, times ``width``
NOTHING = -20.0  # logit of a proposal that there is not


class Second(nn.Module):
    """What a proposal is, and how its box is to be moved.

    Args:
        channels: Of the pyramid's maps.
        hidden: Numbers in between.
        outputs: Classes.
        dimensions: 2 or 3.
    """

    def __init__(self, channels: int, hidden: int, outputs: int, dimensions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * REGION[dimensions] ** dimensions, hidden),
            nn.LeakyReLU(0.01),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.01),
        )
        self.classes, self.sides = nn.Linear(hidden, outputs), nn.Linear(hidden, 2 * dimensions)

    def forward(self, regions: Tensor) -> Tensor:
        """Map (proposals, channels, region …) to (proposals, classes + 2·ndim)."""
        hidden = self.body(regions)
        return torch.cat([self.classes(hidden), self.sides(hidden)], dim=1)


class First(nn.Module):
    """The first stage as a graph of its own: its answers and the pyramid's maps, one after the other.

    Shapes:
        (batch, channels, *shape) → (batch, numbers): (places, 1 + 2·ndim) and then every map, flattened.
    """

    def __init__(self, network: TwoStage) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map images to rows of numbers, which ``TwoStage.unpacked`` reads."""
        maps = self.network.maps(image)
        return torch.cat([part.flatten(1) for part in (self.network.heads(maps), *maps)], dim=1)


class TwoStage(Detector):
    """A detector whose places only propose, and a second stage that decides.

    Args:
        encoder, finest, pyramid, heads: As ``Detector``, the heads with one class: something is there.
        second: The second stage.
        priors: (places, 2·ndim) centre and sides.
        steps: Voxels between the places of each map along each axis.
        shape: Of the image.

    Shapes:
        (batch, channels, *shape) → (batch, ``PROPOSED``, classes + 2·ndim) float32: logits of the classes, then the
        box's edges in voxels (voxel ``i`` reaches from ``i`` to ``i + 1``).
    """

    priors: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        finest: int,
        parts: tuple[Pyramid, Heads, Second],
        priors: Tensor,
        steps: Sequence[Sequence[int]],
        shape: Sequence[int],
    ) -> None:
        super().__init__(encoder, finest, parts[0], parts[1])
        self.second = parts[2]
        self.register_buffer("priors", priors, persistent=False)
        self.steps, self.shape = tuple(tuple(step) for step in steps), tuple(shape)

    def forward(self, image: Tensor) -> Tensor:
        """Map images to the classes and boxes of their proposals."""
        maps = self.maps(image)
        boxes, sure = self.proposed(self.heads(maps))
        numbers = self.second(self.regions(maps, boxes).to(maps[0].dtype))
        return self.together(numbers, boxes, sure)

    def proposed(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        """The surest boxes of every image.

        Args:
            answers: (batch, places, 1 + 2·ndim) of the first stage.

        Returns:
            (batch, ``PROPOSED``, 2·ndim) edges inside the image, and (batch, ``PROPOSED``) whether there is one.
        """
        boxes, sure = [], []
        for one in answers.detach().float():
            best = one[:, 0].topk(min(LOOKED_AT, len(one))).indices
            edges = self._inside(moved(self._edges()[best], one[best, 1:]))
            kept = apart(edges)[:PROPOSED]
            here = edges.new_zeros((PROPOSED, edges.shape[1]))
            here[:, len(self.shape) :] = 1
            here[: len(kept)] = edges[kept]
            boxes.append(here)
            sure.append(torch.arange(PROPOSED, device=edges.device) < len(kept))
        return torch.stack(boxes), torch.stack(sure)

    def _edges(self) -> Tensor:
        n = len(self.shape)
        middle, half = self.priors[:, :n], self.priors[:, n:] / 2
        return torch.cat([middle - half, middle + half], dim=1)

    def _inside(self, edges: Tensor) -> Tensor:
        n = len(self.shape)
        last = torch.tensor(self.shape * 2, dtype=edges.dtype, device=edges.device)
        cut = torch.minimum(edges.clamp_min(0), last)
        return torch.cat([torch.minimum(cut[:, :n], last[:n] - 1), torch.maximum(cut[:, n:], cut[:, :n] + 1)], dim=1)

    def regions(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Each box's part of the map that suits its size: (batch · boxes, channels, region …) float32.

        Args:
            maps: The pyramid's, the finest first.
            boxes: (batch, boxes, 2·ndim) edges.
        """
        level, n = self._levels(boxes), len(self.shape)
        cut = sampled_regions if n == 3 else _regions_of_pictures
        found = boxes.new_zeros((*boxes.shape[:2], maps[0].shape[1], *(REGION[n],) * n))
        for number, (one, step) in enumerate(zip(maps, self.steps, strict=True)):
            for row, here in enumerate(level == number):
                if here.any():
                    found[row, here] = cut(one[row].float(), boxes[row, here].float(), step)
        return found.flatten(0, 1)

    def _levels(self, boxes: Tensor) -> Tensor:
        """(batch, boxes) the map that each box belongs to: the coarsest of which it spans enough steps."""
        n = len(self.shape)
        sides = boxes[..., n:] - boxes[..., :n]
        steps = torch.tensor(self.steps, dtype=boxes.dtype, device=boxes.device)
        spans = torch.log2(sides[..., None, :] / steps).mean(-1) >= math.log2(STEPS_OF_A_BOX)
        return (spans.sum(-1) - 1).clamp_min(0)

    def together(self, numbers: Tensor, boxes: Tensor, sure: Tensor) -> Tensor:
        """The answer: classes and boxes of all proposals.

        Args:
            numbers: (batch · proposals, classes + 2·ndim) of the second stage.
            boxes, sure: From ``proposed``.
        """
        width = 2 * len(self.shape)
        rows = numbers.float().reshape(*boxes.shape[:2], -1)
        classes, sides = rows[..., :-width], rows[..., -width:]
        better = self._inside(moved(boxes.reshape(-1, width), sides.reshape(-1, width))).reshape(boxes.shape)
        return torch.cat([torch.where(sure[..., None], classes, NOTHING), better], dim=-1)

    def unpacked(self, numbers: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What ``First`` packed: (batch, places, 1 + 2·ndim) answers and the maps."""
        channels, width = self.pyramid.channels, 1 + 2 * len(self.shape)
        at = len(self.priors) * width
        answers = numbers[:, :at].reshape(-1, len(self.priors), width)
        maps = []
        for step in self.steps:
            sides = [-(-side // by) for side, by in zip(self.shape, step, strict=True)]
            count = channels * math.prod(sides)
            maps.append(numbers[:, at : at + count].reshape(-1, channels, *sides))
            at += count
        return answers, maps


def apart(edges: Tensor) -> Tensor:
    """Numbers of boxes, given best first, that overlap no better one by more than ``MOST_OVERLAP``."""
    if edges.shape[1] == 4:
        from torchvision.ops import nms

        falling = torch.arange(len(edges), 0, -1, dtype=edges.dtype, device=edges.device)
        best: Tensor = nms(edges, falling, MOST_OVERLAP)
        return best
    n = edges.shape[1] // 2
    low = torch.maximum(edges[:, None, :n], edges[None, :, :n])
    high = torch.minimum(edges[:, None, n:], edges[None, :, n:])
    both = (high - low).clamp_min(0).prod(-1)
    size = (edges[:, n:] - edges[:, :n]).prod(-1)
    near = (both > MOST_OVERLAP * (size[:, None] + size[None] - both)).tolist()
    kept: list[int] = []
    for number, row in enumerate(near):
        if not any(row[one] for one in kept):
            kept.append(number)
    return torch.tensor(kept, dtype=torch.long, device=edges.device)


def _regions_of_pictures(features: Tensor, boxes: Tensor, step: Sequence[int]) -> Tensor:
    """As ``sampled_regions``, by torchvision: (n, channels, 7, 7) of (n, 4) edges."""
    from torchvision.ops import roi_align

    places = boxes / torch.tensor([*step, *step], dtype=boxes.dtype, device=boxes.device)
    turned = places[:, [1, 0, 3, 2]]  # torchvision counts columns first
    region = (REGION[2], REGION[2])
    found: Tensor = roi_align(features[None], [turned], region, sampling_ratio=SAMPLES, aligned=True)
    return found


def sampled_regions(features: Tensor, boxes: Tensor, step: Sequence[int]) -> Tensor:
    """RoIAlign in volumes: each place of a region is the mean of eight trilinear samples.

    Args:
        features: (channels, i, j, k) of a map.
        boxes: (n, 6) edges in voxels of the image.
        step: Voxels of the image between the map's places along each axis.

    Returns:
        (n, channels, 4, 4, 4).
    """
    count, fine = len(boxes), REGION[3] * SAMPLES
    low, high = boxes[:, :3], boxes[:, 3:]
    part = (torch.arange(fine, dtype=boxes.dtype, device=boxes.device) + 0.5) / fine
    sides = torch.tensor([by * side for by, side in zip(step, features.shape[1:], strict=True)], device=boxes.device)
    # (n, fine, 3): edges of the whole map are −1 and 1
    along = 2 * (low[:, None] + part[None, :, None] * (high - low)[:, None]) / sides - 1
    i, j, k = along[:, :, 0], along[:, :, 1], along[:, :, 2]
    axes = (k[:, None, None, :], j[:, None, :, None], i[:, :, None, None])  # grid_sample counts the last axis first
    grid = torch.stack([axis.expand(count, fine, fine, fine) for axis in axes], dim=-1)
    rows = grid.reshape(1, count * fine, fine, fine, 3)
    found = functional.grid_sample(features[None], rows, padding_mode="border", align_corners=False)
    regions = found.reshape(-1, count, fine, fine, fine).movedim(1, 0)
    return functional.avg_pool3d(regions, SAMPLES)


def moved(edges: Tensor, numbers: Tensor) -> Tensor:
    """Boxes moved by parts of their sides and stretched by exponents (Ren et al. 2015)."""
    n = edges.shape[1] // 2
    middle, sides = (edges[:, :n] + edges[:, n:]) / 2, edges[:, n:] - edges[:, :n]
    middle = middle + numbers[:, :n] * sides
    half = sides * torch.exp(numbers[:, n:].clamp(-4, 4)) / 2
    return torch.cat([middle - half, middle + half], dim=1)


def second_of(spec: NetworkSpec, channels: int) -> Second:
    """A fresh second stage."""
    second = Second(channels, scaled(DENSE, spec.width), spec.outputs, spec.dimensions)
    for layer in (second.classes, second.sides):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    nn.init.constant_(second.classes.bias, -2.0)
    return second
