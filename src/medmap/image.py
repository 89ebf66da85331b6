"""An image: read-only voxels that know where they are, what they measure and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medmap.errors import GeometryError, ReadError
from medmap.geometry import Crop, Geometry, Step

Quantity = Literal["HU", "SUVbw", "activity", "arbitrary", "colour", "label", "probability", "unknown"]
QUANTITIES: tuple[str, ...] = get_args(Quantity)
_MASK_REMEDY = "`medmap check` shows both headers; `--fix geometry` mends what is a copied header"


@dataclass(frozen=True)
class Source:
    """Where an image came from: enough to find it again and to say how its numbers were made.

    Args:
        path: The file, or the series folder; ``path#member`` for a part of a file.
        format: The format's short name: png, nifti, dicom …
        sha256: Hash of the file's bytes, when it was asked for.
        transfer_syntax: DICOM transfer syntax UID.
        rescale: (slope, intercept) already applied to the stored values.
        photometric: DICOM photometric interpretation, or the colour model of the file.
        bits_stored: Significant bits of the stored values.
        modality: DICOM modality (CT, MR, US …), when stated.
        windows: (centre, width, explanation) in which the maker would show the values; never applied.
        warnings: What was odd on the way in, in sentences.
    """

    path: str = ""
    format: str = ""
    sha256: str | None = None
    transfer_syntax: str | None = None
    rescale: tuple[float, float] | None = None
    photometric: str | None = None
    bits_stored: int | None = None
    modality: str | None = None
    windows: tuple[tuple[float, float, str], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Image:
    """A medical image.

    Args:
        array: Read-only after construction. Spatial axes first, in the order of the affine's columns; then time,
            when ``time_s`` is given; then channels, when ``channels`` names more than one.
        geometry: Where the voxels are.
        quantity: What the numbers are: HU, SUVbw, activity (Bq/ml), arbitrary, colour, label, probability or unknown.
        channels: Names of the channels; one name (the default) means there is no channel axis.
        time_s: Times of the frames of a cine or dynamic series, in seconds.
        source: Where it came from.
        steps: What was done since it was read.
        valid: Of the geometry's shape: False where the file says that nothing was measured (padding); None: all was.

    Raises:
        GeometryError: Array and geometry contradict each other.

    Example:
        >>> image = Image(np.zeros((4, 5), np.uint8), Geometry.without_size((4, 5)))
        >>> image.array.flags.writeable, image.channels
        (False, ('image',))
    """

    array: NDArray[Any]
    geometry: Geometry
    quantity: Quantity = "unknown"
    channels: tuple[str, ...] = ("image",)
    time_s: tuple[float, ...] | None = None
    source: Source = Source()
    steps: tuple[str, ...] = ()
    valid: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.dtype.kind not in "buif":
            raise ReadError("an image holds real numbers", got=f"dtype {array.dtype}")
        if self.quantity not in QUANTITIES:
            raise ReadError("unknown quantity", got=repr(self.quantity), expected=", ".join(QUANTITIES))
        expected = (*self.geometry.shape, *self._trailing())
        if array.shape != expected:
            raise GeometryError("the array does not fit its geometry", got=array.shape, expected=expected)
        if array.flags.writeable:
            array = array.view()
            array.setflags(write=False)
        object.__setattr__(self, "array", array)
        if self.valid is not None:
            valid = np.asarray(self.valid)
            if valid.dtype != np.bool_ or valid.shape != self.geometry.shape:
                raise GeometryError("the mask of what was measured does not fit", got=(valid.dtype, valid.shape),
                                    expected=("bool", self.geometry.shape))  # fmt: skip
            if valid.flags.writeable:
                valid = valid.view()
                valid.setflags(write=False)
            object.__setattr__(self, "valid", valid)

    def _trailing(self) -> tuple[int, ...]:
        if not self.channels:
            raise GeometryError("an image has at least one channel", got="none")
        time = () if self.time_s is None else (len(self.time_s),)
        return time + ((len(self.channels),) if len(self.channels) > 1 else ())

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between voxel centres along each index axis, in mm; refused for an image without a size."""
        return self.geometry.spacing_mm

    @property
    def ndim(self) -> int:
        """Number of spatial axes: 2 or 3."""
        return self.geometry.ndim

    def channels_first(self) -> NDArray[Any]:
        """The array as (channels, spatial …) (time counts as channels), a view where possible."""
        n = self.ndim
        flat = self.array.reshape((*self.geometry.shape, -1))
        return np.moveaxis(flat, n, 0)

    def content_sha256(self) -> str:
        """Hash of shape, type and voxel values: equal for equal images whatever file they came from."""
        dtype = self.array.dtype.newbyteorder("<")  # a big-endian file holds the same image
        digest = hashlib.sha256(f"{self.array.shape} {dtype.str}".encode())
        digest.update(np.ascontiguousarray(self.array, dtype=dtype).tobytes())
        return digest.hexdigest()

    def with_array(self, array: NDArray[Any], step: str, **changes: Any) -> Image:
        """The same image with other voxels; ``step`` says in a few words what was done.

        ``valid`` is kept where the grid is.
        """
        geometry = changes.get("geometry", self.geometry)
        if self.valid is not None and geometry.shape != self.geometry.shape:
            changes.setdefault("valid", None)
        return replace(self, array=array, steps=(*self.steps, step), **changes)

    def moved(self, *steps: Step, fill: float = 0, order: int = 1) -> Image:
        """The image after geometric steps; exact steps change no value, a resampling interpolates by ``order``."""
        array, geometry, valid = self.array, self.geometry, self.valid
        for step in steps:
            after = step.apply(geometry)  # first: it refuses a step that does not fit
            array = step.on_array(array, geometry, fill=fill, order=order)
            if valid is not None:
                valid = step.on_array(valid.astype(np.uint8), geometry, fill=0, order=0).astype(np.bool_)
            geometry = after
        names = tuple(type(s).__name__.lower() for s in steps)
        return replace(self, array=array, geometry=geometry, valid=valid, steps=(*self.steps, *names))

    def match(self, target: Geometry, *, fill: float = 0) -> Image:
        """The image on ``target``'s grid by exact steps only; what differs by more is refused."""
        return self.moved(*self.geometry.match(target), fill=fill)

    def laid_on(self, grid: Geometry) -> Image:
        """A label map on the grid of the image it was drawn on, by exact steps only and without losing a mark.

        Turned, flipped, cropped to the structure or larger than the image it is laid where its header says.

        Args:
            grid: The image's grid.

        Raises:
            GeometryError: The grids differ by more; the mask has as many voxels as the image and lies whole voxels
                away, as after a lost origin; or it marks what lies outside the image.
        """
        if self.geometry.same_grid(grid):
            return self
        try:
            steps = self.geometry.match(grid)
        except GeometryError as error:
            raise self._elsewhere(grid) from error
        if self.geometry.shape == grid.shape and any(isinstance(step, Crop) for step in steps):
            raise self._elsewhere(grid)
        laid = self.moved(*steps)
        marked, left = int(np.count_nonzero(self.array)), int(np.count_nonzero(laid.array))
        if left < marked:
            raise GeometryError(
                "the mask marks voxels outside its image",
                got=f"{marked - left} of {marked} marked voxels outside",
                expected="a mask drawn on this image",
                remedy=_MASK_REMEDY,
            )
        return laid

    def _elsewhere(self, grid: Geometry) -> GeometryError:
        return GeometryError(
            "the mask is on another grid than its image",
            got=self.geometry.in_words,
            expected=grid.in_words,
            remedy=_MASK_REMEDY,
        )

    def oriented(self, letters: str = "LPS") -> Image:
        """The image with axes growing towards ``letters``; no value changes."""
        return self.moved(*self.geometry.oriented(letters))

    def select(self, channels: Sequence[str]) -> Image:
        """Some channels, in the order named."""
        missing = [c for c in channels if c not in self.channels]
        if missing or not channels:
            raise ReadError("the image has no such channel", got=missing, expected=self.channels)
        if len(self.channels) == 1:
            return self
        picked = self.array[..., [self.channels.index(c) for c in channels]]
        return replace(self, array=picked[..., 0] if len(channels) == 1 else picked, channels=tuple(channels))
