"""The rules: from a fingerprint to the choices, each with its reason in words. Pure functions, no measuring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from medmap.augment import ANY_ROTATION, AugmentSection, allowed_flips
from medmap.dataset import Dataset
from medmap.errors import counted
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
# A network of a small set has seen enough after so many steps, and not before so many epochs.
GOOD_STEPS = 750
GOOD_EPOCHS = 30
MOST_EPOCHS = 100
# Folds are dealt again with other seeds, up to so many times, when time is left.
MOST_ROUNDS = 3
# Share of examples from which one of several inputs is withheld.
WITHHELD = 0.2
# A run with less than one in so many of the epochs it wants learns little.
SCANT = 10


def prepare_section(facts: Fingerprint) -> tuple[PrepareSection, dict[str, str]]:
    """Size, proportions, orientation and intensity."""
    shape, why = _shape(facts)
    proportions = None
    if shape == facts.shape and facts.spacing_mm is not None:
        proportions = tuple(round(s / min(facts.spacing_mm), 4) for s in facts.spacing_mm)
        proportions = None if max(proportions) < 1.01 else proportions
    reasons = {"prepare.shape": why}
    if len(facts.inputs) > 1:
        intensity = "zscore"
        reasons["prepare.intensity"] = f"{', '.join(facts.inputs)}: each by its own mean and spread"
        reasons["prepare.channels"] = (
            f"{counted(facts.channels, 'input')} are the channels, on the grid of the first that was acquired"
        )
    elif facts.quantity in ("HU", "SUVbw"):
        intensity = "window"
        reasons["prepare.intensity"] = (
            f"{facts.quantity} has a fixed meaning: one window, fitted on the training images"
        )
    elif facts.eight_bit or facts.quantity == "colour":
        intensity = "range"
        reasons["prepare.intensity"] = "the files hold 8-bit or colour values: their own range is kept"
    elif facts.modality in ("CT", "CR", "DX", "MG", "XA", "RF") or not facts.patient_space:
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
        proportions=proportions,
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
        return facts.shape, f"all sampled images have {times(facts.shape)} voxels, small enough to be seen as they are"
    extent = [n * s for n, s in zip(facts.shape, spacing, strict=True)]
    finest = min(spacing)
    scale = min(1.0, limit * finest / max(extent))
    multiple = 8 if max(facts.shape) > SMALL_SIDE else 1
    shape = tuple(max(8, round(e / finest * scale / multiple) * multiple) for e in extent)
    shape = tuple(min(limit, n) for n in shape)
    return shape, f"the median image of {times(facts.shape)} voxels, at most {limit} along a side, proportions kept"


def times(shape: tuple[int, ...]) -> str:
    """A shape as people write it.

    Example:
        >>> times((40, 56, 40))
        '40 × 56 × 40'
    """
    return " × ".join(str(n) for n in shape)


def network_section(shape: tuple[int, ...], facts: Fingerprint) -> tuple[NetworkSection, dict[str, str]]:
    """A residual network; narrow for few cases and for volumes, a library's for large pictures."""
    few = facts.training < FOLDS_BELOW
    if facts.dimensions == 3:
        why = "a residual network of two blocks a stage, half as wide as in 2-D: volumes cost a dimension more"
        return NetworkSection(name="small_resnet", width=0.5), {"network.name": why}
    if max(shape) <= SMALL_SIDE:
        why = f"pictures of at most {SMALL_SIDE} pixels: a residual network whose first stage keeps full resolution"
        width = "fewer cases than that a wider network could use" if few else "enough cases for the full width"
        reasons = {"network.name": why, "network.width": width}
        return NetworkSection(name="small_resnet", width=0.5 if few else 1.0), reasons
    why = "the residual network of 18 layers is the strongest baseline for its time from scratch"
    return NetworkSection(name="resnet18"), {"network.name": why}


