"""What a detector is to say at each place: which truth a place answers for, and how its box is told in numbers.

Boxes are edges here: (…, 2 · ndim) low edges, then high edges, in voxels; voxel ``i`` reaches from ``i`` to ``i + 1``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

REAL = 0.5  # IoU from which a proposal is the truth that it overlaps
REAL_SHARE = 0.4  # of the proposals that the second stage learns from, at most
CANDIDATES = 9  # places a map that a truth's statistics are taken over: Zhang et al. 2020
LARGEST_STRETCH = math.log(1000 / 16)  # of a prior's side, as Faster R-CNN has it


def overlap(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(n, m) intersection over union of (n, 2·ndim) with (m, 2·ndim) boxes."""
    import torch

    ndim = first.shape[-1] // 2
    low = torch.maximum(first[:, None, :ndim], second[None, :, :ndim])
    high = torch.minimum(first[:, None, ndim:], second[None, :, ndim:])
    both = (high - low).clamp_min(0).prod(-1)
    sizes = [(boxes[:, ndim:] - boxes[:, :ndim]).clamp_min(0).prod(-1) for boxes in (first, second)]
    return both / (sizes[0][:, None] + sizes[1][None] - both).clamp_min(1e-9)


def generalised_overlap(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n,) IoU and generalised IoU (Rezatofighi et al. 2019) of (n, 2·ndim) boxes with their partners."""
    import torch

    ndim = first.shape[-1] // 2
    low, high = torch.maximum(first, second)[..., :ndim], torch.minimum(first, second)[..., ndim:]
    both = (high - low).clamp_min(0).prod(-1)
    either = sum((boxes[..., ndim:] - boxes[..., :ndim]).clamp_min(0).prod(-1) for boxes in (first, second)) - both
    hull = torch.maximum(first, second)[..., ndim:] - torch.minimum(first, second)[..., :ndim]
    around = hull.clamp_min(0).prod(-1)
    iou = both / either.clamp_min(1e-9)
    return iou, iou - (around - either) / around.clamp_min(1e-9)


def edges_of(priors: torch.Tensor) -> torch.Tensor:
    """Edges of (places, 2·ndim) boxes told by centre and sides."""
    import torch

    ndim = priors.shape[-1] // 2
    centre, half = priors[..., :ndim], priors[..., ndim:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def decoded(numbers: torch.Tensor, priors: torch.Tensor, anchored: bool) -> torch.Tensor:
    """The boxes that a detector tells.

    Args:
        numbers: (…, places, 2·ndim).
        priors: (places, 2·ndim) centre and sides.
        anchored: By moving and stretching the prior (Ren et al. 2015); else by the distances from the prior's centre
            to the box's sides, in halves of the prior's (Tian et al. 2019).
    """
    import torch

    ndim = priors.shape[-1] // 2
    centre, sides = priors[:, :ndim], priors[:, ndim:]
    first, second = numbers[..., :ndim], numbers[..., ndim:]
    if anchored:
        middle = centre + first * sides
        half = sides * torch.exp(second.clamp(-LARGEST_STRETCH, LARGEST_STRETCH)) / 2
        return torch.cat([middle - half, middle + half], dim=-1)
    to_low, to_high = (torch.exp(part.clamp(-LARGEST_STRETCH, LARGEST_STRETCH)) * sides / 2 for part in (first, second))
    return torch.cat([centre - to_low, centre + to_high], dim=-1)


def assigned(truths: torch.Tensor, priors: torch.Tensor, places: tuple[int, ...], each: int = 1) -> torch.Tensor:
    """Which truth each place answers for, by adaptive training sample selection.

    Of each map the ``CANDIDATES`` places closest to a truth's centre are candidates; those whose prior overlaps it by
    at least the mean and a standard deviation of all of them, with their centre inside, are its places. A truth that
    this leaves without a place gets the closest one that is no other's only one; a place claimed twice answers for the
    truth that it overlaps more. Source: Zhang et al. 2020, https://arxiv.org/abs/1912.02424, algorithm 1 (but for the
    last resort).

    Args:
        truths: (n, 2·ndim) edges.
        priors: (places, 2·ndim) centre and sides.
        places: How many of them belong to each map.
        each: Anchors a place.

    Returns:
        (places,) int64 number of the truth, −1 for none.
    """
    import torch

    result = torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)
    if not len(truths):
        return result
    ndim = priors.shape[-1] // 2
    shared = overlap(truths, edges_of(priors))
    middles = (truths[:, :ndim] + truths[:, ndim:]) / 2
    distance = torch.cdist(middles, priors[:, :ndim].to(middles.dtype))
    candidates = []
    start = 0
    for count in places:
        few = min(CANDIDATES * each, count)
        nearest = distance[:, start : start + count].topk(few, dim=1, largest=False).indices
        candidates.append(nearest + start)
        start += count
    chosen = torch.cat(candidates, dim=1)
    quality = shared.gather(1, chosen)
    least = quality.mean(1) + (quality.std(1) if quality.shape[1] > 1 else 0)
    centres = priors[:, :ndim][chosen]
    inside = ((centres > truths[:, None, :ndim]) & (centres < truths[:, None, ndim:])).all(-1)
    taken = inside & (quality >= least[:, None])
    claims = torch.zeros_like(shared)
    claims.scatter_(1, chosen, torch.where(taken, quality.clamp_min(1e-6), 0.0))
    best, which = claims.max(0)
    result = torch.where(best > 0, which, result)
    held = torch.bincount(result[result >= 0], minlength=len(truths))
    for bare in (held == 0).nonzero()[:, 0].tolist():
        for place in distance[bare].argsort().tolist():
            holder = int(result[place])
            if holder < 0 or held[holder] > 1:  # nothing takes a truth's only place
                result[place] = bare
                held[bare] += 1
                if holder >= 0:
                    held[holder] -= 1
                break
    return result


def sampled(
    found: torch.Tensor, truths: torch.Tensor, spared: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Proposals that a second stage learns from, drawn anew each time.

    A proposal is real from an IoU of 0.5 with a truth on (Ren et al. 2015); one whose centre lies in a spared box and
    that is not real says nothing.

    Args:
        found: (n, 2·ndim) proposed edges, n at least 1 or no box at all.
        truths: (m, 2·ndim + 1 + classes), as `medmap.tasks.detect.Detect` says.
        spared: Likewise, those that are neither to be found nor wrong.
        count: How many are taken; missing ones are empty and weigh nothing.

    Returns:
        (count, 2·ndim) edges, (count, 2·ndim + 1 + classes) the truth of each, zeros for none, and (count, classes)
        weights.
    """
    import torch

    ndim = found.shape[1] // 2
    width, classes = truths.shape[1], truths.shape[1] - 2 * ndim - 1
    boxes, goals, weights = (
        found.new_zeros((count, 2 * ndim)),
        found.new_zeros((count, width)),
        found.new_zeros((count, classes)),
    )
    boxes[:, ndim:] = 1
    if not len(found):
        return boxes, goals, weights
    shared = overlap(found, truths[:, : 2 * ndim]) if len(truths) else found.new_zeros((len(found), 1))
    best, which = shared.max(1)
    real = best >= REAL
    middle = (found[:, None, :ndim] + found[:, None, ndim:]) / 2
    silent = ((middle > spared[None, :, :ndim]) & (middle < spared[None, :, ndim : 2 * ndim])).all(-1).any(1) & ~real
    yes = real.nonzero()[:, 0]
    no = (~real & ~silent).nonzero()[:, 0]
    yes = yes[torch.randperm(len(yes))[: int(count * REAL_SHARE)]]
    no = no[torch.randperm(len(no))[: count - len(yes)]]
    taken = torch.cat([yes, no])
    boxes[: len(taken)] = found[taken]
    goals[: len(yes)] = truths[which[yes]] if len(yes) else goals[:0]
    weights[: len(taken)] = 1
    return boxes, goals, weights
