"""What a mask that is learned is compared by: overlap, boundary and centre line, each a pure function of chances.

Throughout: ``chance`` (batch, structures, spatial …) between 0 and 1, ``truth`` the same shape of 0 and 1, ``weight`` 1
where a voxel counts for a structure and 0 where it is ignored or was not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

SMOOTH = 1e-5


def class_terms(log_chance: torch.Tensor, target: torch.Tensor, focal_gamma: float = 0.0) -> torch.Tensor:
    """(batch, spatial …) cross-entropy of each voxel, where it is of one class.

    Source of the focal term: Lin et al. 2017; 0 is plain cross-entropy.

    Args:
        log_chance: (batch, classes, spatial …) logarithms of probabilities.
        target: (batch, spatial …) whole numbers.
        focal_gamma: How much easy voxels are turned away from, from 0.
    """
    from torch.nn import functional

    return _focal(functional.nll_loss(log_chance, target, reduction="none"), focal_gamma)


def region_terms(logits: torch.Tensor, truth: torch.Tensor, focal_gamma: float = 0.0) -> torch.Tensor:
    """(batch, regions, spatial …) binary cross-entropy of each voxel and region: regions may overlap.

    Args:
        logits: (batch, regions, spatial …).
        truth: The same shape of 0 and 1.
        focal_gamma: As in ``class_terms``.
    """
    from torch.nn import functional

    return _focal(functional.binary_cross_entropy_with_logits(logits, truth, reduction="none"), focal_gamma)


def _focal(terms: torch.Tensor, gamma: float) -> torch.Tensor:
    """Cross-entropy weighed by how unlikely the truth was held, to a power."""
    import torch

    return terms * (1 - torch.exp(-terms)) ** gamma if gamma else terms


def tversky_loss(
    chance: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, missed_share: float = 0.5
) -> torch.Tensor:
    """One less the soft Tversky index, over the batch, mean over structures; 0.5 makes it soft Dice.

    Source: Salehi et al. 2017 (Tversky loss, beta weighs what is missed); Milletari et al. 2016 (soft Dice).

    Args:
        chance, truth, weight: As above.
        missed_share: Weight of what is missed, against what is invented, between 0 and 1.
    """
    axes = (0, *range(2, chance.ndim))
    hit = (weight * chance * truth).sum(axes)
    missed = (weight * (1 - chance) * truth).sum(axes)
    invented = (weight * chance * (1 - truth)).sum(axes)
    index = (hit + SMOOTH) / (hit + missed_share * missed + (1 - missed_share) * invented + SMOOTH)
    return 1 - index.mean()


def boundary_loss(chance: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean of the chances times the signed distance from the truth's boundary, in sides of the patch.

    A chance inside counts for less than nothing and one outside for more, the more the farther away: the sum is an
    integral between two boundaries (Kervadec et al. 2019). It says little by itself at the start of a training: add it
    to a loss of overlap. A structure that a patch does not show is left out there.

    Args:
        chance, truth, weight: As above.
    """
    import torch

    signed = signed_distances(truth.detach().cpu().numpy() > 0)
    distance = torch.from_numpy(signed).to(chance.device, chance.dtype)
    there = truth.flatten(2).amax(2) > 0
    counted = weight * there.reshape(*there.shape, *[1] * (chance.ndim - 2))
    return (counted * chance * distance).sum() / counted.sum().clamp_min(1)


def signed_distances(truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of each voxel from the boundary, below 0 inside, as a share of the longest side.

    Args:
        truth: (batch, structures, spatial …).

    Returns:
        The same shape; 0 all over where a structure is absent or fills everything.
    """
    from scipy.ndimage import distance_transform_edt

    out = np.zeros(truth.shape, np.float32)
    for place in np.ndindex(*truth.shape[:2]):
        inside = truth[place]
        if inside.any() and not inside.all():
            # a voxel's own edge lies half a voxel away: neither side of the boundary is nearer
            away, within = distance_transform_edt(~inside), distance_transform_edt(inside)
            out[place] = np.where(inside, 0.5 - within, away - 0.5)
    out /= max(truth.shape[2:])
    return out


def centre_line_loss(
    chance: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, iterations: int = 3
) -> torch.Tensor:
    """One less the soft clDice, mean over the structures that are there: whether tubes hold together.

    How much of each one's centre line lies in the other; a gap in a thin vessel costs as much as one in a thick one
    (Shit et al. 2021).

    Args:
        chance, truth, weight: As above.
        iterations: About half the diameter of the thickest tube, in voxels.
    """
    axes = (0, *range(2, chance.ndim))
    found, real = chance * weight, truth * weight
    line_found, line_real = soft_skeleton(found, iterations), soft_skeleton(real, iterations)
    precision = ((line_found * real).sum(axes) + SMOOTH) / (line_found.sum(axes) + SMOOTH)
    sensitivity = ((line_real * found).sum(axes) + SMOOTH) / (line_real.sum(axes) + SMOOTH)
    there = real.sum(axes) > 0
    value = 2 * precision * sensitivity / (precision + sensitivity)
    return ((1 - value) * there).sum() / there.sum().clamp_min(1)


def soft_skeleton(chance: torch.Tensor, iterations: int) -> torch.Tensor:
    """What openings of growing size take away: the centre line of a mask, for chances too (Shit et al. 2021).

    Args:
        chance: (batch, structures, spatial …), two or three spatial axes.
        iterations: How many voxels are peeled off.
    """
    from torch.nn import functional

    left = chance
    line = functional.relu(left - _opened(left))
    for _ in range(iterations):
        left = _eroded(left)
        line = line + (1 - line) * functional.relu(left - _opened(left))
    return line


def _eroded(chance: torch.Tensor) -> torch.Tensor:
    """The least of a voxel and its neighbours along the axes."""
    import torch
    from torch.nn import functional

    pool = functional.max_pool2d if chance.ndim == 4 else functional.max_pool3d
    n = chance.ndim - 2
    out = chance
    for axis in range(n):
        size = tuple(3 if a == axis else 1 for a in range(n))
        pad = tuple(1 if a == axis else 0 for a in range(n))
        out = torch.minimum(out, -pool(-chance, size, stride=1, padding=pad))
    return out


def _opened(chance: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    pool = functional.max_pool2d if chance.ndim == 4 else functional.max_pool3d
    return pool(_eroded(chance), 3, stride=1, padding=1)