def safe_flips(facts: Fingerprint, dataset: Dataset) -> tuple[int, ...]:
    """Axes that may be mirrored; none where the owner says that classes are mirror images of each other."""
    if dataset.mirror_pairs:
        return ()
    return allowed_flips(facts.modality, facts.dimensions, dataset.label_names, facts.patient_space)


def augment_section(facts: Fingerprint, dataset: Dataset) -> tuple[AugmentSection, dict[str, str]]:
    """What may happen to an image without making it a lie."""
    flips = safe_flips(facts, dataset)
    modality = facts.modality or "unknown modality"
    if flips:
        reasons = {"augment.flip_axes": f"{modality}: mirroring along axes {flips} shows a possible image"}
    else:
        reasons = {
            "augment.flip_axes": f"{modality}: left and right (or up and down) may matter, so nothing is mirrored; "
            "where they do not, set augment.flip_axes=[0,1]"
        }
    drop = WITHHELD if len(facts.inputs) > 1 else 0.0
    if drop:
        reasons["augment.drop_inputs"] = f"each input is withheld from {drop:.0%} of the examples, should it be missing"
    rotate = 180.0 if facts.modality in ANY_ROTATION and facts.dimensions == 2 else AugmentSection().rotate_deg
    if rotate == 180:
        reasons["augment.rotate_deg"] = f"{modality} has no upright: every rotation is a possible image"
    if facts.quantity in ("HU", "SUVbw"):
        reasons["augment.brightness"] = f"{facts.quantity} is a measurement: its values are hardly changed"
        measured: dict[str, Any] = {"brightness": 0.05, "contrast": 0.05, "gamma": 0.0}
        return AugmentSection(flip_axes=flips, rotate_deg=rotate, drop_inputs=drop, **measured), reasons
    return AugmentSection(flip_axes=flips, rotate_deg=rotate, drop_inputs=drop), reasons


@dataclass(frozen=True)
class Arrangement:
    """How the time is spent.

    Args:
        folds, members, epochs: See ``EnsembleSection`` and ``FitSection``.
        seconds: What training will take by the measured speed.
        reason: Why, in words.
        wanted: Epochs after which more would teach no more.
    """

    folds: int
    members: int
    epochs: int
    seconds: float
    reason: str
    wanted: int


def learning_rate(network: NetworkSection, batch: int) -> tuple[float, str]:
    """Top of the schedule for AdamW: large for residual networks from scratch, small for transfer and transformers."""
    if network.init:
        return 3e-4, "starting weights are given: a small learning rate keeps what they know"
    if network.name in ("small_resnet", "resnet18", "resnet34", "resnet50", "resnet10", "cnn"):
        rate = 4e-3 * min(1.0, (batch / 64) ** 0.5)
        return round(rate, 6), "residual networks with batch normalisation bear a large learning rate"
    return 5e-4, "a learning rate that most networks bear from scratch"


