"""Preparation that exists only fitted: the same recipe in training, evaluation, service and at a federated site."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medmap.config import Section
from medmap.errors import BundleError, DataError
from medmap.geometry import Flip, Pad, Permute, Resample, Step, Trace
from medmap.image import Image

Floats = NDArray[np.float32]
IntensityKind = Literal["range", "window", "zscore"]

MOST_VOXELS = 2**30  # of a prepared image: 4 GiB in float32, twice a whole body at a millimetre
# A resized side may differ from the source's proportions by this much before padding is used instead of stretching.
STRETCH_TOLERANCE = 0.05
EDGE = 1e-3  # voxels: rounding of affines


class PrepareSection(Section):
    """How images become tensors; ``prepare:`` of run.yaml.

    Args:
        shape: Voxels along each axis of what the network sees: the whole image, or a patch of it.
        grid: ``whole`` (the image is brought to ``shape``), ``spacing`` (to ``spacing_mm``, and the network sees
            patches) or ``native`` (as it is, in patches).
        spacing_mm: Distance between voxels along each axis, after the axes were turned to ``orientation``.
        keep_proportions: Pad to the target's proportions before resizing, instead of stretching.
        proportions: Relative edge lengths of the network's voxels, (1, 1, 1) for cubes.
        orientation: For volumes in a patient's space: the directions the axes are turned to, or None.
        intensity: ``range`` (the file's own range, for 8-bit pictures), ``window`` (fixed limits in the quantity's
            unit, for HU and SUV) or ``zscore`` (each image by its own mean and deviation, for MR and unknown units).
        window: (low, high) for ``window``; fitted from the training images when absent.
        channels: Number of channels the network sees; grey images are repeated, colour images averaged to one.
    """

    shape: tuple[int, ...] = Field(min_length=2, max_length=3)
    grid: Literal["whole", "spacing", "native"] = "whole"
    spacing_mm: tuple[Annotated[float, Field(ge=1e-4, le=1000)], ...] | None = None
    keep_proportions: bool = True
    proportions: tuple[Annotated[float, Field(ge=1e-4, le=1000)], ...] | None = None
    orientation: str | None = Field(default=None, pattern="^[LR][PA][SI]$")
    intensity: IntensityKind = "range"
    window: tuple[float, float] | None = None
    channels: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="after")
    def _proportions_fit(self) -> PrepareSection:
        if self.proportions is not None and len(self.proportions) != len(self.shape):
            raise ValueError("prepare.proportions needs one number for each axis of prepare.shape")
        if min(self.shape) < 1:
            raise ValueError("prepare.shape needs at least one voxel along each axis")
        if (self.grid == "spacing") != (self.spacing_mm is not None):
            raise ValueError("prepare.spacing_mm goes with prepare.grid = spacing")
        if self.spacing_mm is not None and len(self.spacing_mm) != len(self.shape):
            raise ValueError("prepare.spacing_mm needs one number for each axis of prepare.shape")
        return self


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network sees it.

    Args:
        tensors: By name; ``image`` is float32 (channels, spatial …).
        trace: The way back to the source's grid.
    """

    tensors: dict[str, NDArray[Any]]
    trace: Trace


