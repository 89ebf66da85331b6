"""``run.yaml``: one frozen value that says everything a training does."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from medmap.augment import AugmentSection
from medmap.config import Section, parse_yaml, read_text, to_yaml, validate, with_overrides, write_atomically
from medmap.decision import parse_target
from medmap.errors import ConfigError, MedmapError
from medmap.fit import FitSection
from medmap.prepare import PrepareSection
from medmap.tasks.classify import ClassifySection
from medmap.tasks.detect import DetectSection
from medmap.tasks.segment import SegmentSection

# Kept back from a budget for reading, export with its parity test, evaluation and the report; and for a slow moment.
RESERVE_S = 40.0
RESERVE_SHARE = 0.08
SECTIONS_WITH_REASONS = ("task", "splits", "prepare", "augment", "network", "fit", "ensemble", "decision", "coarse")


class SplitsSection(Section):
    """Shares dealt by patient where the owner supplied no split; ``splits:`` of run.yaml.

    A test share of 0 keeps no case back: all are in the folds and judged out of fold.
    """

    train: float = Field(default=0.7, gt=0, lt=1)
    val: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)

    @property
    def shares(self) -> tuple[float, float, float]:
        """In the order train, val, test."""
        return self.train, self.val, self.test


class NetworkSection(Section):
    """What is trained; ``network:`` of run.yaml.

    Args:
        name: A plain name, or ``timm:…``, ``torchvision:…``, ``monai:…``; for masks also ``unet+timm:…`` and others,
            for boxes ``fcos``, ``retinanet``, ``fcos+timm:…``.
        width: Multiplier of the channels, for networks of medmap's own.
        dropout: Before the head.
        stem: ``small`` keeps the first stage at full resolution, ``standard`` is the library's, ``auto`` goes by size.
        init: Starting weights: a bundle, a weights file or a hub name; None starts from scratch.
        strides: For a U-Net, how each stage after the first reduces each axis (1 or 2); None goes by the patch.
        norm: For a U-Net, ``batch`` (folded into the convolutions at export) or ``instance``.
        slices: For masks of volumes, how many neighbouring slices (odd) a picture's network sees at once; 1 is slice
            by slice, 0 a network of volumes.
        slice_axis: The axis across the slices, 0 to 2.
        finest: For boxes, the first stage of the encoder on whose map boxes are looked for; 0 is the image's grid.
        anchors: For ``retinanet``, sides in voxels of the boxes that each map starts from, one row a map.
    """

    name: str = "small_resnet"
    width: float = Field(default=1.0, gt=0, le=16)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    stem: Literal["auto", "small", "standard"] = "auto"
    init: str | None = None
    strides: tuple[tuple[Annotated[int, Field(ge=1, le=2)], ...], ...] | None = None
    norm: Literal["batch", "instance"] = "batch"
    slices: int = Field(default=0, ge=0, le=99)
    slice_axis: int = Field(default=2, ge=0, le=2)
    finest: int = Field(default=3, ge=0, le=8)
    anchors: tuple[tuple[tuple[Annotated[float, Field(gt=0)], ...], ...], ...] = ()

    @field_validator("slices")
    @classmethod
    def _slices(cls, value: int) -> int:
        if value and value % 2 == 0:
            raise ValueError("a slice has as many neighbours on both sides: 0, or an odd number")
        return value


class EnsembleSection(Section):
    """How many networks answer together; ``ensemble:`` of run.yaml.

    Args:
        folds: Parts that the training and validation cases are dealt into, by patient; each member leaves one out
            and is judged on it. 0: every member learns from the training split and is judged on the validation split.
        members: Networks trained: the first so many folds (again from the first with other seeds when there are more).
    """

    folds: int = Field(default=0, ge=0, le=100)
    members: int = Field(default=1, ge=1, le=200)

    @field_validator("folds")
    @classmethod
    def _folds(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one fold leaves nothing to learn from; 0 or at least 2")
        return value


class DecisionSection(Section):
    """How scores become a decision; ``decision:`` of run.yaml.

    Args:
        target: ``youden``, ``sensitivity>=0.95``, ``specificity>=0.9``, ``net_benefit@0.2`` or ``f1``.
        prevalence: Share of positives where the bundle will be used, when it differs from the data's.
    """

    target: str = "youden"
    prevalence: float | None = Field(default=None, gt=0, lt=1)

    @field_validator("target")
    @classmethod
    def _target(cls, value: str) -> str:
        try:
            parse_target(value)
        except MedmapError as error:
            raise ValueError(str(error)) from error
        return value


class CoarseSection(Section):
    """A coarse network that finds where the other looks; ``coarse:`` of run.yaml.

    It learns from the same cases in the same splits and folds, by the same seed and with as many threads.

    Args:
        time_share: Part of the time budget that it learns for; what it takes to finish comes on top.
        task, prepare, augment, network, fit: As of any run.
    """

    time_share: float = Field(default=0.25, gt=0, lt=0.9)
    task: SegmentSection = SegmentSection()
    prepare: PrepareSection
    augment: AugmentSection = AugmentSection()
    network: NetworkSection = NetworkSection()
    fit: FitSection = FitSection()

    @classmethod
    def of(cls, run: Run) -> CoarseSection:
        """What a run says of its network."""
        parts = ("task", "prepare", "augment", "network", "fit")
        return validate(cls, {name: getattr(run, name).model_dump() for name in parts}, "coarse")


_BY_HAND = "set by hand"
# key → reasons of other keys that speak of its value: where it is set by hand they are true no longer
_SPEAK_OF = {
    "prepare.shape": ("fit.batch_size",),
    "prepare.spacing_mm": ("prepare.shape",),
    "fit.batch_size": ("network.norm",),
    "fit.epochs": ("budget",),
    "budget_s": ("budget",),
    "network.width": ("network.name",),
    "network.strides": ("network.name",),
}


def _spoken_of(key: str) -> list[str]:
    """The reasons that are true no longer once a key is set, of the coarse network its own."""
    block = "coarse." if key.startswith("coarse.") else ""
    return [block + about for about in _SPEAK_OF.get(key.removeprefix("coarse."), ())]


class Run(Section):
    """A training, completely: from ``plan``, or loaded from a file.

    ``coarse`` is a coarse network that is trained first; what it finds is where this one looks (``task.around_mm``).

    Example:
        >>> run = Run(prepare=PrepareSection(shape=(28, 28))).override(["fit.epochs=3"])
        >>> run.fit.epochs
        3
    """

    medmap_run: Literal[1] = 1
    task: ClassifySection | DetectSection | SegmentSection = Field(default=ClassifySection(), discriminator="kind")
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    splits: SplitsSection = SplitsSection()
    prepare: PrepareSection
    augment: AugmentSection = AugmentSection()
    network: NetworkSection = NetworkSection()
    fit: FitSection = FitSection()
    ensemble: EnsembleSection = EnsembleSection()
    decision: DecisionSection = DecisionSection()
    budget_s: float | None = Field(default=None, gt=0)
    memory_bytes: int = Field(default=4 * 2**30, ge=2**28)
    coarse: CoarseSection | None = None
    reasons: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _axes_exist(self) -> Run:
        if any(axis >= len(self.prepare.shape) for axis in self.augment.flip_axes):
            raise ValueError(f"augment.flip_axes names an axis that {len(self.prepare.shape)}-D images do not have")
        return self

    @model_validator(mode="after")
    def _coarse_is_for_masks(self) -> Run:
        if self.coarse is not None and self.task.kind != "segment":
            raise ValueError(f"coarse is for masks (task.kind segment), and this is for {self.task.kind}")
        return self

    @property
    def coarse_run(self) -> Run | None:
        """The coarse network's training: its own settings, in all else as this run is dealt and where it runs.

        It trains a network a fold that this run trains one for, so that every case this run judges is looked at by a
        coarse network that did not learn from it.
        """
        if self.coarse is None:
            return None
        folds, coarse = self.ensemble.folds, self.coarse
        return Run(
            **{name: getattr(coarse, name) for name in ("task", "prepare", "augment", "network")},
            **{name: getattr(self, name) for name in ("seed", "device", "splits", "memory_bytes")},
            fit=coarse.fit.model_copy(update={"threads": self.fit.threads}),
            ensemble=EnsembleSection(folds=folds, members=min(folds, self.ensemble.members) if folds else 1),
            budget_s=None
            if self.budget_s is None
            else min(self.budget_s, self.budget_s * coarse.time_share + RESERVE_S),
        )

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Run:
        """Read and validate ``run.yaml``.

        Raises:
            ConfigError: Unreadable, unknown keys, values out of range.
        """
        data = parse_yaml(read_text(path), str(path))
        version = data.get("medmap_run", 1)
        if isinstance(version, int) and version > 1:
            raise ConfigError(f"{path} was written for a newer medmap", got=f"medmap_run {version}", expected="1")
        return validate(cls, with_overrides(data, overrides), str(path))

    def override(self, overrides: Iterable[str], drawn: Collection[str] = ()) -> Run:
        """The run with ``block.key=value`` assignments applied; reasons that speak of what was set are dropped.

        Args:
            overrides: The assignments.
            drawn: Keys that the run is drawn around already, so that its reasons speak of the value set.

        Raises:
            ConfigError: An unknown key or a value out of range.
        """
        texts = list(overrides)
        if not texts:
            return self
        changed = validate(Run, with_overrides(self.model_dump(mode="json"), texts), "--set " + " --set ".join(texts))
        told = {text.partition("=")[0].strip(): _BY_HAND for text in texts}
        stale = {about for key in told if key not in drawn for about in _spoken_of(key)}
        kept = {key: why for key, why in changed.reasons.items() if key not in stale or why == _BY_HAND}
        return changed.model_copy(update={"reasons": {**kept, **told}})

    def save(self, path: str | Path) -> None:
        """Write ``run.yaml``, whole or not at all, each section with its reasons beside it."""
        write_atomically(path, self.as_yaml())

    def as_yaml(self) -> str:
        """The text of ``run.yaml``; reasons stand as comments over their section."""
        data = self.model_dump(mode="json")
        lines = ["# medmap run: `medmap schema run.yaml` describes every key"]
        for key, value in data.items():
            if key in SECTIONS_WITH_REASONS:
                lines.append("")
                lines += [f"# {name}: {why}" for name, why in self.reasons.items() if name.split(".")[0] == key]
            if key == "reasons":
                lines.append("")
            lines.append(to_yaml({key: value}).rstrip())
        return "\n".join(lines) + "\n"
