"""Whether cases that are to judge a bundle taught it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.dataset import Dataset

SHOWN = 5  # cases named in a sentence


def leaks(bundles: Sequence[Bundle], hashes: Mapping[str, str], split: str) -> list[str]:
    """Sentences about evaluated cases that the bundles learned from; empty where there are none.

    An image is known again by its content's hash, which every bundle keeps of its training and validation cases: a
    name may be given twice, a picture stays itself.

    Args:
        bundles: What answered.
        hashes: Content hash of each evaluated case's image.
        split: The split evaluated.
    """
    if split == "train":
        return [
            "These are cases the network learned from: the numbers say nothing about new patients. "
            "Evaluate on cases it has not seen."
        ]
    learned = {str(digest) for b in bundles for digest in b.spec.provenance.get("training_case_hashes", ())}
    seen = [case for case, digest in hashes.items() if digest in learned]
    if split == "val":
        return [
            "The validation cases chose the best epoch, the calibration and the operating point: the numbers are "
            "somewhat too good. A test set tells more."
        ]
    if not learned and bundles:
        return ["The bundle does not say which cases it learned from: whether these are among them is not known."]
    if not seen:
        return []
    named = ", ".join(seen[:SHOWN]) + (" …" if len(seen) > SHOWN else "")
    what = "image was" if len(seen) == 1 else "images were"
    return [
        f"Leakage: {len(seen)} of {len(hashes)} evaluated {what} also among those the bundle learned from ({named}). "
        "The result is too good by an unknown amount; take them out of one of the sets."
    ]


def shared_patients(dataset: Dataset, split: str) -> list[str]:
    """A sentence when patients of the evaluated split stand in another split too."""
    if split in ("all", "oof"):
        return []
    inside = {case.patient for case in dataset if case.split == split}
    outside = {case.patient for case in dataset if case.split is not None and case.split != split}
    both = sorted(inside & outside)
    if not both:
        return []
    named = ", ".join(both[:SHOWN]) + (" …" if len(both) > SHOWN else "")
    who = "patient stands" if len(both) == 1 else "patients stand"
    return [
        f"Leakage: {len(both)} of the {split} split's {len(inside)} {who} in another split too ({named}). "
        "The result may be too good; split by patient."
    ]
