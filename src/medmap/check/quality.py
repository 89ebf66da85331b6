"""How good a picture is, without another one to compare it with: noise, blur, ghosts and motion between slices.

Each score is a pure function of pixels. None of them knows what is usual: the checks compare a score with those of the
other images of a dataset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.check.round_field import round_field
from medmap.image import Image

Floats = NDArray[np.float32]

SLICES = 9  # slices of a volume that are scored, spread over its middle
MIDDLE = (0.2, 0.8)  # part of a volume that they are taken from
SAMPLE = 1_000_000  # voxels from which a threshold is found
BLUR_WIDTH = 9  # pixels of the box that re-blurs (Crete et al. 2007)
FEWEST_SIDE = 16  # rows or columns below which nothing is scored
STRIP = 3  # pixels of air beside the object below which ghosts cannot be seen
LAPLACIAN_NORM = 6.0  # root of the sum of squares of Immerkær's mask
MAD_TO_SD = 0.6745


@dataclass(frozen=True, slots=True)
class Quality:
    """Scores of one image; None where the image does not allow one.

    Args:
        noise: Standard deviation of the noise as a part of the object's contrast (5th to 95th percentile).
        blur: From 0 (sharp) to 1 (nothing but blur).
        ghost: Signal in the air along one axis more than along the other, as a part of the object's mean; None for
            photographs.
        motion: How badly a slice is foretold by its two neighbours, against how much those differ: below 1 for still
            anatomy and pure noise, above it where every other slice was taken at another place.
    """

    noise: float | None = None
    blur: float | None = None
    ghost: float | None = None
    motion: float | None = None


UNSCORED = Quality()


def foreground_threshold(values: NDArray[np.generic]) -> float:
    """The value that parts object and background best (Otsu 1979), from at most a million voxels."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // SAMPLE)].astype(np.float64)
    flat = flat[np.isfinite(flat)]
    if not flat.size or flat.min() == flat.max():
        return float(flat[0]) if flat.size else 0.0
    low, high = np.percentile(flat, (0.5, 99.5))
    if not high > low:
        low, high = flat.min(), flat.max()
    counts, edges = np.histogram(np.clip(flat, low, high), bins=256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between))])


def slice_axis(image: Image) -> int:
    """The axis along which a volume was taken in slices: that of the largest spacing; the last when all are alike."""
    if not image.geometry.has_size:
        return 2
    spacing = np.array(image.spacing_mm)
    return int(np.argmax(spacing)) if spacing.max() > 1.2 * spacing.min() else 2


def scored_planes(image: Image) -> Floats:
    """(n, rows, columns): the pictures of an image that are scored, channels and times averaged."""
    planes = image.channels_first()
    if image.ndim == 2:
        stack = planes.mean(axis=0, dtype=np.float32)[None]
    else:
        moved = np.moveaxis(planes, slice_axis(image) + 1, 1)
        count = moved.shape[1]
        first, last = (int(part * (count - 1)) for part in MIDDLE)
        picked = np.unique(np.linspace(first, last, SLICES).round().astype(int))
        stack = moved[:, picked].mean(axis=0, dtype=np.float32)
    return np.asarray(np.nan_to_num(stack, nan=0.0, posinf=0.0, neginf=0.0), np.float32)


def noise_sd(planes: Floats, inside: NDArray[np.bool_]) -> float:
    """Standard deviation of the noise, in the image's unit.

    Immerkær's mask (Fast noise variance estimation, 1996) takes away what is linear in a neighbourhood of 3×3; the
    median of the absolute answer, unlike its mean, is hardly moved by edges.

    Args:
        planes: (n, rows, columns).
        inside: The pixels that count, of the same shape.
    """
    inner = planes[:, 1:-1, 1:-1] * 4
    inner -= 2 * (planes[:, :-2, 1:-1] + planes[:, 2:, 1:-1] + planes[:, 1:-1, :-2] + planes[:, 1:-1, 2:])
    inner += planes[:, :-2, :-2] + planes[:, :-2, 2:] + planes[:, 2:, :-2] + planes[:, 2:, 2:]
    answer = np.abs(inner[inside[:, 1:-1, 1:-1]])
    return float(np.median(answer)) / MAD_TO_SD / LAPLACIAN_NORM if answer.size else 0.0


