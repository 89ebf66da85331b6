"""Secondary captures: slices of the source as a colour picture with a mask's outlines burned in, for any viewer.

A capture is derived, names its source image, and says that it is annotated; it is no image to measure on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError, UsageError
from medmap.results import Mask
from medmap.write.colours import colour_of
from medmap.write.dicom.series import reference
from medmap.write.dicom.source import About, Laid, Origin, cut_frames, equipment, laid_on, new_uid

SERIES_NUMBER = 500
MOST_SLICES = 200


def captures(mask: Mask, origin: Origin, about: About) -> Sequence[Any]:
    """One RGB picture for each chosen slice, with the outline of every structure in its colour.

    Args:
        mask: On the source's frames.
        origin: The series; its own pixels are shown, as read (``origin.pixels``) or decoded from the files.
        about: ``slices`` counts along the mask's slice axis; empty: for each structure the slice that shows most of
            it, or the middle one when nothing was found. ``window`` is (centre, width).

    Raises:
        GeometryError: The mask does not lie on the source.
        UsageError: A slice that does not exist.
        DataError: Colours, or pixels that cannot be decoded.
    """
    laid = laid_on(mask.geometry, origin)
    if not laid:
        raise GeometryError(
            "the mask does not lie on the source series", got=mask.geometry.shape, expected=f"frames of {origin.size}",
            remedy="give the series that the image was read from",
        )  # fmt: skip
    frames = cut_frames(mask.array, mask.geometry, laid, origin.size)
    layers = _layers(frames, mask)
    chosen = _chosen(layers, laid, about)
    pictures = [_grey(origin, laid[i]) for i in chosen]
    window = about.window or _window(origin, pictures)
    series = new_uid()
    return [
        _capture(_drawn(_windowed(picture, window), layers[i]), origin, laid[i], about, (series, number))
        for number, (i, picture) in enumerate(zip(chosen, pictures, strict=True), 1)
    ]


def _layers(frames: NDArray[Any], mask: Mask) -> NDArray[np.bool_]:
    """(frames, rows, columns, structures)."""
    if mask.array.dtype == np.bool_:
        return frames.astype(bool, copy=False)
    values = sorted(mask.labels)
    return np.stack([frames == value for value in values], axis=-1)


def _chosen(layers: NDArray[np.bool_], laid: Sequence[Laid], about: About) -> list[int]:
    numbers = {one.slice: i for i, one in enumerate(laid)}
    unknown = [s for s in about.slices if s not in numbers]
    if unknown or len(about.slices) > MOST_SLICES:
        raise UsageError(
            "a slice to picture is not among those of the mask", got=unknown[:5] or f"{len(about.slices)} slices",
            expected=f"{min(numbers)} to {max(numbers)}, at most {MOST_SLICES}",
        )  # fmt: skip
    if about.slices:
        return sorted({numbers[s] for s in about.slices})
    areas = layers.sum(axis=(1, 2))
    fullest = {int(areas[:, k].argmax()) for k in range(areas.shape[1]) if areas[:, k].any()}
    return sorted(fullest) or [len(laid) // 2]


def _grey(origin: Origin, one: Laid) -> NDArray[np.float64]:
    """(rows, columns) values of the source under one slice."""
    image = origin.pixels
    if image is not None and len(image.channels) == 1 and image.time_s is None:
        under = [other for other in laid_on(image.geometry, origin) if other.plane == one.plane]
        if under:
            solid = image.array if image.ndim == 3 else image.array[:, :, None]
            return np.asarray(under[0].cut(solid, origin.size), np.float64)
    return _decoded(origin, one)


def _decoded(origin: Origin, one: Laid) -> NDArray[np.float64]:
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    path = origin.paths[one.plane.image]
    header = origin.images[one.plane.image]
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise DataError("an outline is drawn on a grey image", got=header.get("PhotometricInterpretation"))
    try:
        stored = pixel_array(path, index=one.plane.frame, raw=True)
        values = apply_modality_lut(stored, dcmread(path, stop_before_pixels=True))
    except (RuntimeError, ValueError, AttributeError, NotImplementedError) as error:
        raise DataError(
            f"{path} cannot be decoded", got=" ".join(str(error).split())[:200], remedy="give the image that was read"
        ) from error
    grey = np.asarray(values, np.float64)
    return -grey if header.get("PhotometricInterpretation") == "MONOCHROME1" else grey


def _window(origin: Origin, pictures: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """What the source says (its first window), else from the darkest to the brightest but for one in 200."""
    centre, width = origin.first.get("WindowCenter"), origin.first.get("WindowWidth")
    first = [v[0] if hasattr(v, "__len__") and not isinstance(v, str) and len(v) else v for v in (centre, width)]
    if all(v not in (None, "") and not hasattr(v, "__len__") for v in first) and float(first[1]) >= 1:
        return float(first[0]), float(first[1])
    low, high = np.percentile(np.stack(pictures), (0.5, 99.5))
    return float(low + high) / 2, max(float(high - low), 1.0)


def _windowed(picture: NDArray[np.float64], window: tuple[float, float]) -> NDArray[np.uint8]:
    """PS3.3 C.11.2.1.3.2, the linear exact function, to 8 bits."""
    centre, width = window
    return np.asarray(np.clip((picture - centre) / width + 0.5, 0, 1) * 255 + 0.5).astype(np.uint8)


def outline(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a region that touch, by an edge, one that is not of it (or the picture's border).

    Example:
        >>> int(outline(np.ones((4, 5), bool)).sum())
        14
    """
    padded = np.pad(region, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(region & ~inner)


def _drawn(grey: NDArray[np.uint8], layers: NDArray[np.bool_]) -> NDArray[np.uint8]:
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    for k in range(layers.shape[-1]):
        picture[outline(layers[..., k])] = colour_of(k)
    return picture


def _capture(picture: NDArray[np.uint8], origin: Origin, one: Laid, about: About, numbered: tuple[str, int]) -> Any:
    import highdicom as hd

    source = origin.images[one.plane.image]
    said = equipment(about)
    made = hd.sc.SCImage(
        picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=numbered[0],
        series_number=about.series_number or SERIES_NUMBER,
        sop_instance_uid=new_uid(),
        instance_number=numbered[1],
        manufacturer=said["manufacturer"],
        manufacturer_model_name=said["manufacturer_model_name"],
        device_serial_number=said["device_serial_number"],
        software_versions=said["software_versions"],
        patient_id=source.PatientID,
        patient_name=source.PatientName,
        patient_birth_date=source.PatientBirthDate,
        patient_sex=source.PatientSex,
        accession_number=source.AccessionNumber,
        study_id=source.StudyID,
        study_date=source.StudyDate,
        study_time=source.StudyTime,
        referring_physician_name=source.ReferringPhysicianName,
        series_description=(about.title or "Outlines, not for measuring")[:64],
        specific_character_set="ISO_IR 192",
        patient_orientation=("L", "P"),  # replaced below: highdicom takes one letter a direction, and always one
    )
    made.copy_patient_and_study_information(source)
    made.PatientOrientation = _directions(source, one)
    for keyword in ("BodyPartExamined", "Laterality"):
        if source.get(keyword):
            setattr(made, keyword, source.get(keyword))
    if not source.get("BodyPartExamined"):  # a paired organ may be meant (type 2C)
        made.setdefault("Laterality", "")
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.BurnedInAnnotation = str(source.get("BurnedInAnnotation") or "NO")
    made.DerivationDescription = "Outlines of structures burned into a windowed copy of the source image"
    made.SourceImageSequence = [reference(source, one.plane)]
    return made


def _directions(source: Any, one: Laid) -> list[str]:
    """Letters of the directions of a row and of a column (PS3.3 C.7.6.1.1.1); none when not known."""
    if one.plane.affine_lps_mm is None:
        stated = source.get("PatientOrientation")
        return [str(v) for v in stated] if stated is not None and len(stated) == 2 else []
    down, along = (one.plane.affine_lps_mm[:3, :2] / np.linalg.norm(one.plane.affine_lps_mm[:3, :2], axis=0)).T
    return [_letters(along), _letters(down)]


def _letters(direction: NDArray[np.float64]) -> str:
    order = sorted(range(3), key=lambda a: -abs(direction[a]))
    return "".join("RAF"[a] if direction[a] < 0 else "LPH"[a] for a in order if abs(direction[a]) > 0.2)