@dataclass(frozen=True)
class Recipe:
    """A fitted preparation; make one with ``fit``.

    Args:
        section: What was asked for.
        low, high: Values mapped to 0 and 1 before standardising (``range`` and ``window``).
        mean, std: Per channel, of the training images after that; what the network sees has mean 0 and deviation 1.
    """

    section: PrepareSection
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, image: Image) -> Prepared:
        """An image as the network sees it, and the way back.

        Raises:
            DataError: An image that this recipe is not for (dimensions, channels, no finite value).
        """
        trace, pixels = self._geometric(image)
        pixels = self._intensity(pixels)
        pixels[list(absent_channels(image))] = 0  # the mean of what was acquired: nothing is said
        return Prepared({"image": np.ascontiguousarray(pixels)}, trace)

    def truth(self, mask: Image, trace: Trace) -> NDArray[np.uint8]:
        """A label map as it lies on the prepared image, each voxel the label of the nearest one.

        Args:
            mask: On the grid of the image that ``trace`` came from, or whole voxels of it (``Image.laid_on``).
            trace: What ``apply`` did.

        Raises:
            GeometryError: The mask is on another grid.
            DataError: Labels above 255, or overlapping regions.
        """
        mask = mask.laid_on(trace.source)
        array = mask.array
        if array.ndim != mask.geometry.ndim:
            raise DataError("overlapping regions are no label map", got=f"{array.shape[-1]} channels")
        if array.size and (array.min() < 0 or array.max() > 255):
            raise DataError("a label is no number from 0 to 255", got=f"{array.min()} to {array.max()}")
        return np.ascontiguousarray(trace.forward(array.astype(np.uint8), order=0), dtype=np.uint8)

    def unstandardised(self, pixels: Floats, axis: int = 0) -> Floats:
        """Values as they were before standardising: ``low`` is 0 and ``high`` is 1, alike in all channels.

        After ``zscore`` they stay as they are: each image had a mean and a deviation of its own.

        Args:
            pixels: As ``apply`` makes them, or batches of them.
            axis: Where the channels are.
        """
        if self.section.intensity == "zscore":
            return pixels
        shape = [1] * pixels.ndim
        shape[axis] = -1
        mean, std = (np.array(values, dtype=np.float32).reshape(shape) for values in (self.mean, self.std))
        return np.asarray(pixels * std + mean, dtype=np.float32)

    @property
    def digest(self) -> str:
        """Hash of everything the recipe does."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "prepare": self.section.model_dump(mode="json"),
            "low": self.low,
            "high": self.high,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of ``as_json``.

        Raises:
            BundleError: A recipe with unknown or missing parts.
        """
        if not isinstance(data, dict) or set(data) != {"prepare", "low", "high", "mean", "std"}:
            raise BundleError(
                "the recipe has unknown or missing parts", got=sorted(data), expected="prepare low high mean std"
            )
        try:
            section = PrepareSection.model_validate(data["prepare"])
            numbers = (float(data["low"]), float(data["high"]))
            return cls(section, *numbers, tuple(map(float, data["mean"])), tuple(map(float, data["std"])))
        except (TypeError, ValueError) as error:
            raise BundleError("the recipe cannot be read", got=str(error)) from error

    # -- the two halves ----------------------------------------------------------------------------------------

    def _geometric(self, image: Image) -> tuple[Trace, Floats]:
        steps = geometric_steps(image, self.section)
        lossy = None if self.section.intensity == "range" else f"intensities were mapped by {self.section.intensity}"
        trace = Trace(image.geometry, steps, lossy)
        array = to_channels(image, self.section.channels)
        moved = trace.forward(array, fill=float(array.min()), order=1)
        return trace, np.moveaxis(moved, -1, 0).astype(np.float32)

    def _intensity(self, pixels: Floats) -> Floats:
        axes = tuple(range(1, pixels.ndim))
        if self.section.intensity == "zscore":
            mean = pixels.mean(axis=axes, keepdims=True)
            std = pixels.std(axis=axes, keepdims=True)
            return np.asarray((pixels - mean) / np.maximum(std, 1e-6), dtype=np.float32)
        scaled = (np.clip(pixels, self.low, self.high) - self.low) / (self.high - self.low)
        shape = (-1, *[1] * len(axes))
        mean = np.asarray(self.mean, dtype=np.float32).reshape(shape)
        std = np.asarray(self.std, dtype=np.float32).reshape(shape)
        return np.asarray((scaled - mean) / std, dtype=np.float32)


def to_channels(image: Image, channels: int) -> Floats:
    """The image's values as float32 (spatial …, channels), with the number of channels asked for.

    One channel is repeated, three are averaged to one (ITU-R BT.601 luma); anything else must fit as it is. A cine's
    frames count as channels. Values that are not finite become the channel's smallest finite value, or 0 where it has
    none.

    Raises:
        DataError: Channels that do not fit, or no finite value at all.
    """
    array = np.moveaxis(image.channels_first(), 0, -1).astype(np.float32, copy=False)  # a view where nothing changes
    finite = np.isfinite(array)
    if not finite.all():
        if not finite.any():
            raise DataError("the image has no finite value", got="only NaN or infinity")
        lowest = np.where(finite, array, np.inf).min(axis=tuple(range(array.ndim - 1)))
        array = np.where(finite, array, np.where(np.isfinite(lowest), lowest, 0))
    have = array.shape[-1]
    if have == channels:
        return array
    if have == 1:
        return np.repeat(array, channels, axis=-1)
    if channels == 1 and image.quantity == "colour" and have in (3, 4):
        return array[..., :3] @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    if have == 4 and channels == 3 and image.quantity == "colour":  # the fourth is opacity
        return array[..., :3]
    raise DataError("the image has another number of channels than the recipe", got=have, expected=channels)