def batch_size(training: int, shape: tuple[int, ...]) -> int:
    """Images a step: 64, fewer for few or large images."""
    voxels = math.prod(shape)
    largest = 64 if voxels <= 64**2 * 2 else 16 if voxels <= 256**2 else 4
    fitting: int = 2 ** int(math.log2(max(4, training // 4)))
    return max(4, min(largest, fitting))


@dataclass(frozen=True)
class Enough:
    """From when on more training teaches no more.

    Args:
        steps: A network has seen enough after so many steps …
        epochs: … and not before so many epochs …
        most_epochs: … and surely after so many.
        rounds: Folds are dealt again with other seeds up to so many times, when time is left.
    """

    steps: int = GOOD_STEPS
    epochs: int = GOOD_EPOCHS
    most_epochs: int = MOST_EPOCHS
    rounds: int = MOST_ROUNDS


def arrange(
    step_s: float,
    batch: int,
    training: int,
    available_s: float | None,
    folds: int | None = None,
    enough: Enough = Enough(),
) -> Arrangement:
    """Spend the time available on folds, members and epochs.

    Args:
        step_s: Measured seconds of a training step, batch making included.
        batch: Images a step.
        training: Cases a network may learn from (training and validation splits).
        available_s: Seconds for training alone; None for as long as it takes.
        folds: Set by the user, or None.
        enough: When more teaches no more.

    Returns:
        Fewer members before fewer epochs: five half-trained networks answer worse than two trained ones. Folds are
        dealt again when there is time: fifteen networks answer better than five.
    """
    use_folds = FOLDS if folds is None and training < FOLDS_BELOW else folds or 0
    steps = max(1, int(training * ((use_folds - 1) / use_folds if use_folds else 1.0) / batch))
    wanted = min(enough.most_epochs, max(enough.epochs, math.ceil(enough.steps / steps)))
    epoch_s = steps * step_s
    if available_s is None:
        members = max(1, use_folds)
        return Arrangement(use_folds, members, wanted, members * wanted * epoch_s, "no time limit was set", wanted)
    affordable = max(1, int(available_s / epoch_s))
    members = min(affordable // wanted, use_folds * enough.rounds) if use_folds else 1
    if use_folds and members < use_folds:  # every case judged out of fold is worth a third of the epochs, not more
        members = min(use_folds, max(1, affordable // max(1, wanted * 2 // 3)))
    members = max(1, members)
    epochs = max(1, min(wanted, affordable // members))
    plenty = " (more would teach no more)" if epochs == wanted and members in (1, use_folds * enough.rounds) else ""
    reason = (
        f"{_fitting(affordable, epoch_s, available_s)}: "
        f"{counted(members, 'network')} of {counted(epochs, 'epoch')}{plenty}"
    )
    return Arrangement(use_folds, members, epochs, members * epochs * epoch_s, reason, wanted)


def short_of_time(spent: Arrangement) -> str | None:
    """A sentence where the time left allows less than a tenth of the epochs that teach something; else None."""
    if spent.epochs * SCANT > spent.wanted:
        return None
    return (
        "too short to learn much: after opening the data and planning there is time for "
        f"{counted(spent.members, 'network')} of {counted(spent.epochs, 'epoch')}, and {spent.wanted} would be enough; "
        "give more time"
    )


def folds_in_words(spent: Arrangement, asked: bool) -> str:
    """Why cases are dealt into folds or not, and how many of them the time allows."""
    if spent.folds and spent.members < spent.folds:
        return (
            f"the time allows {counted(spent.members, 'network')} of {spent.folds} folds: only the cases "
            f"{'it' if spent.members == 1 else 'they'} left out will be judged; a longer budget judges all"
        )
    if asked:
        return "set by hand"
    if spent.folds:
        return f"fewer than {FOLDS_BELOW} cases: each is learned from and judged out of fold, together they answer"
    return "enough cases for one network and a validation split"


def _fitting(affordable: int, epoch_s: float, available_s: float) -> str:
    """How many epochs fit; a run has one at least, also where that one does not."""
    left = f"the {available_s:.0f} s left for training"
    if epoch_s > available_s:
        return f"one epoch of {epoch_s:.1f} s is the least, and more than {left}"
    return f"{counted(affordable, 'epoch')} of {epoch_s:.1f} s {'fits' if affordable == 1 else 'fit'} {left}"


def narrower(network: NetworkSection, arranged: Arrangement) -> NetworkSection | None:
    """Half the width, when the time allows neither the folds nor the epochs at this one; None when it does."""
    starved = arranged.epochs < GOOD_EPOCHS // 2 or (arranged.folds and arranged.members < arranged.folds)
    if (
        network.name not in ("small_resnet", "unet", "residual_unet", "fcos", "retinanet", "faster_rcnn")
        or not starved
        or network.width <= 0.25
    ):
        return None
    return network.model_copy(update={"width": network.width / 2})
