"""Augmentation: parameters are drawn first, as plain values; applying them is deterministic and batched."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medmap.config import Section

if TYPE_CHECKING:
    import torch

# Which index axes of a picture (rows, columns) or volume a flip may reverse without showing an anatomy that does not
# exist. Tissue under a microscope and skin have no left and right; a chest does (the heart), and so has a volume in a
# patient's space. A breast or an eye is either side in life: the columns may flip, up and down may not.
FLIPS_2D: dict[str, tuple[int, ...]] = {
    "SM": (0, 1),
    "GM": (0, 1),
    "XC": (0, 1),
    "DMS": (0, 1),
    "EM": (0, 1),
    "US": (1,),
    "MG": (1,),
    "OP": (1,),
    "OPT": (1,),
}
# Blood cells, skin and tissue have no upright: any rotation is a real picture.
ANY_ROTATION = ("SM", "GM", "DMS", "EM")


class AugmentSection(Section):
    """What may happen to a training image; ``augment:`` of run.yaml. A number is the largest amount, 0 switches off.

    Args:
        probability: Chance that the affine part is drawn for an image, likewise each intensity part.
        rotate_deg: Rotation, degrees either way (in a volume about each axis).
        flat_axis: Of a volume of few or thick slices, the axis across them: images are turned, sheared, zoomed and
            shifted in the plane of the other two alone. None moves along all.
        shift: Translation as a part of each side, either way.
        scale: Zoom: sizes from 1/(1+scale) to 1+scale.
        crop: Largest part of each side that may be cut away; what is left fills the image again.
        shear_deg: Shear, degrees either way.
        flip_axes: Index axes that may be reversed, each with probability one half.
        brightness, contrast, gamma: Strength of intensity changes, in standard deviations and log factors.
        noise: Largest standard deviation of added Gaussian noise, in standard deviations of the image.
        blur_voxels: Largest sigma of a Gaussian blur.
        cutout: Largest side of a box replaced by the mean, as a part of the image's side.
        cutout_probability: Chance of such a box.
        mixup: Beta parameter of mixup (Zhang et al. 2018); 0 is none.
        mosaic: For boxes: chance that an image becomes four parts of itself and of others, put together.
        drop_inputs: Chance that one of several channels is withheld (it becomes the mean), never all of them: the
            network learns to answer where an input was not acquired.
    """

    probability: float = Field(default=1.0, ge=0, le=1)
    rotate_deg: float = Field(default=8, ge=0, le=180)
    flat_axis: int | None = Field(default=None, ge=0, le=2)
    shift: float = Field(default=0.04, ge=0, le=0.5)
    scale: float = Field(default=0.1, ge=0, le=1)
    crop: float = Field(default=0, ge=0, le=0.9)
    shear_deg: float = Field(default=3, ge=0, le=45)
    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    brightness: float = Field(default=0.2, ge=0, le=2)
    contrast: float = Field(default=0.1, ge=0, le=1)
    gamma: float = Field(default=0.12, ge=0, le=1)
    noise: float = Field(default=0.05, ge=0, le=2)
    blur_voxels: float = Field(default=0, ge=0, le=5)
    cutout: float = Field(default=0.4, ge=0, le=0.9)
    cutout_probability: float = Field(default=0.25, ge=0, le=1)
    mixup: float = Field(default=0, ge=0, le=2)
    mosaic: float = Field(default=0, ge=0, le=1)
    drop_inputs: float = Field(default=0, ge=0, lt=1)


OFF = AugmentSection(
    probability=0, rotate_deg=0, shift=0, scale=0, shear_deg=0, brightness=0, contrast=0, gamma=0, noise=0, cutout=0,
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """What happens to one image: plain values, enough to do it again.

    Args:
        matrix: (ndim, ndim) linear map of centred coordinates, output to input.
        shift: (ndim,) parts of each side, output to input.
        flips: Index axes reversed.
        brightness, contrast, gamma: Added, multiplied, exponent (1 is none).
        noise, noise_seed: Standard deviation and the seed of its field.
        blur_voxels: Sigma of the blur.
        box: (centre …, side) of the cut-out as parts of the image, or None.
        drop_inputs, drop_seed: Chance that a channel is withheld, and the seed that says which.
    """

    matrix: tuple[tuple[float, ...], ...]
    shift: tuple[float, ...]
    flips: tuple[int, ...] = ()
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0
    blur_voxels: float = 0.0
    box: tuple[float, ...] | None = None
    drop_inputs: float = 0.0
    drop_seed: int = 0


def allowed_flips(modality: str | None, ndim: int, label_names: Sequence[str], patient_space: bool) -> tuple[int, ...]:
    """Index axes along which a flip shows nothing that anatomy forbids.

    A class named for a side (left, right) forbids every flip; so does a volume in a patient's space.
    """
    sided = any(word in name.lower().replace("_", " ").replace("-", " ").split() for name in label_names for word in
                ("left", "right"))  # fmt: skip
    if sided or ndim != 2 or patient_space:
        return ()
    return FLIPS_2D.get(modality or "", ())


def views(flip_axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """What a prediction is averaged over: the image as it is, and mirrored along each axis that training mirrored."""
    return ((), *((axis,) for axis in flip_axes))


def draw(section: AugmentSection, rng: np.random.Generator, ndim: int) -> Drawn:
    """Draw what happens to one image of ``ndim`` axes."""
    uniform = rng.uniform
    linear = np.eye(ndim)
    shift = np.zeros(ndim)
    flat = section.flat_axis if ndim == 3 else None
    if rng.random() < section.probability:
        linear = _rotation(section.rotate_deg, rng, ndim, flat)
        log_scale = math.log1p(section.scale)
        linear = linear * math.exp(uniform(-log_scale, log_scale))
        if section.shear_deg:
            shear = np.eye(ndim)
            rows = rng.permutation(ndim)[:2]
            shear[rows[0], rows[1]] = math.tan(math.radians(uniform(-section.shear_deg, section.shear_deg)))
            linear = linear @ shear
        shift = uniform(-section.shift, section.shift, ndim)
    if section.crop:
        kept = uniform(1 - section.crop, 1)
        linear = linear * kept
        shift = shift + uniform(-(1 - kept) / 2, (1 - kept) / 2, ndim)
    if flat is not None:
        linear[flat, :] = linear[:, flat] = shift[flat] = 0.0
        linear[flat, flat] = 1.0
    flips = tuple(a for a in section.flip_axes if a < ndim and rng.random() < 0.5)
    chosen = rng.random(4) < section.probability
    box = None
    if section.cutout and rng.random() < section.cutout_probability:
        box = (*(float(v) for v in uniform(0, 1, ndim)), float(uniform(section.cutout / 2, section.cutout)))
    return Drawn(
        matrix=tuple(tuple(float(v) for v in row) for row in linear),
        shift=tuple(float(v) for v in shift),
        flips=flips,
        brightness=float(uniform(-section.brightness, section.brightness)) if chosen[0] else 0.0,
        contrast=float(math.exp(uniform(-section.contrast, section.contrast))) if chosen[0] else 1.0,
        gamma=float(math.exp(uniform(-section.gamma, section.gamma))) if section.gamma and chosen[1] else 1.0,
        noise=float(uniform(0, section.noise)) if chosen[2] else 0.0,
        noise_seed=int(rng.integers(2**31)),
        blur_voxels=float(uniform(0, section.blur_voxels)) if chosen[3] else 0.0,
        box=box,
        drop_inputs=section.drop_inputs,
        drop_seed=int(rng.integers(2**31)) if section.drop_inputs else 0,
    )


def _rotation(limit_deg: float, rng: np.random.Generator, ndim: int, flat: int | None) -> NDArray[np.float64]:
    matrix = np.eye(ndim)
    for i in range(ndim):
        for j in range(i + 1, ndim):
            if flat in (i, j):
                continue
            angle = math.radians(rng.uniform(-limit_deg, limit_deg))
            plane = np.eye(ndim)
            plane[i, i] = plane[j, j] = math.cos(angle)
            plane[i, j], plane[j, i] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ plane
    return matrix


def apply(images: torch.Tensor, drawn: Sequence[Drawn]) -> torch.Tensor:
    """Do to each image of a batch what was drawn for it.

    Args:
        images: (batch, channels, spatial …) float32, standardised.
        drawn: One for each image.

    Returns:
        A new tensor of the same shape.
    """
    grid = _grid(images, drawn)
    out = images.clone() if grid is None else _sampled(images, grid, "bilinear")
    out = _intensity(out, drawn)
    return _withheld(_cut_out(out, drawn), drawn)


def apply_with_truth(
    images: torch.Tensor, truth: torch.Tensor, drawn: Sequence[Drawn]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same to images and to label maps that lie on them; labels are moved to the nearest voxel.

    Args:
        images: (batch, channels, spatial …) float32, standardised.
        truth: (batch, spatial …) integers below 2²⁴.
        drawn: One for each image.
    """
    grid = _grid(images, drawn)
    if grid is not None:
        images = _sampled(images, grid, "bilinear")
        truth = _sampled(truth[:, None].float(), grid, "nearest")[:, 0].to(truth.dtype)
    return _withheld(_cut_out(_intensity(images, drawn), drawn), drawn), truth


