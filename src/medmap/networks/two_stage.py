"""Faster R-CNN: where something may be is proposed first, then each proposal is looked at for what it is.

Ren et al. 2015, https://arxiv.org/abs/1506.01497, on a feature pyramid (Lin et al. 2017). The proposals come from the
same places and anchors as those of ``retinanet``; suppression and RoIAlign (He et al. 2017) are torchvision's, for
pictures. For export it is two graphs, ``first`` and ``second``, with proposals and RoIAlign between them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmap.networks.detectors import Detector, Heads, Pyramid
from medmap.networks.own import scaled
from medmap.networks.spec import NetworkSpec

PROPOSED = 120  # boxes of an image that the second stage looks at
LOOKED_AT = 600  # the surest places, of which those are taken
MOST_OVERLAP = 0.7  # of two proposals
REGION = 7  # places a side that a proposal is brought to
DENSE = 256  # numbers of the second stage's hidden layer, times ``width``
NOTHING = -20.0  # logit of a proposal that there is not


class Second(nn.Module):
    """What a proposal is, and how its box is to be moved.

    Args:
        channels: Of the pyramid's maps.
        hidden: Numbers in between.
        outputs: Classes.
    """

    def __init__(self, channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * REGION**2, hidden),
            nn.LeakyReLU(0.01),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.01),
        )
        self.classes, self.sides = nn.Linear(hidden, outputs), nn.Linear(hidden, 4)

    def forward(self, regions: Tensor) -> Tensor:
        """Map (proposals, channels, 7, 7) to (proposals, classes + 4)."""
        hidden = self.body(regions)
        return torch.cat([self.classes(hidden), self.sides(hidden)], dim=1)


class First(nn.Module):
    """The first stage as a graph of its own: its answers and the pyramid's maps, one after the other.

    Shapes:
        (batch, channels, *shape) → (batch, numbers): (places, 1 + 4) and then every map, flattened.
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
        priors: (places, 4) centre and sides.
        steps: Pixels between the places of each map along each axis.
        shape: Of the image.

    Shapes:
        (batch, channels, *shape) → (batch, ``PROPOSED``, classes + 4) float32: logits of the classes, then the box's
        edges in pixels (pixel ``i`` reaches from ``i`` to ``i + 1``).
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
            answers: (batch, places, 1 + 4) of the first stage.

        Returns:
            (batch, ``PROPOSED``, 4) edges inside the image, and (batch, ``PROPOSED``) whether there is one.
        """
        from torchvision.ops import nms

        boxes, sure = [], []
        for one in answers.detach().float():
            best = one[:, 0].topk(min(LOOKED_AT, len(one))).indices
            edges = self._inside(moved(self._edges()[best], one[best, 1:]))
            kept = nms(edges, one[best, 0], MOST_OVERLAP)[:PROPOSED]
            here = edges.new_zeros((PROPOSED, 4))
            here[:, 2:] = 1
            here[: len(kept)] = edges[kept]
            boxes.append(here)
            sure.append(torch.arange(PROPOSED, device=edges.device) < len(kept))
        return torch.stack(boxes), torch.stack(sure)

    def _edges(self) -> Tensor:
        middle, half = self.priors[:, :2], self.priors[:, 2:] / 2
        return torch.cat([middle - half, middle + half], dim=1)

    def _inside(self, edges: Tensor) -> Tensor:
        last = torch.tensor(self.shape * 2, dtype=edges.dtype, device=edges.device)
        cut = torch.minimum(edges.clamp_min(0), last)
        return torch.cat([torch.minimum(cut[:, :2], last[:2] - 1), torch.maximum(cut[:, 2:], cut[:, :2] + 1)], dim=1)

    def regions(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Each box's part of the map that suits its size: (batch · boxes, channels, 7, 7) float32.

        Args:
            maps: The pyramid's, the finest first.
            boxes: (batch, boxes, 4) edges.
        """
        from torchvision.ops import MultiScaleRoIAlign

        named = OrderedDict((str(level), one.float()) for level, one in enumerate(maps))
        pool = MultiScaleRoIAlign(list(named), REGION, 2, canonical_scale=self._usual, canonical_level=self._level)
        turned = [one[:, [1, 0, 3, 2]] for one in boxes.float()]  # torchvision counts columns first
        regions: Tensor = pool(named, turned, [self.shape] * len(boxes))
        return regions

    @property
    def _level(self) -> int:
        return (max(self.steps[0])).bit_length() - 1

    @property
    def _usual(self) -> int:
        return 8 * max(self.steps[0])  # a box of eight steps of the finest map belongs to it

    def together(self, numbers: Tensor, boxes: Tensor, sure: Tensor) -> Tensor:
        """The answer: classes and boxes of all proposals.

        Args:
            numbers: (batch · proposals, classes + 4) of the second stage.
            boxes, sure: From ``proposed``.
        """
        rows = numbers.float().reshape(*boxes.shape[:2], -1)
        classes, sides = rows[..., :-4], rows[..., -4:]
        better = self._inside(moved(boxes.reshape(-1, 4), sides.reshape(-1, 4))).reshape(boxes.shape)
        return torch.cat([torch.where(sure[..., None], classes, NOTHING), better], dim=-1)

    def unpacked(self, numbers: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What ``First`` packed: (batch, places, 1 + 4) answers and the maps."""
        places, channels = len(self.priors), self.pyramid.channels
        answers, at = numbers[:, : places * 5].reshape(-1, places, 5), places * 5
        maps = []
        for step in self.steps:
            sides = [-(-side // by) for side, by in zip(self.shape, step, strict=True)]
            count = channels * sides[0] * sides[1]
            maps.append(numbers[:, at : at + count].reshape(-1, channels, *sides))
            at += count
        return answers, maps


def moved(edges: Tensor, numbers: Tensor) -> Tensor:
    """Boxes moved by parts of their sides and stretched by exponents (Ren et al. 2015)."""
    middle, sides = (edges[:, :2] + edges[:, 2:]) / 2, edges[:, 2:] - edges[:, :2]
    middle = middle + numbers[:, :2] * sides
    half = sides * torch.exp(numbers[:, 2:].clamp(-4, 4)) / 2
    return torch.cat([middle - half, middle + half], dim=1)


def second_of(spec: NetworkSpec, channels: int) -> Second:
    """A fresh second stage."""
    second = Second(channels, scaled(DENSE, spec.width), spec.outputs)
    for layer in (second.classes, second.sides):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    nn.init.constant_(second.classes.bias, -2.0)
    return second