def absent_channels(image: Image) -> tuple[int, ...]:
    """Channels without any finite value: inputs of a ``joined`` image that were not acquired."""
    if image.array.dtype.kind != "f" or len(image.channels) < 2:
        return ()
    return tuple(c for c in range(len(image.channels)) if not np.isfinite(image.array[..., c]).any())


def joined(images: Mapping[str, Image | None]) -> Image:
    """Registered images of one case as the channels of one image, on the grid of the first that is there.

    The others are interpolated linearly onto that grid by where they say they lie; beyond their field of view, and for
    an image that was not acquired (None), a channel is NaN, which a recipe makes the mean of that channel. A truth must
    lie on that grid, too.

    Args:
        images: Input → image of one channel, in the order of the channels.

    Raises:
        DataError: No image, colours or several channels, pictures beside volumes, or grids that differ where nothing
            says how they lie.
    """
    there = {name: image for name, image in images.items() if image is not None}
    if not there:
        raise DataError("none of the inputs was acquired", got="no " + ", no ".join(images))
    first_name, first = next(iter(there.items()))
    if len(images) == 1:
        return first
    for name, image in there.items():
        if image.channels_first().shape[0] != 1:
            raise DataError(
                f"the input {name} has several channels; of several inputs each has one", got=image.channels
            )
        if image.ndim != first.ndim:
            raise DataError("pictures and volumes are mixed", got=f"{name}: {image.ndim}-D", expected=f"{first.ndim}-D")
    nothing = np.full(first.geometry.shape, np.nan, np.float32)
    parts = [_on_grid(name, there[name], first) if name in there else nothing for name in images]
    missing = [f"{name} was not acquired: the network sees the others" for name in images if name not in there]
    told = tuple(warning for image in there.values() for warning in image.source.warnings)
    return Image(
        np.stack(parts, axis=-1),
        first.geometry,
        first.quantity if len({image.quantity for image in there.values()}) == 1 else "unknown",
        channels=tuple(images),
        source=replace(first.source, warnings=tuple(dict.fromkeys((*told, *missing)))),
        steps=(f"joined {', '.join(there)} on the grid of {first_name}",),
    )


def _on_grid(name: str, image: Image, first: Image) -> Floats:
    """One input's values on the first one's grid; NaN beyond its field of view."""
    from scipy import ndimage

    array = np.asarray(image.channels_first()[0], dtype=np.float32)
    grid, target = image.geometry, first.geometry
    if image is first or (grid.shape == target.shape and not (grid.has_size and target.has_size)):
        return array
    if not (grid.has_size and target.has_size):
        raise DataError(
            f"the input {name} has another grid than the first and nothing says how they lie",
            got=grid.shape,
            expected=target.shape,
        )
    if grid.same_grid(target):
        return array
    way = np.linalg.inv(np.asarray(grid.affine_lps_mm)) @ np.asarray(target.affine_lps_mm)
    n = grid.ndim
    finite = np.isfinite(array)
    filled = array if finite.all() else np.where(finite, array, 0)
    within = np.empty(target.shape, np.float32)
    ndimage.affine_transform(
        filled, way[:n, :n], way[:n, -1], output=within, output_shape=target.shape, order=1, mode="nearest"
    )
    for axis in range(n):  # beyond the outer voxels' own edges nothing was measured
        steps = (way[axis, a] * np.arange(side) for a, side in enumerate(target.shape))
        index = functools.reduce(np.add.outer, steps) + way[axis, -1]
        within[(index < -0.5 - EDGE) | (index > grid.shape[axis] - 0.5 + EDGE)] = np.nan
    return within


