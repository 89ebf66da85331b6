"""What a dataset looks like: sizes, spacing, intensities, classes, read from a sample of its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medmap.dataset import Dataset
from medmap.errors import DataError
from medmap.feed import case_image
from medmap.image import Image

SAMPLE = 200


@dataclass(frozen=True)
class Fingerprint:
    """The facts that a plan's rules go by.

    Args:
        cases, patients: Counts over all splits; ``training`` those a network may learn from.
        dimensions: 2 or 3.
        shape: Median voxels along each axis, of volumes in a patient's space after they were turned to LPS.
        same_shape: Whether all sampled images have that shape.
        spacing_mm: Median distance between voxels, or None without a size.
        channels: Channels (frames of a cine count).
        eight_bit: Whether all sampled images hold 8-bit values.
        quantity, modality: What the numbers are, and what made them.
        patient_space: Whether the images know where they lie in a patient.
        classes: Cases of each class (or positives of each label).
        inputs: Names of the inputs; several are the channels.
        sampled: Images read.
    """

    cases: int
    patients: int
    training: int
    dimensions: int
    shape: tuple[int, ...]
    same_shape: bool
    spacing_mm: tuple[float, ...] | None
    channels: int
    eight_bit: bool
    quantity: str
    modality: str | None
    patient_space: bool
    classes: dict[str, int]
    sampled: int
    inputs: tuple[str, ...] = ("image",)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return asdict(self)


def sample_images(dataset: Dataset, count: int = SAMPLE) -> Iterator[Image]:
    """About ``count`` readable images, evenly spread over the cases; several inputs are the channels of one."""
    cases = [case for case in dataset if any(case.inputs.get(name) is not None for name in dataset.inputs)]
    for at in np.unique(np.linspace(0, len(cases) - 1, min(count, len(cases))).astype(int)) if cases else ():
        try:
            image = case_image(dataset, cases[int(at)])
        except DataError:
            continue  # `check` names it; the store lists it as failed
        yield image


def fingerprint(dataset: Dataset) -> Fingerprint:
    """Read a sample of the images and count everything else.

    Raises:
        DataError: No sampled image can be read, or pictures and volumes are mixed.
    """
    shapes: list[tuple[int, ...]] = []
    spacings: list[tuple[float, ...]] = []
    channels: Counter[int] = Counter()
    quantities: Counter[str] = Counter()
    modalities: Counter[str] = Counter()
    eight_bit, patient = True, False
    for image in sample_images(dataset):
        grid = image.geometry
        if grid.ndim == 3 and grid.kind == "patient":  # as preparation turns them
            for step in grid.oriented("LPS"):
                grid = step.apply(grid)
        shapes.append(grid.shape)
        if grid.has_size:
            spacings.append(grid.spacing_mm)
        patient |= grid.kind == "patient"
        channels[image.channels_first().shape[0]] += 1
        quantities[image.quantity] += 1
        eight_bit &= image.array.dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
        if image.source.modality:
            modalities[image.source.modality] += 1
    if not shapes:
        raise DataError(f"no image of {dataset.name} can be read", remedy="run `medmap check` to see why")
    if len({len(s) for s in shapes}) > 1:
        raise DataError(
            "pictures and volumes are mixed", got=sorted({len(s) for s in shapes}), expected="one of the two"
        )
    stated = next(iter(dataset.inputs.values())).modality
    median = tuple(int(v) for v in np.median(np.array(shapes), axis=0))
    spacing = tuple(float(v) for v in np.median(np.array(spacings), axis=0)) if len(spacings) == len(shapes) else None
    return Fingerprint(
        cases=len(dataset),
        patients=len({c.patient for c in dataset}),
        training=sum(c.split != "test" and c.truth.annotated for c in dataset),
        dimensions=len(median),
        shape=median,
        same_shape=len(set(shapes)) == 1,
        spacing_mm=spacing,
        channels=channels.most_common(1)[0][0],
        eight_bit=eight_bit,
        quantity=quantities.most_common(1)[0][0],
        modality=stated or (modalities.most_common(1)[0][0] if modalities else None),
        patient_space=patient,
        classes=_classes(dataset),
        sampled=len(shapes),
        inputs=tuple(dataset.inputs),
    )


def _classes(dataset: Dataset) -> dict[str, int]:
    counts = dict.fromkeys(dataset.label_names, 0)
    for case in dataset:
        if case.truth.label is not None:
            counts[dataset.labels[case.truth.label].name] += 1
        elif case.truth.values is not None and dataset.kind == "multilabel":
            for label, value in zip(dataset.labels, case.truth.values, strict=True):
                counts[label.name] += value == 1
    return counts
