"""What one look at every image leaves behind: a few numbers, two hashes and a thumbnail of a kilobyte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.check.duplicates import equal_groups, groups_of, near_pairs
from medmap.dataset import Case, Dataset, Ref
from medmap.errors import DataError
from medmap.image import Image

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

SIDE = 32  # rows and columns of a thumbnail
RING = 2  # width of the border in thumbnail pixels
FEW_VALUES = 8  # a mask or a binary picture has no more different values than this
CORNER = 6  # a corner patch is this part of the side: where text is burned in


@dataclass(frozen=True, slots=True, eq=False)
class ImageFacts:
    """What is known of one image after one look.

    Args:
        case, input: Whose image it is.
        shape: Spatial shape.
        channels: Number of channels.
        dtype, bits: Type of the values as read; significant bits, when stated.
        photometric, modality, format, transfer_syntax: As the file states.
        orientation: Letters of the index axes, or None without a size.
        spacing_mm: To four digits, or None without a size.
        minimum, maximum, sd: Of the finite values.
        at_minimum, at_maximum, at_corner: Share of values equal to the least, the greatest, the first.
        not_finite: Share of values that are NaN or infinite.
        few_values: Whether there are at most eight different values (a mask-like picture).
        sha256: Hash of the pixels.
        thumbnail: (32, 32) uint8: channels and depth averaged, stretched to its own range.
        border: (248,) the outermost two of 32 rows and columns, then standard deviation and range of each corner
            at full resolution; in the image's own unit, so that nothing of its inside shows through.
        warnings: What the reader found odd.
    """

    case: str
    input: str
    shape: tuple[int, ...]
    channels: int
    dtype: str
    bits: int | None
    photometric: str | None
    modality: str | None
    format: str
    transfer_syntax: str | None
    orientation: str | None
    spacing_mm: tuple[float, ...] | None
    minimum: float
    maximum: float
    sd: float
    at_minimum: float
    at_maximum: float
    at_corner: float
    not_finite: float
    few_values: bool
    sha256: str
    thumbnail: NDArray[np.uint8]
    border: NDArray[np.float32]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image that could not be read, and the reader's sentence."""

    case: str
    input: str
    absent: bool
    sentence: str


@dataclass(frozen=True, eq=False)
class Facts:
    """All that the checks may look at.

    Args:
        dataset: The dataset.
        images: In the order of cases and inputs.
        unreadable: Images that could not be read.
    """

    dataset: Dataset
    images: tuple[ImageFacts, ...]
    unreadable: tuple[Unreadable, ...]

    @cached_property
    def by_input(self) -> Mapping[str, list[ImageFacts]]:
        """Images of each input."""
        found: dict[str, list[ImageFacts]] = {name: [] for name in self.dataset.inputs}
        for image in self.images:
            found[image.input].append(image)
        return found

    def case(self, image: ImageFacts) -> Case:
        """The case of an image."""
        return self.dataset[image.case]

    @cached_property
    def exact_groups(self) -> list[list[Case]]:
        """Cases with an equal image (of the same input), each set of cases once; blank images are left out."""
        groups: dict[tuple[str, ...], list[Case]] = {}
        for images in self.by_input.values():
            real = [image for image in images if image.minimum < image.maximum]
            for positions in equal_groups([image.sha256 for image in real]):
                cases = [self.case(real[p]) for p in positions]
                groups.setdefault(tuple(case.id for case in cases), cases)
        return list(groups.values())

    @cached_property
    def near_groups(self) -> list[list[Case]]:
        """Cases whose images look the same and are not equal to the bit; one case stands for its exact copies."""
        groups: dict[tuple[str, ...], list[Case]] = {}
        for images in self.by_input.values():
            first = {image.sha256: image for image in reversed(images)}
            single = [
                image
                for image in images
                if first[image.sha256] is image and image.thumbnail.any() and not image.few_values
            ]
            if len(single) < 2:
                continue
            pairs = near_pairs(np.stack([image.thumbnail for image in single]))
            for positions in groups_of(len(single), pairs):
                cases = [self.case(single[p]) for p in positions]
                groups.setdefault(tuple(case.id for case in cases), cases)
        return list(groups.values())


# -- one image --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _area_weights(n: int) -> NDArray[np.float32]:
    """(32, n): how much of each of n pixels falls into each of 32 equal parts of the side; rows sum to 1."""
    edges = np.linspace(0, n, SIDE + 1)
    left, right = np.arange(n), np.arange(n) + 1
    overlap = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    weights: NDArray[np.float32] = (np.maximum(overlap, 0) * SIDE / n).astype(np.float32)
    return weights