def geometric_steps(image: Image, section: PrepareSection) -> tuple[Step, ...]:
    """The steps from the image's grid to the network's: turn, pad to proportions, resize.

    Raises:
        DataError: A picture where a volume is needed, or the other way round; more voxels than any image has.
    """
    if image.ndim != len(section.shape):
        raise DataError("the image has the wrong number of dimensions", got=image.ndim, expected=len(section.shape))
    steps: list[Step] = []
    grid = image.geometry
    if section.orientation and grid.ndim == 3 and grid.kind == "patient":
        idle = (Permute((0, 1, 2)), Flip(()))
        steps += [step for step in grid.oriented(section.orientation) if step not in idle]
    for step in steps:
        grid = step.apply(grid)
    if section.grid == "native":
        return tuple(steps)
    if section.spacing_mm is not None:
        grid.require_size("resampling to a spacing")
        extents = np.array(grid.shape) * np.array(grid.spacing_mm)
        sides = np.maximum(1, np.rint(extents / np.array(section.spacing_mm)))
        if sides.prod() > MOST_VOXELS:
            raise DataError(
                "the image would be too large at the network's spacing",
                got=f"{' × '.join(f'{mm:.3g}' for mm in extents)} mm",
                expected=f"at most {MOST_VOXELS:.0e} voxels at {' × '.join(f'{mm:g}' for mm in section.spacing_mm)} mm",
                remedy="look at the image's spacing (medmap info), or take a coarser prepare.spacing_mm",
            )
        shape = tuple(int(n) for n in sides)
        return (*steps, Resample(shape)) if shape != grid.shape else tuple(steps)
    if section.keep_proportions:
        spacing = grid.spacing_mm if grid.has_size else (1.0,) * grid.ndim
        wanted = np.array(section.shape) * np.array(section.proportions or (1.0,) * grid.ndim)
        pad = _pad_to_proportions(grid.shape, wanted, spacing)
        if pad is not None:
            steps.append(pad)
            grid = pad.apply(grid)
    if grid.shape != section.shape:
        steps.append(Resample(section.shape))
    return tuple(steps)


def _pad_to_proportions(shape: Sequence[int], target: NDArray[np.float64], spacing: Sequence[float]) -> Pad | None:
    """Voxels to add so that the extent has the target's proportions; None when stretching is within tolerance."""
    extent = np.array(shape) * np.array(spacing)
    wanted = target * (extent / target).max() / np.array(spacing)
    if (np.abs(wanted / np.array(shape) - 1) <= STRETCH_TOLERANCE).all():
        return None
    missing = np.maximum(np.rint(wanted).astype(int) - np.array(shape), 0)
    before = missing // 2
    return Pad(tuple(int(v) for v in before), tuple(int(v) for v in missing - before))


def fit(section: PrepareSection, images: Iterable[Image], limit: int = 2000) -> Recipe:
    """Fit a recipe to training images (at most ``limit`` of them; an even sample is the caller's).

    ``range`` takes the type's full range for 8-bit data, else the robust range (0.5th to 99.5th percentile over all
    images); ``window`` takes the section's limits, else the same percentiles; then mean and deviation per channel.

    Raises:
        DataError: No image, or images without any spread.
    """
    lows, highs, sums, squares, count, eight_bit = [], [], [], [], 0, True
    thumbnails: list[Floats] = []
    odd: DataError | None = None
    for number, image in enumerate(images):
        if number >= limit:
            break
        try:
            array = to_channels(image, section.channels)
        except DataError as error:  # left out here as it will be in the store, where it is named
            odd = error
            continue
        eight_bit &= image.array.dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
        flat = array.reshape(-1, section.channels)
        step = max(1, len(flat) // 4096)
        thumbnails.append(flat[::step])
        lows.append(float(np.percentile(thumbnails[-1], 0.5)))
        highs.append(float(np.percentile(thumbnails[-1], 99.5)))
        count += 1
    if not count:
        raise DataError("a recipe needs at least one training image", got=odd or "none")
    if section.intensity == "window" and section.window:
        low, high = section.window
    elif section.intensity == "range" and eight_bit:
        low, high = 0.0, 255.0
    else:
        low, high = float(np.percentile(lows, 5)), float(np.percentile(highs, 95))
    if not high > low:
        raise DataError("the training images have no spread of values", got=f"{low} to {high}")
    for values in thumbnails:
        scaled = (np.clip(values, low, high) - low) / (high - low)
        sums.append(scaled.mean(0, dtype=np.float64))
        squares.append(np.square(scaled).mean(0, dtype=np.float64))
    mean = np.mean(sums, axis=0)
    std = np.sqrt(np.maximum(np.mean(squares, axis=0) - mean**2, 1e-8))
    return Recipe(section, low, high, tuple(map(float, mean)), tuple(map(float, std)))
