"""What is wrong with single images, and what differs between images that a network will see side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from medmap.check.duplicates import Own
from medmap.check.facts import Facts, ImageFacts
from medmap.check.issue import Issue, named
from medmap.errors import counted

NEARLY_ALL = 0.995  # share of equal values from which an image shows nothing
FAINT = 0.03  # part of the usual standard deviation below which an image shows nothing
SATURATED = 0.05  # share of values at the top, above what is usual in the dataset
OPPOSITE = -0.6  # correlation with the mean image below which an image is probably inverted
ALIKE = 0.5  # how like each other images must be, in the median, before an opposite means something


def _ids(images: Sequence[ImageFacts]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(image.case for image in images))


def _mask_like(images: Sequence[ImageFacts]) -> bool:
    """Whether the images are masks or binary pictures, as a rule."""
    return 2 * sum(image.few_values for image in images) > len(images)


def missing_file(facts: Facts) -> Iterator[Issue]:
    """A file that the table names and that is not there."""
    lost = [u for u in facts.unreadable if u.absent]
    if lost:
        yield Issue(
            "missing_file",
            "error",
            f"{counted(len(lost), 'file')} named by the table {'is' if len(lost) == 1 else 'are'} not there: "
            f"{named([u.case for u in lost])}",
            "These cases cannot be used; if they are missing for a reason, the rest is a biased sample.",
            "Restore the files, correct the paths, or remove the rows.",
            tuple(dict.fromkeys(u.case for u in lost)),
            {"reasons": {u.case: u.sentence for u in lost[:100]}},
        )


def unreadable_file(facts: Facts) -> Iterator[Issue]:
    """A file that is there and cannot be read."""
    broken = [u for u in facts.unreadable if not u.absent]
    if broken:
        yield Issue(
            "unreadable_file",
            "error",
            f"{counted(len(broken), 'image')} cannot be read: {named([u.case for u in broken])}. "
            f"The first: {broken[0].sentence}",
            "These cases cannot be used, and a run stops at the first of them.",
            "Copy the files again from their source and compare sizes or checksums; remove what stays broken.",
            tuple(dict.fromkeys(u.case for u in broken)),
            {"reasons": {u.case: u.sentence for u in broken[:100]}},
        )


def reader_warning(facts: Facts) -> Iterator[Issue]:
    """What the reader found odd."""
    by_sentence: dict[str, list[str]] = defaultdict(list)
    for image in facts.images:
        for sentence in image.warnings:
            by_sentence[sentence].append(image.case)
    for sentence, cases in by_sentence.items():
        yield Issue(
            "reader_warning",
            "info",
            f"{counted(len(cases), 'image')}: {sentence}",
            "The image was read; whether it was read as it was meant, a person should see.",
            "Look at one of these images with medmap info.",
            tuple(dict.fromkeys(cases)),
        )


def not_finite(facts: Facts) -> Iterator[Issue]:
    """Values that are NaN or infinite."""
    found = [image for image in facts.images if image.not_finite > 0]
    if found:
        yield Issue(
            "not_finite_values",
            "error",
            f"{counted(len(found), 'image')} {'holds' if len(found) == 1 else 'hold'} values that are NaN or "
            f"infinite: {named(_ids(found))}",
            "A single NaN makes every weight of the network NaN within one step.",
            "Find out where they come from (a division, a missing slice) and write the images again.",
            _ids(found),
            {"share": {image.case: round(image.not_finite, 6) for image in found[:100]}},
        )


def constant_image(facts: Facts) -> Iterator[Issue]:
    """All values equal."""
    found = [image for image in facts.images if image.minimum == image.maximum]
    if found:
        values = Counter(image.minimum for image in found)
        yield Issue(
            "constant_image",
            "error",
            f"{counted(len(found), 'image')} {'is' if len(found) == 1 else 'are'} blank, every value the same "
            f"({', '.join(f'{v:g}' for v, _ in values.most_common(3))}): {named(_ids(found))}",
            "The network sees nothing and learns the label of a blank screen; in a test set it is a coin toss.",
            "Remove these cases, or export them again.",
            _ids(found),
        )


def nearly_blank_image(facts: Facts) -> Iterator[Issue]:
    """Next to nothing to see."""
    found: list[ImageFacts] = []
    for images in facts.by_input.values():
        shown = [image for image in images if image.minimum < image.maximum]
        if not shown:
            continue
        mask_like = _mask_like(shown)
        usual = float(np.median([image.sd for image in shown]))
        found += [
            image
            for image in shown
            if image.sd < FAINT * usual
            or (max(image.at_minimum, image.at_maximum, image.at_corner) >= NEARLY_ALL and not mask_like)
        ]
    if found:
        yield Issue(
            "nearly_blank_image",
            "warning",
            f"{counted(len(found), 'image')} {'shows' if len(found) == 1 else 'show'} next to nothing: "
            f"{named(_ids(found))}",
            "They teach noise, and a metric counts them as if they had been seen.",
            "Look at them; remove what shows nothing.",
            _ids(found),
        )


def saturated_image(facts: Facts) -> Iterator[Issue]:
    """Far more values at the top of the range than is usual here."""
    found: list[ImageFacts] = []
    for images in facts.by_input.values():
        shown = [image for image in images if image.minimum < image.maximum]
        if len(shown) < 3 or _mask_like(shown):
            continue
        usual = float(np.median([image.at_maximum for image in shown]))
        found += [image for image in shown if image.at_maximum > SATURATED + 2 * usual]
    if found:
        worst = max(found, key=lambda image: image.at_maximum)
        yield Issue(
            "saturated_image",
            "warning",
            f"{counted(len(found), 'image')} {'is' if len(found) == 1 else 'are'} overexposed or cut off at the top: "
            f"{named(_ids(found))}; in {worst.case} {worst.at_maximum:.0%} of the values are the greatest",
            "What was cut off cannot be learned from, and the cut may go along with a device or a class.",
            "Export them again with a wider window, or without one.",
            _ids(found),
            {"share_at_maximum": {image.case: round(image.at_maximum, 4) for image in found[:100]}},
        )


def _likeness(facts: Facts) -> list[tuple[ImageFacts, float]]:
    """How each image correlates with the mean image of its input; empty where images are not alike anyway."""
    result: list[tuple[ImageFacts, float]] = []
    for images in facts.by_input.values():
        shown = [image for image in images if image.thumbnail.any() and not image.few_values]
        if len(shown) < 20:
            continue
        thumbnails = np.stack([image.thumbnail for image in shown])
        mean = Own.of(thumbnails).mean
        flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
        flat -= flat.mean(axis=1, keepdims=True)
        centred = mean - mean.mean()
        likeness = flat @ centred / np.maximum(np.linalg.norm(flat, axis=1) * np.linalg.norm(centred), 1e-6)
        if float(np.median(likeness)) >= ALIKE:
            result += list(zip(shown, likeness.tolist(), strict=True))
    return result


def inverted_image(facts: Facts) -> Iterator[Issue]:
    """A negative among positives, by its looks."""
    found = [image for image, likeness in _likeness(facts) if likeness <= OPPOSITE]
    if found:
        yield Issue(
            "inverted_image",
            "warning",
            f"{counted(len(found), 'image')} {'looks' if len(found) == 1 else 'look'} like a negative of the others: "
            f"{named(_ids(found))}",
            "Black and white mean the opposite there: such images teach the wrong thing or count as wrong.",
            "Look at them; invert them when they come from a MONOCHROME1 export.",
            _ids(found),
        )


# -- what differs between images --------------------------------------------------------------------------------------


def _mixed(
    facts: Facts, key: Callable[[ImageFacts], Hashable], say: Callable[[Any], str]
) -> Iterator[tuple[str, Counter[Hashable], tuple[str, ...], str]]:
    """For each input with more than one value: its name, the counts, the cases of all but the commonest, words."""
    for name, images in facts.by_input.items():
        counts: Counter[Hashable] = Counter(key(image) for image in images)
        counts.pop(None, None)
        if len(counts) < 2:
            continue
        (common, _), *_ = counts.most_common(1)
        odd = [image for image in images if key(image) not in (common, None)]
        parts = [f"{say(value)} ({count:,})" for value, count in counts.most_common(4)]
        more = f" and {len(counts) - 4} more" if len(counts) > 4 else ""
        yield name, counts, _ids(odd), ", ".join(parts) + more


def _by_size(values: Any) -> str:
    return " × ".join(str(v) for v in values)


def _input(facts: Facts, name: str) -> str:
    return f" of the input {name}" if len(facts.dataset.inputs) > 1 else ""


def _mixed_issue(
    facts: Facts, key: Callable[[ImageFacts], Hashable], say: Callable[[Any], str], row: tuple[Any, ...]
) -> Iterator[Issue]:
    code, severity, noun, effect, remedy = row
    for name, counts, odd, words in _mixed(facts, key, say):
        details = {"input": name, "counts": {say(value): count for value, count in counts.most_common(50)}}
        yield Issue(
            code, severity, f"The images{_input(facts, name)} have {noun}: {words}", effect, remedy, odd, details
        )


def mixed_dimensions(facts: Facts) -> Iterator[Issue]:
    """Pictures and volumes side by side."""
    row = (
        "mixed_dimensions", "error", "two and three dimensions side by side",
        "One network cannot learn from both.", "Make two datasets of it.",
    )  # fmt: skip
    yield from _mixed_issue(facts, lambda i: len(i.shape), lambda n: f"{n}-D", row)


def mixed_sizes(facts: Facts) -> Iterator[Issue]:
    """Different numbers of pixels."""
    if facts.dataset.task == "classify":
        effect = "They are brought to one size; what is shrunk or enlarged more looks different, and a size can give a "
        effect += "class away."
        remedy = "Nothing, if sizes do not go along with classes (shortcut_acquisition says so); else crop alike."
    else:
        effect = (
            "Each keeps its size: the network sees patches of it, and its answer has the image's own grid. Sizes far "
        )
        effect += "apart can come from several protocols."
        remedy = "Nothing, if you know where the sizes come from."
    row = ("mixed_sizes", "info", "different sizes", effect, remedy)
    yield from _mixed_issue(facts, lambda i: i.shape, _by_size, row)


def mixed_channels(facts: Facts) -> Iterator[Issue]:
    """Grey and colour side by side."""
    row = (
        "mixed_channels", "warning", "different numbers of channels",
        "Grey and colour pictures look different for a reason that is not medical: device or export.",
        "Convert all to one; a grey picture saved as colour loses nothing when it is made grey again.",
    )  # fmt: skip
    yield from _mixed_issue(facts, lambda i: i.channels, lambda n: counted(n, "channel"), row)


def mixed_bit_depths(facts: Facts) -> Iterator[Issue]:
    """Different types or significant bits."""
    row = (
        "mixed_bit_depths", "warning", "different bit depths",
        "The same tissue has different numbers: 200 is bright in 8 bits and black in 12.",
        "Export all with the same depth; prepare.intensity=zscore takes each image by itself when you cannot.",
    )  # fmt: skip
    key = lambda i: (i.dtype, i.bits)  # noqa: E731  (named for the line's length)
    yield from _mixed_issue(facts, key, lambda k: k[0] + (f" with {k[1]} bits" if k[1] else ""), row)


def mixed_polarity(facts: Facts) -> Iterator[Issue]:
    """MONOCHROME1 among MONOCHROME2."""
    row = (
        "mixed_polarity", "warning", "different polarity",
        "In MONOCHROME1 the least value is white: unless both are turned the same way, bone is black in some images.",
        "Compare one of each kind with medmap info; invert the MONOCHROME1 images where they were not yet.",
    )  # fmt: skip

    def key(image: ImageFacts) -> str | None:
        stated = image.photometric
        return stated if stated in ("MONOCHROME1", "MONOCHROME2") else None

    yield from _mixed_issue(facts, key, str, row)


def mixed_orientations(facts: Facts) -> Iterator[Issue]:
    """Volumes whose axes run different ways."""
    row = (
        "mixed_orientations", "info", "different orientations",
        "medmap turns volumes by their geometry; a file whose orientation is stated wrongly is turned wrongly.",
        "Look at one image of each orientation, left and right first of all.",
    )  # fmt: skip
    yield from _mixed_issue(facts, lambda i: i.orientation if len(i.shape) == 3 else None, str, row)


def mixed_spacings(facts: Facts) -> Iterator[Issue]:
    """Different voxel sizes, by more than a twentieth; or some images without any."""
    row = (
        "mixed_spacings", "info", "different pixel spacings in mm",
        "The same structure has another size in pixels; images are resampled to one spacing.",
        "Nothing, if spacings do not go along with classes; else prefer cases of like spacing.",
    )  # fmt: skip

    def key(image: ImageFacts) -> Hashable:
        if image.spacing_mm is None:
            return None
        return tuple(float(f"{s:.2g}") for s in image.spacing_mm)

    yield from _mixed_issue(facts, key, _by_size, row)
    for name, images in facts.by_input.items():
        without = [image for image in images if image.spacing_mm is None]
        if 0 < len(without) < len(images):
            yield Issue(
                "mixed_spacings", "warning",
                f"{counted(len(without), 'image')}{_input(facts, name)} of {len(images):,} "
                f"{'has' if len(without) == 1 else 'have'} no pixel spacing: {named(_ids(without))}",
                "They cannot be brought to the spacing of the others: the same structure has another size there.",
                "Export them in a format that states the spacing (DICOM, NIfTI).",
                _ids(without), {"input": name, "without": len(without)},
            )  # fmt: skip


def mixed_modalities(facts: Facts) -> Iterator[Issue]:
    """One input, several modalities."""
    row = (
        "mixed_modalities", "warning", "different modalities",
        "CT, MR and photographs mean different things by a number; a modality can give a class away.",
        "Make one input of each modality, or separate datasets.",
    )  # fmt: skip
    yield from _mixed_issue(facts, lambda i: i.modality, str, row)