def apply_with_boxes(
    images: torch.Tensor, boxes: torch.Tensor, drawn: Sequence[Drawn]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same to images and to the boxes of what they show.

    A box stands for the ellipsoid that it holds: turned by an angle, a cell or a nodule fills the ellipsoid's box, not
    the larger box of the turned corners (Kalra et al. 2021, https://arxiv.org/abs/2109.13488, found labels made so to
    be closer to what people draw). Flips, shifts and zooms move any box exactly.

    Args:
        images: (batch, channels, spatial …) float32, standardised.
        boxes: (batch, boxes, 2·ndim + more) low and high edges in voxels, voxel ``i`` from ``i`` to ``i + 1``; what
            lies beyond the image afterwards is not cut.
        drawn: One for each image.
    """
    import torch

    sides = np.array(images.shape[2:], dtype=np.float64)
    moved = boxes.clone()
    for n, one in enumerate(drawn):
        edges = moved_edges(boxes[n, :, : 2 * len(sides)].numpy().astype(np.float64), sides, one)
        moved[n, :, : 2 * len(sides)] = torch.from_numpy(edges).to(boxes.dtype)
    return apply(images, drawn), moved


def moved_edges(edges: NDArray[np.float64], sides: NDArray[np.float64], drawn: Drawn) -> NDArray[np.float64]:
    """(n, 2·ndim) edges of boxes after what was drawn happened to their image; see ``apply_with_boxes``."""
    ndim = len(sides)
    out = np.linalg.inv(np.array(drawn.matrix))
    signs = np.array([-1.0 if axis in drawn.flips else 1.0 for axis in range(ndim)])
    middle = (edges[:, :ndim] + edges[:, ndim:]) / 2 - sides / 2
    half = (edges[:, ndim:] - edges[:, :ndim]) / 2
    middle = (signs * middle - sides * np.array(drawn.shift)) @ out.T + sides / 2
    half = np.sqrt((half**2) @ (out**2).T)
    return np.concatenate([middle - half, middle + half], axis=1)


def mosaic(
    images: torch.Tensor,
    boxes: torch.Tensor,
    chance: float,
    rng: np.random.Generator,
    kinds: Sequence[Hashable] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make some images of a batch of two parts along each axis, each part from another image of the batch.

    A part keeps its place, so that nothing is scaled; boxes are cut where their part ends and what is left of less
    than half of one is spared (state −1). Source: the mosaic of Bochkovskiy et al. 2020,
    https://arxiv.org/abs/2004.10934, without its zoom.

    Args:
        images: (batch, channels, spatial …).
        boxes: (batch, boxes, 2·ndim + 1 + more): edges in voxels, then the state: 1 there, 0 padding, −1 spared.
        chance: Of each image to be put together.
        rng: Draws it.
        kinds: What each image is; only those of one kind are put together. None: all are.
    """
    import torch

    count, ndim = len(images), images.ndim - 2
    kinds = [None] * count if kinds is None else kinds
    sides = np.array(images.shape[2:])
    made, rows = images.clone(), [row[row[:, 2 * ndim] != 0] for row in boxes]
    kept = list(rows)
    for n in range(count):
        alike = [other for other in range(count) if kinds[other] == kinds[n]]
        if len(alike) < 2 or rng.random() >= chance:
            continue
        cutting = np.array([int(rng.integers(side // 4, side - side // 4 + 1)) for side in sides])
        parts = []
        for number in range(2**ndim):
            upper = np.array([number >> axis & 1 for axis in range(ndim)], dtype=bool)
            low, high = np.where(upper, cutting, 0), np.where(upper, sides, cutting)
            donor = n if number == 0 else alike[int(rng.integers(len(alike)))]
            where = (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
            made[n][where] = images[donor][where]
            parts.append(_cut_to(rows[donor], torch.from_numpy(low), torch.from_numpy(high)))
        kept[n] = torch.cat(parts)
    most = max([1, *(len(row) for row in kept)])
    packed = boxes.new_zeros((count, most, boxes.shape[2]))
    for row, mine in zip(packed, kept, strict=True):
        row[: len(mine)] = mine
    return made, packed


def _cut_to(boxes: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """What of boxes lies between two corners; spared where that is less than half of one."""
    import torch

    ndim = len(low)
    inner = torch.cat([torch.clamp(boxes[:, :ndim], low, high), torch.clamp(boxes[:, ndim : 2 * ndim], low, high)], 1)
    volume = (inner[:, ndim:] - inner[:, :ndim]).prod(1)
    share = volume / (boxes[:, ndim : 2 * ndim] - boxes[:, :ndim]).clamp_min(1e-6).prod(1)
    out = torch.cat([inner.to(boxes.dtype), boxes[:, 2 * ndim :]], dim=1)
    out[:, 2 * ndim] = torch.where(share < 0.5, -out[:, 2 * ndim].abs(), out[:, 2 * ndim])
    return out[share >= 0.1]


def _withheld(images: torch.Tensor, drawn: Sequence[Drawn]) -> torch.Tensor:
    """Channels set to the mean, as those are that were not acquired; at least one stays."""
    if images.shape[1] < 2:
        return images
    for n, one in enumerate(drawn):
        if one.drop_inputs:
            chance = np.random.default_rng(one.drop_seed).random(images.shape[1])
            gone = (chance < one.drop_inputs) & (chance < chance.max())
            images[n, np.flatnonzero(gone)] = 0
    return images


def _sampled(images: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    from torch.nn import functional

    return functional.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def _grid(images: torch.Tensor, drawn: Sequence[Drawn]) -> torch.Tensor | None:
    """Where each voxel of the result comes from; None where nothing moves."""
    import torch
    from torch.nn import functional

    ndim = images.ndim - 2
    theta = np.zeros((len(drawn), ndim, ndim + 1), dtype=np.float32)
    sides = np.array(images.shape[2:], dtype=np.float64)
    still = np.zeros(len(drawn), dtype=bool)
    for n, one in enumerate(drawn):
        # voxel coordinates to the −1…1 coordinates of grid_sample, axis by axis, so that a rotation stays one
        matrix = np.array(one.matrix)
        matrix = matrix * sides[None, :] / sides[:, None]
        signs = np.array([-1.0 if a in one.flips else 1.0 for a in range(ndim)])
        theta[n, :, :ndim] = signs[:, None] * matrix
        theta[n, :, ndim] = signs * 2 * np.array(one.shift)
        still[n] = not one.flips and not np.any(one.shift) and np.array_equal(matrix, np.eye(ndim))
    if still.all():
        return None
    # grid_sample counts the last axis first
    order = list(range(ndim))[::-1]
    theta = theta[:, order][:, :, [*order, ndim]]
    return functional.affine_grid(torch.from_numpy(theta).to(images.device), list(images.shape), align_corners=False)


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 1))


def _intensity(images: torch.Tensor, drawn: Sequence[Drawn]) -> torch.Tensor:
    import torch

    contrast, brightness = _column([d.contrast for d in drawn], images), _column([d.brightness for d in drawn], images)
    axes = tuple(range(1, images.ndim))
    mean = images.mean(dim=axes, keepdim=True)
    images = (images - mean) * contrast + mean + brightness
    if any(d.gamma != 1 for d in drawn):
        low, high = images.amin(dim=axes, keepdim=True), images.amax(dim=axes, keepdim=True)
        span = (high - low).clamp_min(1e-6)
        images = ((images - low) / span).clamp_min(0) ** _column([d.gamma for d in drawn], images) * span + low
    if any(d.blur_voxels > 0.2 for d in drawn):
        images = torch.stack(
            [_blur(x, d.blur_voxels) if d.blur_voxels > 0.2 else x for x, d in zip(images, drawn, strict=True)]
        )
    if any(d.noise for d in drawn):
        # one stream a batch, seeded by its first image: reproducible, and cheap enough for every step
        generator = torch.Generator().manual_seed(drawn[0].noise_seed)
        field = torch.randn(images.shape, generator=generator, dtype=torch.float32).to(images.device)
        images = images + field * _column([d.noise for d in drawn], images)
    return images


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    import torch
    from torch.nn import functional

    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    ndim = image.ndim - 1
    convolve: Any = functional.conv2d if ndim == 2 else functional.conv3d
    out = image[:, None]
    for axis in range(ndim):
        shape = [1] * ndim
        shape[axis] = len(kernel)
        pad = [0] * (2 * ndim)
        pad[2 * (ndim - 1 - axis)] = pad[2 * (ndim - 1 - axis) + 1] = radius
        out = convolve(functional.pad(out, pad, mode="replicate"), kernel.reshape(1, 1, *shape))
    return out[:, 0]


def _cut_out(images: torch.Tensor, drawn: Sequence[Drawn]) -> torch.Tensor:
    if all(d.box is None for d in drawn):
        return images
    out = images.clone()
    sides = images.shape[2:]
    for n, one in enumerate(drawn):
        if one.box is None:
            continue
        centre, side = one.box[:-1], one.box[-1]
        where = tuple(
            slice(max(0, round(c * s - side * s / 2)), max(1, min(s, round(c * s + side * s / 2))))
            for c, s in zip(centre, sides, strict=True)
        )
        out[n][(slice(None), *where)] = out[n].mean()
    return out


def mixup_weights(section: AugmentSection, rng: np.random.Generator, count: int) -> NDArray[np.float32] | None:
    """Weights of the first image in each pair (image n with image n−1 of the batch), or None when mixup is off."""
    if section.mixup <= 0 or count < 2:
        return None
    weights = rng.beta(section.mixup, section.mixup, count).astype(np.float32)
    return np.asarray(np.maximum(weights, 1 - weights))
