"""The door: one look at every image, then every check of the table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from medmap.check import box_counts, boxes, burned, images, labels, leaks, observers, shortcuts, table, truths, volumes
from medmap.check.facts import Facts, Progress, collect
from medmap.check.issue import Issue, worst_first
from medmap.dataset import Dataset

Check = Callable[[Facts], Iterable[Issue]]

# code → what looks for it. A new check is a function of the facts and a row here.
CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "patient_across_splits": lambda facts: leaks.patient_across_splits(facts.dataset),
        "duplicate_across_splits": leaks.duplicate_across_splits,
        "duplicate_conflicting_labels": leaks.duplicate_conflicting_labels,
        "missing_file": images.missing_file,
        "unreadable_file": images.unreadable_file,
        "not_finite_values": images.not_finite,
        "constant_image": images.constant_image,
        "grid_mismatch": truths.grid_mismatch,
        "label_outside_list": truths.label_outside_list,
        "fractional_mask": truths.fractional_mask,
        "mask_with_channels": truths.mask_with_channels,
        "mirrored_mask": truths.mirrored_mask,
        "sides_exchanged": truths.sides_exchanged,
        "box_axes": boxes.box_axes,
        "box_outside_image": boxes.box_outside_image,
        "box_wrong_unit": boxes.box_wrong_unit,
        "slices_across_splits": volumes.slices_across_splits,
        "mixed_dimensions": images.mixed_dimensions,
        "class_missing_from_split": table.class_missing_from_split,
        "box_classes": box_counts.box_classes,
        "class_without_cases": table.class_without_cases,
        "no_training_cases": table.nothing_to_learn_from,
        "missing_label": table.missing_label,
        "near_duplicate_across_splits": leaks.near_duplicate_across_splits,
        "shortcut_column": shortcuts.shortcut_column,
        "shortcut_acquisition": shortcuts.shortcut_acquisition,
        "shortcut_border": shortcuts.shortcut_border,
        "duplicate_images": leaks.duplicate_images,
        "near_duplicate_images": leaks.near_duplicate_images,
        "likely_label_error": labels.likely_label_error,
        "empty_mask": truths.empty_mask,
        "structure_without_voxels": truths.structure_without_voxels,
        "structure_cut_off": truths.structure_cut_off,
        "duplicate_boxes": boxes.duplicate_boxes,
        "box_sizes": boxes.box_sizes,
        "images_without_boxes": box_counts.images_without_boxes,
        "boxes_per_image": box_counts.boxes_per_image,
        "left_right_flip": volumes.left_right_flip,
        "unit_error": volumes.unit_error,
        "spacing_outlier": volumes.spacing_outlier,
        "intensity_outlier": volumes.intensity_outlier,
        "field_of_view_cut_off": volumes.field_of_view_cut_off,
        "poor_quality": volumes.poor_quality,
        "burned_in_text": burned.burned_in_text,
        "nearly_blank_image": images.nearly_blank_image,
        "saturated_image": images.saturated_image,
        "inverted_image": images.inverted_image,
        "mixed_polarity": images.mixed_polarity,
        "mixed_channels": images.mixed_channels,
        "mixed_bit_depths": images.mixed_bit_depths,
        "mixed_modalities": images.mixed_modalities,
        "mixed_spacings": images.mixed_spacings,
        "mixed_orientations": images.mixed_orientations,
        "mixed_sizes": images.mixed_sizes,
        "too_few_cases": table.too_few_cases,
        "class_imbalance": table.class_imbalance,
        "missing_input": table.missing_input,
        "missing_value": table.missing_value,
        "structure_size_outlier": truths.structure_size_outlier,
        "several_observers": observers.several_observers,
        "reader_warning": images.reader_warning,
        "patients_unknown": leaks.patients_unknown,
    }
)
WHEN_ASKED = frozenset({"likely_label_error"})


def check(
    dataset: Dataset,
    *,
    label_errors: bool = False,
    progress: Progress | None = None,
    refused: Collection[str] = (),
) -> list[Issue]:
    """Everything wrong with a dataset, worst first.

    Every image and mask is read once; a file that cannot be read is an issue and the others are still checked.

    Args:
        dataset: Any dataset.
        label_errors: Also look for labels that are probably wrong (seconds for thousands of cases).
        progress: Called with (images and masks done, of how many).
        refused: Identifiers of cases of which boxes were refused while the dataset was opened (``cases_refused``): one
            that has no other box is not empty.

    Returns:
        Errors, then warnings, then information; an empty list when nothing was found.
    """
    facts = replace(collect(dataset, progress), refused=frozenset(refused))
    return issues_of(facts, label_errors=label_errors)


def issues_of(facts: Facts, *, label_errors: bool = False) -> list[Issue]:
    """Every check of the table on facts already collected, worst first."""
    found: list[Issue] = []
    for code, look in CHECKS.items():
        if label_errors or code not in WHEN_ASKED:
            found += look(facts)
    return worst_first(found)