def flat_picture(image: Image) -> NDArray[np.float32]:
    """(rows, columns): channels and frames averaged, a volume averaged along its last axis; what is not finite is 0."""
    planes = image.channels_first()
    picture = planes[0].astype(np.float32) if len(planes) == 1 else planes.mean(axis=0, dtype=np.float32)
    if picture.dtype != np.float32 or image.array.dtype.kind == "f":
        picture = np.nan_to_num(picture, nan=0.0, posinf=0.0, neginf=0.0)
    flat: NDArray[np.float32] = picture.mean(axis=2) if picture.ndim == 3 else picture
    return flat


def shrunk(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """(32, 32): averages over equal areas."""
    rows, columns = picture.shape
    return np.asarray(_area_weights(rows) @ picture @ _area_weights(columns).T, np.float32)


def thumbnail(small: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(32, 32) uint8: a shrunk picture stretched from its least to its greatest value."""
    low, high = float(small.min()), float(small.max())
    if not high > low:
        return np.zeros((SIDE, SIDE), np.uint8)
    return np.asarray(np.rint((small - low) * (255 / (high - low))), np.uint8)


def _ring() -> NDArray[np.bool_]:
    ring = np.ones((SIDE, SIDE), bool)
    ring[RING:-RING, RING:-RING] = False
    return ring


_BORDER = _ring()


def border_of(picture: NDArray[np.float32], small: NDArray[np.float32]) -> NDArray[np.float32]:
    """(248,) what stands at the border and in the corners, where text and markers are burned in."""
    r, c = max(1, picture.shape[0] // CORNER), max(1, picture.shape[1] // CORNER)
    patches = (picture[:r, :c], picture[:r, -c:], picture[-r:, :c], picture[-r:, -c:])
    corners = [float(number) for patch in patches for number in (patch.std(), patch.max() - patch.min())]
    return np.concatenate([small[_BORDER], np.array(corners, np.float32)])


def facts_of(case: str, name: str, image: Image) -> ImageFacts:
    """The facts of one image: a pure function."""
    array = image.array
    values = array.reshape(-1)
    finite_share = 1.0
    if array.dtype.kind == "f":
        finite = np.isfinite(values)
        finite_share = float(finite.mean())
        values = values[finite] if finite_share < 1 else values
    if not values.size:
        values = np.zeros(1, array.dtype)
    least, greatest = values.min(), values.max()
    picture = flat_picture(image)
    small = shrunk(picture)
    sized = image.geometry.has_size
    source = image.source
    return ImageFacts(
        case=case,
        input=name,
        shape=image.geometry.shape,
        channels=len(image.channels),
        dtype=str(array.dtype),
        bits=source.bits_stored,
        photometric=source.photometric,
        modality=source.modality,
        format=source.format,
        transfer_syntax=source.transfer_syntax,
        orientation=image.geometry.orientation if sized else None,
        spacing_mm=tuple(float(f"{s:.4g}") for s in image.spacing_mm) if sized else None,
        minimum=float(least),
        maximum=float(greatest),
        sd=float(values.std(dtype=np.float64)),
        at_minimum=float(np.count_nonzero(values == least) / values.size),
        at_maximum=float(np.count_nonzero(values == greatest) / values.size),
        at_corner=float(np.count_nonzero(values == values[0]) / values.size),
        not_finite=1 - finite_share,
        few_values=_few_values(values),
        sha256=image.content_sha256(),
        thumbnail=thumbnail(small),
        border=border_of(picture, small),
        warnings=source.warnings,
    )


def _few_values(values: NDArray[Any]) -> bool:
    """Whether there are at most eight different values; a sample settles it for almost every image."""
    if len(np.unique(values[:: max(1, values.size // 64)])) > FEW_VALUES:
        return False
    return len(np.unique(values)) <= FEW_VALUES


# -- all images -------------------------------------------------------------------------------------------------------


def references(dataset: Dataset) -> Iterator[tuple[Case, str, Ref]]:
    """(case, input, reference) of every image that was acquired."""
    for case in dataset:
        for name in dataset.inputs:
            ref = case.inputs.get(name)
            if ref is not None:
                yield case, name, ref


def collect(dataset: Dataset, progress: Progress | None = None) -> Facts:
    """Look at every image once; memory grows by about three kilobytes an image."""
    from medmap.read import read_ref

    images: list[ImageFacts] = []
    unreadable: list[Unreadable] = []
    total = sum(1 for _ in references(dataset)) if progress else 0
    for done, (case, name, ref) in enumerate(references(dataset), start=1):
        try:
            images.append(facts_of(case.id, name, read_ref(dataset, ref)))
        except DataError as error:
            absent = not dataset.resolve(ref).exists()
            unreadable.append(Unreadable(case.id, name, absent, str(error)))
        if progress:
            progress(done, total)
    return Facts(dataset, tuple(images), tuple(unreadable))
