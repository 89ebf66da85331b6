"""The rules: from a fingerprint to the choices, each with its reason in words. Pure functions, no measuring."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medmap.augment import ANY_ROTATION, AugmentSection, allowed_flips
from medmap.dataset import Dataset
from medmap.plan.fingerprint import Fingerprint
from medmap.plan.run import NetworkSection
from medmap.prepare import PrepareSection

# Pictures up to this side keep their own size and a stem at full resolution.
SMALL_SIDE = 64
LONGEST_2D = 224
LONGEST_3D = 64
# Fewer cases than this: every case should be learned from and every case should be judged, so folds.
FOLDS_BELOW = 5000
FOLDS = 5
# With fewer validation cases than this the difference between two epochs is noise: the last averaged weights are kept.
NOISY_VALIDATION = 2000
LEAST_STEPS = 300
GOOD_STEPS = 1500
MOST_EPOCHS = 120


@dataclass(frozen=True)
class Chosen:
    """A section's value and why."""

    value: object
    reasons: dict[str, str]


def prepare_section(facts: Fingerprint) -> tuple[PrepareSection, dict[str, str]]:
    """Size, proportions, orientation and intensity."""
    shape, why = _shape(facts)
    reasons = {"prepare.shape": why}
    if facts.quantity in ("HU", "SUVbw"):
        intensity = "window"
        reasons["prepare.intensity"] = (
            f"{facts.quantity} has a fixed meaning: one window, fitted on the training images"
        )
    elif facts.eight_bit or facts.quantity == "colour":
        intensity = "range"
        reasons["prepare.intensity"] = "the files hold 8-bit or colour values: their own range is kept"
    elif facts.modality in ("CR", "DX", "MG", "XA", "RF") or not facts.patient_space:
        intensity = "window"
        reasons["prepare.intensity"] = "more than 8 bits without a fixed unit: the robust range of the training images"
    else:
        intensity = "zscore"
        reasons["prepare.intensity"] = (
            "MR and other units differ between scanners: each image by its own mean and spread"
        )
    turn = facts.dimensions == 3 and facts.patient_space
    section = PrepareSection(
        shape=shape,
        keep_proportions=True,
        orientation="LPS" if turn else None,
        intensity=intensity,  # type: ignore[arg-type]
        channels=facts.channels,
    )
    if turn:
        reasons["prepare.orientation"] = "volumes in a patient's space are turned the same way round"
    return section, reasons


def _shape(facts: Fingerprint) -> tuple[tuple[int, ...], str]:
    limit = LONGEST_2D if facts.dimensions == 2 else LONGEST_3D
    spacing = facts.spacing_mm or (1.0,) * facts.dimensions
    if facts.same_shape and max(facts.shape) <= (SMALL_SIDE if facts.dimensions == 2 else limit):
        return facts.shape, f"all sampled images have {_times(facts.shape)} voxels, small enough to be seen as they are"
    extent = [n * s for n, s in zip(facts.shape, spacing, strict=True)]
    finest = min(spacing)
    scale = min(1.0, limit * finest / max(extent))
    multiple = 8 if max(facts.shape) > SMALL_SIDE else 1
    shape = tuple(max(8, round(e / finest * scale / multiple) * multiple) for e in extent)
    shape = tuple(min(limit, n) for n in shape)
    return shape, f"the median image of {_times(facts.shape)} voxels, at most {limit} along a side, proportions kept"


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(str(n) for n in shape)


def network_section(shape: tuple[int, ...], facts: Fingerprint) -> tuple[NetworkSection, dict[str, str]]:
    """A residual network; narrower for volumes, a library's for large pictures."""
    if facts.dimensions == 3:
        why = "a residual network of two blocks a stage, half as wide as in 2-D: volumes cost a dimension more"
        return NetworkSection(name="small_resnet", width=0.5), {"network.name": why}
    if max(shape) <= SMALL_SIDE:
        why = f"pictures of at most {SMALL_SIDE} pixels: a residual network whose first stage keeps full resolution"
        return NetworkSection(name="small_resnet", width=1.0), {"network.name": why}
    why = "the residual network of 18 layers is the strongest baseline for its time from scratch"
    return NetworkSection(name="resnet18"), {"network.name": why}


def augment_section(facts: Fingerprint, dataset: Dataset) -> tuple[AugmentSection, dict[str, str]]:
    """What may happen to an image without making it a lie."""
    flips = allowed_flips(facts.modality, facts.dimensions, dataset.label_names, facts.patient_space)
    modality = facts.modality or "unknown modality"
    if flips:
        reasons = {"augment.flip_axes": f"{modality}: mirroring along axes {flips} shows a possible image"}
    else:
        reasons = {
            "augment.flip_axes": f"{modality}: left and right (or up and down) may matter, so nothing is mirrored"
        }
    rotate = 180.0 if facts.modality in ANY_ROTATION and facts.dimensions == 2 else 15.0
    if rotate == 180:
        reasons["augment.rotate_deg"] = f"{modality} has no upright: every rotation is a possible image"
    return AugmentSection(flip_axes=flips, rotate_deg=rotate), reasons


@dataclass(frozen=True)
class Arrangement:
    """How the time is spent.

    Args:
        folds, members, epochs: See ``EnsembleSection`` and ``FitSection``.
        seconds: What training will take by the measured speed.
        reason: Why, in words.
    """

    folds: int
    members: int
    epochs: int
    seconds: float
    reason: str


def batch_size(training: int, shape: tuple[int, ...]) -> int:
    """Images a step: 64, fewer for few or large images."""
    voxels = math.prod(shape)
    largest = 64 if voxels <= 64**2 * 2 else 16 if voxels <= 256**2 else 4
    return max(4, min(largest, 2 ** int(math.log2(max(4, training // 4)))))


def arrange(
    step_s: float, batch: int, training: int, available_s: float | None, folds: int | None = None
) -> Arrangement:
    """Spend the time available on folds, members and epochs.

    Args:
        step_s: Measured seconds of a training step, batch making included.
        batch: Images a step.
        training: Cases a network may learn from (training and validation splits).
        available_s: Seconds for training alone; None for as long as it takes.
        folds: Set by the user, or None.

    Returns:
        Fewer members before fewer epochs: five half-trained networks answer worse than two trained ones.
    """
    use_folds = FOLDS if folds is None and training < FOLDS_BELOW else folds or 0
    share = (use_folds - 1) / use_folds if use_folds else 1.0
    steps = max(1, int(training * share / batch))
    good = max(20, math.ceil(GOOD_STEPS / steps))
    wanted = (
        min(MOST_EPOCHS, good)
        if training < FOLDS_BELOW
        else max(5, min(MOST_EPOCHS, math.ceil(6 * GOOD_STEPS / steps)))
    )
    members = max(1, use_folds)
    epoch_s = steps * step_s
    if available_s is None:
        return Arrangement(use_folds, members, wanted, members * wanted * epoch_s, "no time limit was set")
    least = max(1, math.ceil(LEAST_STEPS / steps))
    affordable = int(available_s / epoch_s)
    while members > 1 and affordable < members * min(wanted, 2 * least):
        members -= 1
    epochs = max(1, min(wanted, affordable // members))
    used = members * epochs * epoch_s
    reason = (
        f"{affordable} epochs of {epoch_s:.1f} s fit the {available_s:.0f} s left for training: "
        f"{members} network{'s' if members > 1 else ''} of {epochs} epochs"
    )
    return Arrangement(use_folds, members, epochs, used, reason)
