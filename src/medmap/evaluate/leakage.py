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

    An image is known again by its content's hash, which every bundle keeps of the cases that its networks learned from
    and, apart from them, of those that only judged them: a name may be given twice, a picture stays itself. Images of
    one value throughout are all alike and copies of nothing.

    Args:
        bundles: What answered.
        hashes: Content hash of each evaluated case's image; empty for an image of one value.
        split: The split evaluated.
    """
    if split == "train":
        return [
            "These are cases the network learned from: the numbers say nothing about new patients. "
            "Evaluate on cases it has not seen."
        ]
    if split == "val" and any(_folds(bundle) for bundle in bundles):
        return [
            "These are cases the networks learned from: these are training numbers. The bundle was trained in folds "
            "over the training and validation cases together, so most of its networks have seen each of them. "
            "Evaluate on cases it has not seen, or read the out-of-fold evaluation that training left."
        ]
    if split == "val":
        return [
            "The validation cases chose the calibration and the operating point, and maybe the epoch: the numbers are "
            "somewhat too good. A test set tells more."
        ]
    if not _learned(bundles) and bundles:
        return ["The bundle does not say which cases it learned from: whether these are among them is not known."]
    told = []
    if seen := _seen(bundles, hashes):
        told.append(
            f"Leakage: {len(seen)} of {len(hashes)} evaluated {_were(seen)} also among those the bundle learned from "
            f"({_named(seen)}). The result is too good by an unknown amount; take them out of one of the sets."
        )
    chose = _kept(bundles, "validation_case_hashes") - _learned(bundles)
    if judged := [case for case, digest in hashes.items() if digest in chose]:
        told.append(
            f"Leakage: {len(judged)} of {len(hashes)} evaluated {_were(judged)} also among those that chose the best "
            f"epoch, the calibration and the operating point ({_named(judged)}). No network learned from them, but the "
            "result is somewhat too good; take them out of one of the sets."
        )
    return told


def leaks_of_recalibration(bundles: Sequence[Bundle], hashes: Mapping[str, str]) -> list[str]:
    """A sentence when cases that a site's calibration was fitted on are cases that the bundles learned from.

    Args:
        bundles: What answered.
        hashes: Content hash of each case's image that was recalibrated on; empty for an image of one value.
    """
    seen = _seen(bundles, hashes)
    if not seen:
        return []
    return [
        f"Leakage: recalibration was fitted on {len(hashes)} cases, {len(seen)} of them cases the bundle learned from "
        f"({_named(seen)}). A network is surer of those than of new ones: the recalibrated numbers and the decision "
        "kept with them are not to be trusted. Recalibrate on cases it has not seen."
    ]


def _learned(bundles: Sequence[Bundle]) -> set[str]:
    return _kept(bundles, "training_case_hashes")


def _kept(bundles: Sequence[Bundle], of: str) -> set[str]:
    return {str(digest) for bundle in bundles for digest in bundle.spec.provenance.get(of, ())} - {""}


def _were(cases: Sequence[str]) -> str:
    return "image was" if len(cases) == 1 else "images were"


def _seen(bundles: Sequence[Bundle], hashes: Mapping[str, str]) -> list[str]:
    learned = _learned(bundles)
    return [case for case, digest in hashes.items() if digest in learned]


def _folds(bundle: Bundle) -> int:
    folds = bundle.spec.provenance.get("folds", 0)
    return folds if isinstance(folds, int) else 0


def _named(cases: Sequence[str]) -> str:
    return ", ".join(cases[:SHOWN]) + (" …" if len(cases) > SHOWN else "")


def shared_patients(dataset: Dataset, split: str) -> list[str]:
    """A sentence when patients of the evaluated split have cases to learn from in another one.

    Nobody learns from the test split, nor from a case without a truth.
    """
    if split in ("all", "oof"):
        return []
    inside = {case.patient for case in dataset if case.split == split}
    others = {"train", "val"} - {split}
    outside = {case.patient for case in dataset if case.split in others and case.truth.annotated}
    both = sorted(inside & outside)
    if not both:
        return []
    who = "patient stands" if len(both) == 1 else "patients stand"
    return [
        f"Leakage: {len(both)} of the {split} split's {len(inside)} {who} in another split too ({_named(both)}). "
        "The result may be too good; split by patient."
    ]