def blur_score(planes: Floats) -> float:
    """How little a further blur changes: 0 sharp, 1 nothing but blur (Crete, Dolmiere, Ladret & Nicolas 2007)."""
    from scipy.ndimage import uniform_filter1d

    worst = 0.0
    for axis in (1, 2):
        again = uniform_filter1d(planes, BLUR_WIDTH, axis=axis, mode="nearest")
        differences = np.abs(np.diff(planes, axis=axis))
        lost = np.maximum(differences - np.abs(np.diff(again, axis=axis)), 0)
        total = float(differences.sum(dtype=np.float64))
        if total > 0:
            worst = max(worst, 1 - float(lost.sum(dtype=np.float64)) / total)
    return worst


def ghost_score(planes: Floats, inside: NDArray[np.bool_]) -> float | None:
    """Signal in the air before and behind the object against that beside it, as a part of the object's mean.

    Ghosts of motion lie along the direction of phase encoding alone (Giannelli, Diciotti, Tessa & Mascalchi 2010,
    ghost-to-signal ratio). None where there is no air on both axes.
    """
    found = []
    for plane, mask in zip(planes, inside, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            continue
        r0, r1, c0, c1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        along = np.concatenate([plane[:r0, c0:c1].ravel(), plane[r1:, c0:c1].ravel()])
        across = np.concatenate([plane[r0:r1, :c0].ravel(), plane[r0:r1, c1:].ravel()])
        least_along, least_across = STRIP * (c1 - c0), STRIP * (r1 - r0)
        mean = float(plane[mask].mean())
        if along.size >= least_along and across.size >= least_across and mean > 0:
            found.append(abs(float(along.mean()) - float(across.mean())) / (2 * mean))
    return float(np.median(found)) if found else None


def may_have_ghosts(image: Image) -> bool:
    """Whether what is dark in an image may be the air beside a body.

    A picture in colour was taken by light; and the dim rim of a photograph's round field, on one side more than on the
    other, is no ghost.
    """
    if image.quantity == "colour":
        return False
    return image.ndim == 3 or image.source.modality == "MR" or round_field(image.channels_first()[0]) is None


def motion_score(image: Image, inside_from: float) -> float | None:
    """How badly each slice is foretold by its neighbours, against how much these differ; the median over slices.

    Slices are taken every other one first: motion between the two halves sets every second slice beside its
    neighbours. None for fewer than seven slices.
    """
    if image.ndim != 3:
        return None
    axis = slice_axis(image)
    volume = np.moveaxis(image.channels_first()[0], axis, 0)
    if len(volume) < 7:
        return None
    first, last = int(MIDDLE[0] * len(volume)), int(MIDDLE[1] * len(volume))
    step = max(1, max(volume.shape[1:]) // 256)
    ratios = []
    for i in range(max(first, 1), min(last, len(volume) - 1)):
        before, here, after = (volume[k, ::step, ::step].astype(np.float32) for k in (i - 1, i, i + 1))
        body = (before > inside_from) | (here > inside_from) | (after > inside_from)
        if body.sum() < FEWEST_SIDE**2:
            continue
        apart = float(np.abs(after - before)[body].mean())
        if apart > 0:
            ratios.append(float(np.abs(here - (before + after) / 2)[body].mean()) / apart)
    return float(np.median(ratios)) if ratios else None


def quality_of(image: Image) -> Quality:
    """All scores of an image; a picture of fewer than 16 pixels a side gets none."""
    planes = scored_planes(image)
    if min(planes.shape[1:]) < FEWEST_SIDE:
        return Quality()
    threshold = foreground_threshold(planes)
    inside = planes > threshold
    if not inside.any() or inside.all():
        return Quality()
    low, high = np.percentile(planes[inside], (5, 95))
    contrast = float(max(high - low, high - threshold))
    noise = noise_sd(planes, inside) / contrast if contrast > 0 else None
    ghost = ghost_score(planes, inside) if may_have_ghosts(image) else None
    return Quality(noise, blur_score(planes), ghost, motion_score(image, threshold))
