"""What one look at every image leaves behind: a few numbers, two hashes and a thumbnail of a kilobyte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.check.burned import TextLook
from medmap.check.duplicates import equal_groups, groups_of, near_pairs
from medmap.check.masks import MaskFacts, mask_facts
from medmap.check.observers import agreement
from medmap.check.quality import UNSCORED, Quality, quality_of
from medmap.check.thumbnails import border_of, flat_picture, shrunk, thumbnail
from medmap.check.volumes import VolumeFacts, volume_facts
from medmap.dataset import Case, Dataset, Ref
from medmap.errors import DataError
from medmap.image import Image

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

FEW_VALUES = 8  # a mask or a binary picture has no more different values than this


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
        volume: What a volume has beyond a picture.
        quality: Noise, blur, ghosts, motion.
        text_lines: Lines of text in the picture; None where nobody looked.
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
    volume: VolumeFacts | None = None
    quality: Quality = UNSCORED
    text_lines: int | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image or mask that could not be read, and the reader's sentence; ``input`` is ``mask`` for a mask."""

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
        unreadable: Images and masks that could not be read.
        masks: In the order of cases and observers.
        refused: Cases of which boxes were refused while the dataset was opened.
    """

    dataset: Dataset
    images: tuple[ImageFacts, ...]
    unreadable: tuple[Unreadable, ...]
    masks: tuple[MaskFacts, ...] = ()
    refused: frozenset[str] = frozenset()

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


def facts_of(case: str, name: str, image: Image, *, text_lines: int | None = None) -> ImageFacts:
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
        volume=volume_facts(image) if image.ndim == 3 else None,
        quality=quality_of(image),
        text_lines=text_lines,
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
        yield from _inputs(dataset, case)


def collect(dataset: Dataset, progress: Progress | None = None) -> Facts:
    """Look at every image and mask once, a case at a time; memory grows by a few kilobytes an image."""
    images: list[ImageFacts] = []
    unreadable: list[Unreadable] = []
    masks: list[MaskFacts] = []
    pictures = sum(r is not None for c in dataset for r in c.inputs.values())
    total = pictures + sum(len(c.truth.masks) for c in dataset)
    text = TextLook(pictures)
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    for case in dataset:
        first: Image | None = None
        for _, name, ref in _inputs(dataset, case):
            image = _read(dataset, case, name, ref, unreadable)
            if image is not None:
                images.append(facts_of(case.id, name, image, text_lines=text.lines(image)))
                first = image if first is None else first
            told()
        for found in _masks(dataset, case, first, unreadable):
            masks += [] if found is None else [found]
            told()
    return Facts(dataset, tuple(images), tuple(unreadable), tuple(masks))


def _masks(
    dataset: Dataset, case: Case, image: Image | None, unreadable: list[Unreadable]
) -> Iterator[MaskFacts | None]:
    """The facts of each observer's mask of a case whose first image is known; None for one that cannot be read."""
    first: Image | None = None
    for observer, ref in enumerate(case.truth.masks):
        mask = _read(dataset, case, "mask", ref, unreadable)
        if mask is None:
            yield None
            continue
        facts = mask_facts(case.id, observer, str(ref), mask, image)
        if observer == 0:
            first = mask if facts.whole else None
        elif first is not None and facts.whole:
            facts = replace(facts, agreement=agreement(first, mask))
        yield facts


def _inputs(dataset: Dataset, case: Case) -> Iterator[tuple[Case, str, Ref]]:
    for name in dataset.inputs:
        ref = case.inputs.get(name)
        if ref is not None:
            yield case, name, ref


def _read(dataset: Dataset, case: Case, name: str, ref: Ref, unreadable: list[Unreadable]) -> Image | None:
    """The image, or None and one row more of what could not be read."""
    from medmap.read import read_ref

    try:
        return read_ref(dataset, ref)
    except DataError as error:
        unreadable.append(Unreadable(case.id, name, not dataset.resolve(ref).exists(), str(error)))
        return None
