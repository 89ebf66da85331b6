"""What one look at a volume leaves behind beyond what a picture does, and what is wrong with volumes side by side.

Spacings and intensities unlike all others, units that were lost, bodies cut off by the field of view, mirror images,
slices that stand in two cases, and pictures that are noisier, more blurred or more moved than is usual.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.check.issue import Issue, named
from medmap.check.quality import SAMPLE, foreground_threshold
from medmap.check.thumbnails import shrunk
from medmap.errors import counted
from medmap.image import Image

if TYPE_CHECKING:
    from medmap.check.facts import Facts, ImageFacts
    from medmap.dataset import Case

Floats = NDArray[np.float64]

FEWEST = 8  # images of an input from which something counts as unusual
FAR = 5.0  # robust standard deviations from the median
AIR_HU = -800.0
BODY_HU = -500.0
NARROW_MM, WIDE_MM = 20.0, 3000.0  # a patient's field of view lies between
CUT = 0.02  # part of an outer face that the body must cover before it counts as cut off
ASYMMETRIC = 0.3  # median likeness of the antisymmetric parts from which left and right can be told apart
MIRRORED = 3.5  # robust standard deviations below it that a mirror image lies
HASHED_SLICES = 2000  # slices of one volume that are remembered


@dataclass(frozen=True, slots=True, eq=False)
class VolumeFacts:
    """What is known of a volume after one look.

    Args:
        extent_mm: Length of each edge, outer face to outer face; None without a size.
        percentiles: 1st, 50th and 99th percentile of the values inside the object.
        air: Part of the voxels below −800, of a CT in HU; None for others.
        faces: Part of each outer face covered by the object: first and last of each axis.
        sideways: (2, 32, 32) what of the frontal and the axial projection is not mirror-symmetric, of norm 1; None
            where left and right are not known.
        slices: Hashes of the slices along the last axis that are not constant.
    """

    extent_mm: tuple[float, ...] | None
    percentiles: tuple[float, float, float]
    air: float | None
    faces: tuple[float, ...]
    sideways: NDArray[np.float32] | None
    slices: frozenset[bytes]


def volume_facts(image: Image) -> VolumeFacts:
    """The facts of one volume: a pure function."""
    volume = image.channels_first()[0]
    hounsfield = image.quantity == "HU"
    threshold = BODY_HU if hounsfield else foreground_threshold(volume)
    flat = volume.reshape(-1)[:: max(1, volume.size // SAMPLE)]
    flat = flat[np.isfinite(flat)] if flat.dtype.kind == "f" else flat
    inside = flat[flat > threshold]
    values = inside if inside.size else flat
    low, middle, high = np.percentile(values, (1, 50, 99)) if values.size else (0.0, 0.0, 0.0)
    return VolumeFacts(
        extent_mm=_extent(image),
        percentiles=(float(low), float(middle), float(high)),
        air=float((flat < AIR_HU).mean()) if hounsfield and flat.size else None,
        faces=_faces(volume > threshold),
        sideways=_sideways(image),
        slices=_slices(volume),
    )


def _extent(image: Image) -> tuple[float, ...] | None:
    if not image.geometry.has_size:
        return None
    return tuple(n * s for n, s in zip(image.geometry.shape, image.spacing_mm, strict=True))


def _faces(inside: NDArray[np.bool_]) -> tuple[float, ...]:
    ends = (np.take(inside, end, axis=axis) for axis in range(inside.ndim) for end in (0, -1))
    return tuple(float(face.mean()) for face in ends)


def _slices(volume: NDArray[Any]) -> frozenset[bytes]:
    """Hashes of the slices along the last axis; a volume of the same patient cut otherwise shares some of them."""
    step = max(1, volume.shape[2] // HASHED_SLICES)
    found = set()
    for k in range(0, volume.shape[2], step):
        plane = np.ascontiguousarray(volume[:, :, k])
        if plane.size and plane.min() < plane.max():
            found.add(hashlib.blake2b(plane.tobytes(), digest_size=12, person=str(plane.shape).encode()[:16]).digest())
    return frozenset(found)


def _sideways(image: Image) -> NDArray[np.float32] | None:
    """What of the projections is not mirror-symmetric, in the patient's own left and right."""
    if image.geometry.kind != "patient" or min(image.geometry.shape) < 4:
        return None
    volume = image.oriented("LPS").channels_first()[0]
    step = tuple(slice(None, None, max(1, n // 128)) for n in volume.shape)
    small = np.nan_to_num(volume[step].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    small = _body_box(small, small > (BODY_HU if image.quantity == "HU" else foreground_threshold(small)))
    if min(small.shape) < 4:
        return None
    parts = np.stack([shrunk(small.mean(axis=1)), shrunk(small.mean(axis=2))])
    uneven = np.asarray((parts - parts[:, ::-1]) / 2, np.float32)
    length = float(np.linalg.norm(uneven))
    whole = float(np.linalg.norm(parts - parts.mean()))
    if not length > 0.01 * whole:
        return None
    return np.asarray(uneven / length, np.float32)


def _body_box(volume: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The volume cut to the object: nobody lies exactly in the middle, and the mirror must stand in the object's.

    What lies outside the object becomes its mean: half a voxel more of skin on one side would outweigh every organ.
    """
    hull = _filled(inside, 0) & _filled(inside, 1)
    if hull.any():
        volume = np.asarray(np.where(hull, volume, volume[hull].mean()), np.float32)
    cut = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        cover = inside.sum(axis=others)
        at = np.flatnonzero(cover > 0.05 * cover.max()) if cover.max() else np.arange(len(cover))
        cut.append(slice(at[0], at[-1] + 1))
    return volume[tuple(cut)]


def _filled(inside: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Along each line, everything between the first and the last voxel inside: a body with its lungs."""
    backward = np.flip(np.maximum.accumulate(np.flip(inside, axis), axis=axis), axis)
    return np.asarray(np.maximum.accumulate(inside, axis=axis) & backward)


# -- unusual ----------------------------------------------------------------------------------------------------------


def unusual(values: Sequence[float], least_ratio: float = 1.0) -> NDArray[np.bool_]:
    """Which numbers lie far from the others: five robust standard deviations, and a factor, off the median.

    Args:
        values: At least eight, or nothing is unusual.
        least_ratio: How many times larger or smaller than the median a number must be besides (positive numbers).

    Example:
        >>> unusual([1, 1.1, 0.9, 1, 1.05, 0.95, 1, 1, 9], least_ratio=1.5).tolist()[-1]
        True
    """
    array = np.asarray(values, np.float64)
    if len(array) < FEWEST:
        return np.zeros(len(array), bool)
    middle = float(np.median(array))
    spread = float(np.median(np.abs(array - middle))) / 0.6745
    far = np.abs(array - middle) > FAR * max(spread, 1e-9 * max(abs(middle), 1.0))
    if least_ratio > 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.maximum(array / middle, middle / array)
        far &= ~(ratio < least_ratio)
    return far


def _volumes(facts: Facts) -> Iterator[tuple[str, list[tuple[ImageFacts, VolumeFacts]]]]:
    for name, images in facts.by_input.items():
        found = [(image, image.volume) for image in images if image.volume is not None]
        if found:
            yield name, found


def _ids(images: Sequence[ImageFacts]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(image.case for image in images))


def spacing_outlier(facts: Facts) -> Iterator[Issue]:
    """A voxel size that no other image has, by a factor of two."""
    for name, images in facts.by_input.items():
        sized = [image for image in images if image.spacing_mm is not None and len(image.shape) == 3]
        if len(sized) < FEWEST:
            continue
        sorted_mm = np.array([sorted(image.spacing_mm or ()) for image in sized])
        odd = [image for image, off in zip(sized, _off_by(sorted_mm, 2.0), strict=True) if off]
        if odd and len(odd) <= len(sized) // 4:
            usual = " × ".join(f"{v:.3g}" for v in np.median(sorted_mm, axis=0))
            first = " × ".join(f"{v:.3g}" for v in odd[0].spacing_mm or ())
            yield Issue(
                "spacing_outlier",
                "warning",
                f"{counted(len(odd), 'volume')} of the input {name} {'has' if len(odd) == 1 else 'have'} voxels twice "
                f"as large or half as large as the others ({usual} mm): {named(_ids(odd))}; {odd[0].case} has "
                f"{first} mm",
                "Structures are blurred or cut into steps there; a wrong header makes every volume and distance wrong.",
                "Compare with the scanner's protocol; mend the header where it is wrong, leave the scan out where "
                "it is another protocol.",
                _ids(odd),
                {"input": name, "spacing_mm": {image.case: list(image.spacing_mm or ()) for image in odd[:100]}},
            )


def _off_by(rows: Floats, ratio: float) -> NDArray[np.bool_]:
    return np.asarray(np.any([unusual(column.tolist(), ratio) for column in rows.T], axis=0))


def intensity_outlier(facts: Facts) -> Iterator[Issue]:
    """A range of values that no other image has."""
    for name, volumes in _volumes(facts):
        numbers = np.array([volume.percentiles for _, volume in volumes])
        wide = np.maximum(numbers[:, 2] - numbers[:, 0], 1e-12)
        typical = float(np.median(wide))
        shift = np.abs(numbers[:, 1] - np.median(numbers[:, 1])) / typical
        odd = [
            volume[0]
            for volume, a, b, s in zip(
                volumes, unusual(wide.tolist(), 2.0), unusual(numbers[:, 1].tolist()), shift, strict=True
            )
            if a or (b and s > 0.5)
        ]
        if odd and len(odd) <= len(volumes) // 4:
            at = {image.case: [round(v, 4) for v in volume.percentiles] for image, volume in volumes if image in odd}
            first = at[odd[0].case]
            usual = np.median(numbers, axis=0)
            yield Issue(
                "intensity_outlier",
                "warning",
                f"{counted(len(odd), 'volume')} of the input {name} {'has' if len(odd) == 1 else 'have'} values in "
                f"another range than the others: {named(_ids(odd))}; 1st, 50th and 99th percentile are {first[0]:.4g}, "
                f"{first[1]:.4g}, {first[2]:.4g} in {odd[0].case}, {usual[0]:.4g}, {usual[1]:.4g}, {usual[2]:.4g} "
                "usually",
                "The same tissue has other numbers there: another unit, a lost rescale, another sequence or contrast.",
                "Look at them; export again with the rescale applied, or leave out what is another kind of image.",
                _ids(odd),
                {"input": name, "percentiles": dict(list(at.items())[:100])},
            )


def unit_error(facts: Facts) -> Iterator[Issue]:
    """Millimetres that cannot be, Hounsfield units without air, CT squeezed into eight bits."""
    yield from _wrong_millimetres(facts)
    for name, volumes in _volumes(facts):
        stated = facts.dataset.inputs[name].modality
        ct = [(i, v) for i, v in volumes if stated == "CT" or i.modality == "CT"]
        for code, says, effect, remedy, holds in _CT_ERRORS:
            odd = [image for image, volume in ct if holds(image, volume)]
            if odd:
                yield Issue(
                    code,
                    "warning",
                    f"{counted(len(odd), 'CT volume')}{f' of the input {name}' if len(facts.by_input) > 1 else ''} "
                    f"{says}: {named(_ids(odd))}; {odd[0].case} runs from {odd[0].minimum:g} to {odd[0].maximum:g}",
                    effect,
                    remedy,
                    _ids(odd),
                    {"input": name, "range": {i.case: [i.minimum, i.maximum] for i in odd[:100]}},
                )


def _eight_bits(image: ImageFacts, _: VolumeFacts) -> bool:
    return image.minimum >= 0 and image.maximum <= 255


def _without_air(image: ImageFacts, volume: VolumeFacts) -> bool:
    return not _eight_bits(image, volume) and image.minimum > -300


_CT_ERRORS: tuple[tuple[str, str, str, str, Callable[[ImageFacts, VolumeFacts], bool]], ...] = (
    (
        "eight_bit_ct", "of 8-bit values instead of Hounsfield units",
        "A window was burned in: bone, lung or both are gone for good, and fixed limits in HU mean nothing.",
        "Export the original series again (DICOM, or NIfTI with the rescale).", _eight_bits,
    ),
    (
        "ct_without_air", "without a value near -1000 HU, where air should be",
        "The rescale intercept was lost (values are about 1024 too high), or the volume was masked or cropped: a fixed "
        "window shows the wrong tissue.",
        "Compare air and water with -1000 and 0; apply the intercept, or export again.", _without_air,
    ),
)  # fmt: skip


def _wrong_millimetres(facts: Facts) -> Iterator[Issue]:
    odd: list[tuple[ImageFacts, float]] = []
    for _, volumes in _volumes(facts):
        for image, volume in volumes:
            longest = max(volume.extent_mm or (100.0,))
            if not NARROW_MM <= longest <= WIDE_MM:
                odd.append((image, longest))
    if odd:
        images = [image for image, _ in odd]
        yield Issue(
            "unlikely_millimetres",
            "warning",
            f"{counted(len(odd), 'volume')} {'has' if len(odd) == 1 else 'have'} a field of view that no patient has: "
            f"{named(_ids(images))}; the longest edge of {odd[0][0].case} is {odd[0][1]:.4g} mm",
            "Volumes in ml, distances in mm and resampling are wrong by the same factor, thousandfold for metres.",
            "Find the unit the file was written in (m, cm, µm; spacing lost and set to 1) and write it again in mm. "
            "Specimens and microscopy may be left as they are.",
            _ids(images),
            {"longest_mm": {image.case: longest for image, longest in odd[:100]}},
        )


def field_of_view_cut_off(facts: Facts) -> Iterator[Issue]:
    """The object runs out of the picture sideways, where it does not in most images."""
    for name, volumes in _volumes(facts):
        inner = [(image, max(_lateral(image, volume))) for image, volume in volumes]
        shares = np.array([share for _, share in inner])
        if len(inner) < FEWEST or np.median(shares) > CUT:
            continue
        odd = [image for image, share in inner if share > max(5 * CUT, 3 * float(np.quantile(shares, 0.75)))]
        if odd and len(odd) <= len(inner) // 4:
            yield Issue(
                "field_of_view_cut_off",
                "warning",
                f"{counted(len(odd), 'volume')} of the input {name} {'is' if len(odd) == 1 else 'are'} cut off by the "
                f"field of view, which the others are not: {named(_ids(odd))}",
                "What lies outside is missing from volumes and shapes; a network sees an edge that is none.",
                "Take a reconstruction with a larger field of view, or tell the report's reader.",
                _ids(odd),
                {"input": name, "share_of_face": {i.case: round(s, 4) for i, s in inner if i in odd}},
            )


def _lateral(image: ImageFacts, volume: VolumeFacts) -> list[float]:
    """Cover of the faces that do not cut across the body: all but those at the patient's head and feet."""
    letters = image.orientation or ""
    axes = [axis for axis in range(3) if len(letters) != 3 or letters[axis] not in "SI"]
    return [share for axis in axes for share in volume.faces[2 * axis : 2 * axis + 2]]


# -- left and right ---------------------------------------------------------------------------------------------------


def left_right_flip(facts: Facts) -> Iterator[Issue]:
    """A volume whose asymmetries are those of the others in a mirror."""
    for name, volumes in _volumes(facts):
        known = [(image, volume.sideways) for image, volume in volumes if volume.sideways is not None]
        if len(known) < FEWEST:
            continue
        vectors = np.stack([sideways.reshape(-1) for _, sideways in known])
        total = vectors.sum(axis=0)
        others = total[None] - vectors
        lengths = np.linalg.norm(others, axis=1)
        likeness = (vectors * others).sum(axis=1) / np.maximum(lengths, 1e-9)
        middle = float(np.median(likeness))
        if middle < ASYMMETRIC or (likeness > 0).mean() < 0.75:
            continue  # the anatomy shown is too even to tell
        spread = float(np.median(np.abs(likeness - middle))) / 0.6745
        limit = min(-0.5 * middle, middle - MIRRORED * spread)
        odd = [(image, float(v)) for (image, _), v in zip(known, likeness, strict=True) if v < limit]
        if odd:
            images = [image for image, _ in odd]
            yield Issue(
                "left_right_flip",
                "warning",
                f"{counted(len(odd), 'volume')} of the input {name} {'looks' if len(odd) == 1 else 'look'} like a "
                f"mirror image of the others: {named(_ids(images))}",
                "Left and right are exchanged: findings are reported on the wrong side, sided structures are learned "
                "wrongly.",
                "Look at an organ whose side you know (liver, heart, a marker) and at the orientation in the header; "
                "mend the header or the array. A patient may have it so: situs inversus is 1 in 10,000.",
                _ids(images),
                {"input": name, "likeness": {i.case: round(v, 3) for i, v in odd}, "usual": round(middle, 3)},
            )


# -- the same patient by content --------------------------------------------------------------------------------------


def slices_across_splits(facts: Facts) -> Iterator[Issue]:
    """Slices equal to the bit in two cases that are not equal as a whole: one scan cut or cropped in two ways."""
    pairs = _shared_slices(facts)
    groups: list[tuple[Case, Case, int]] = []
    for (first, second), count in pairs.items():
        a, b = facts.dataset[first], facts.dataset[second]
        if a.split != b.split and None not in (a.split, b.split):
            groups.append((a, b, count))
    if groups:
        a, b, count = groups[0]
        yield Issue(
            "slices_across_splits",
            "error",
            f"{counted(len(groups), 'pair')} of volumes in different splits {'shares' if len(groups) == 1 else 'share'}"
            f" slices: {a.id} ({a.split}) and {b.id} ({b.split}) have {counted(count, 'slice')} in common, to the bit",
            "They are one scan of one patient: the network is tested on what it has learned by heart.",
            "Give both cases the same patient, and let medmap split by patient.",
            tuple(dict.fromkeys(case.id for a, b, _ in groups for case in (a, b))),
            {"groups": [{"cases": [a.id, b.id], "splits": [a.split, b.split], "slices": n} for a, b, n in groups[:50]]},
        )


def _shared_slices(facts: Facts) -> dict[tuple[str, str], int]:
    """Pairs of cases with equal slices, of volumes that are not equal as a whole; the commonest slices are left out."""
    at: dict[bytes, list[ImageFacts]] = defaultdict(list)
    for _, volumes in _volumes(facts):
        for image, volume in volumes:
            for digest in volume.slices:
                at[digest].append(image)
    shared: dict[tuple[str, str], int] = defaultdict(int)
    for images in at.values():
        cases = sorted({image.case: image.sha256 for image in images}.items())
        if not 1 < len(cases) <= 20:
            continue
        for i, (first, one) in enumerate(cases):
            for second, other in cases[i + 1 :]:
                if one != other:
                    shared[first, second] += 1
    return shared


# -- quality ----------------------------------------------------------------------------------------------------------

# score → code, words, the least value that is ever called bad, effect, remedy
_SCORES: tuple[tuple[str, str, str, float, str, str], ...] = (
    (
        "noise", "noisy_image", "noisier than the others", 0.05,
        "Small and faint structures drown; a network that learns noise calls it texture.",
        "Look at them; take another reconstruction or a longer acquisition where there is one.",
    ),
    (
        "blur", "blurred_image", "more blurred than the others", 0.4,
        "Borders and small lesions are gone; it may go along with a scanner or a class.",
        "Look at them; a thinner or sharper reconstruction may exist.",
    ),
    (
        "ghost", "ghosts_suspected", "repeated in the air along one axis, as motion or wrap-around does", 0.03,
        "Ghosts lie over the anatomy too and look like lesions.",
        "Look at the background with a narrow window; take the repeated scan where there is one.",
    ),
    (
        "motion", "motion_suspected", "uneven from slice to slice, as motion between slices does", 0.9,
        "Surfaces are jagged along the slices; volumes, shapes and registration are off.",
        "Look at a plane across the slices; take the repeated scan where there is one.",
    ),
)  # fmt: skip

# modalities without phase encoding, and so without ghosts along one axis (DICOM PS3.3 C.7.3.1.1.1)
_WITHOUT_PHASES = frozenset({
    "CR", "CT", "DX", "ES", "GM", "IO", "IVUS", "MG", "NM", "OCT", "OP", "OPT", "PT", "PX", "RF", "RG", "SM", "US",
    "XA", "XC",
})  # fmt: skip


def _scored(facts: Facts, images: Sequence[ImageFacts], score: str) -> list[tuple[ImageFacts, float]]:
    """Images that have a score, and may show what it measures."""
    found = [(image, float(v)) for image in images if (v := getattr(image.quality, score)) is not None]
    if score != "ghost":
        return found
    stated = [image.modality or facts.dataset.inputs[image.input].modality for image, _ in found]
    return [pair for pair, modality in zip(found, stated, strict=True) if modality not in _WITHOUT_PHASES]


def poor_quality(facts: Facts) -> Iterator[Issue]:
    """Noise, blur, ghosts and motion far beyond what is usual in the dataset."""
    for name, images in facts.by_input.items():
        for score, code, words, least, effect, remedy in _SCORES:
            scored = _scored(facts, images, score)
            if len(scored) < FEWEST:
                continue
            values = [v for _, v in scored]
            middle = float(np.median(values))
            far = unusual(values, 1.5 if score != "blur" else 1.25)
            odd = [(i, v) for (i, v), off in zip(scored, far, strict=True) if off and v > max(middle, least)]
            if not odd or len(odd) > len(scored) // 4:
                continue
            odd.sort(key=lambda pair: -pair[1])
            found = [image for image, _ in odd]
            yield Issue(
                code,
                "warning",
                f"{counted(len(odd), 'image')} of the input {name} {'is' if len(odd) == 1 else 'are'} {words}: "
                f"{named(_ids(found))}; the {score} score of {found[0].case} is {odd[0][1]:.3g}, {middle:.3g} is usual",
                effect,
                remedy,
                _ids(found),
                {"input": name, "usual": round(middle, 5), "scores": {i.case: round(v, 5) for i, v in odd[:100]}},
            )
