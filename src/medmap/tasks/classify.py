"""Image → class: binary, multi-class, multi-label, ordinal, or a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medmap import metrics
from medmap.config import Section
from medmap.decision import Decision, apply_temperature, calibrated, decide
from medmap.errors import DatasetError
from medmap.results import Label, ScoreKind, Scores
from medmap.tasks.protocol import Batch, Examples, Forward, Selection, Tensors

if TYPE_CHECKING:
    import torch

    from medmap.dataset import Case, Dataset

Floats = NDArray[np.float64]
JUDGED_AT_ONCE = 256


class ClassifySection(Section):
    """How the mapping image → class is learned; ``task:`` of run.yaml.

    Args:
        kind: classify.
        loss: ``cross_entropy`` or ``focal`` (Lin et al. 2017); a regression takes the Huber loss.
        focal_gamma: How much focal loss turns away from easy cases.
        label_smoothing: Part of the probability spread over the other classes.
        class_weights: ``none`` or ``balanced`` (each class weighs the same in the loss).
        sampling: ``natural`` or ``balanced`` (each class is drawn as often).
    """

    kind: Literal["classify"] = "classify"
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = Field(default=2.0, ge=0, le=10)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["natural", "balanced"] = "natural"


@dataclass(frozen=True, eq=False)
class Classify:
    """The task; ``make`` builds it from a dataset.

    Args:
        section: Loss and weights.
        labels: The classes in index order.
        kind: How the classes hang together.
        weights: (classes,) weight of each class in the loss (multi-label: of its positives), or None.
        scale: (mean, deviation) of a regression's target; the network learns the standardised one.
    """

    section: ClassifySection
    labels: tuple[Label, ...]
    kind: ScoreKind
    weights: tuple[float, ...] | None = None
    scale: tuple[float, float] = (0.0, 1.0)
    moves: Literal["nothing"] = "nothing"

    @property
    def outputs(self) -> int:
        """Two or more classes: one each; ordinal: one a threshold between neighbours."""
        return len(self.labels) - 1 if self.kind == "ordinal" else len(self.labels)

    def network(self, name: str, **options: Any) -> torch.nn.Module:
        """An untrained network; ``options`` are the other fields of ``NetworkSpec``."""
        from medmap.networks import NetworkSpec, build

        seed = options.pop("seed", 0)
        return build(NetworkSpec(name=name, outputs=self.outputs, **options), seed=seed)

    def draw(self, tensors: Tensors, rng: np.random.Generator) -> Tensors:
        """One example is the whole image."""
        return tensors

    def collate(self, examples: Sequence[Tensors], cases: Sequence[Case]) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, channels, spatial …) images, and the truth: class index (batch,), or numbers (batch, classes)."""
        import torch

        images = torch.from_numpy(np.stack([e["image"] for e in examples]).astype(np.float32))
        return images, torch.from_numpy(self.truth(cases))

    def truth(self, cases: Sequence[Case]) -> NDArray[Any]:
        """Class indices int64 (n,), or float32 (n, classes) with NaN where unknown.

        Raises:
            DatasetError: A case without the truth this task learns from.
        """
        if self.kind in ("multilabel", "regression"):
            rows = [case.truth.values for case in cases]
            for case, row in zip(cases, rows, strict=True):
                if row is None or len(row) != len(self.labels):
                    raise DatasetError("the case has no value for each label", got=row, case=case.id)
            table = np.array(rows, dtype=np.float32)
            return (table - self.scale[0]) / self.scale[1] if self.kind == "regression" else table
        for case in cases:
            if case.truth.label is None:
                raise DatasetError("the case has no label", remedy="leave it out or label it", case=case.id)
        return np.array([case.truth.label for case in cases], dtype=np.int64)

    def pretended(self, images: torch.Tensor) -> torch.Tensor:
        """Classes in turn."""
        import torch

        size = len(images)
        if self.kind in ("multilabel", "regression"):
            return (torch.arange(size * len(self.labels)) % 2).float().reshape(size, -1)
        return torch.arange(size) % len(self.labels)

    # -- learning ----------------------------------------------------------------------------------------------

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Mean loss of a batch; an unknown label of a multi-label case takes no part."""
        import torch

        logits = net(batch.images).float()
        own = self._each(logits, batch.truth)
        if batch.own_share is not None:
            share = batch.own_share.to(own.device)
            own = share * own + (1 - share) * self._each(logits, batch.truth.roll(1, 0))
        return own.mean() if own.numel() else torch.zeros((), requires_grad=True)

    def _each(self, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """(batch,) loss of each case."""
        import torch
        from torch.nn import functional

        if self.kind == "regression":
            known = ~torch.isnan(truth)
            terms = functional.huber_loss(logits, torch.nan_to_num(truth), reduction="none") * known
            return terms.sum(1) / known.sum(1).clamp_min(1)
        if self.kind == "multilabel":
            return self._sigmoid_terms(logits, truth)
        if self.kind == "ordinal":  # one question a threshold: is the grade above it? (Frank and Hall 2001)
            above = (truth[:, None] > torch.arange(self.outputs, device=truth.device)).float()
            return self._sigmoid_terms(logits, above)
        weight = torch.tensor(self.weights, device=logits.device) if self.weights else None
        smoothing = self.section.label_smoothing
        terms = functional.cross_entropy(logits, truth, weight=weight, reduction="none", label_smoothing=smoothing)
        if self.section.loss == "focal":
            chance = functional.softmax(logits, 1).gather(1, truth[:, None])[:, 0]
            terms = terms * (1 - chance) ** self.section.focal_gamma
        return terms

    def _sigmoid_terms(self, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional

        known = ~torch.isnan(truth)
        target = torch.nan_to_num(truth)
        smooth = target * (1 - self.section.label_smoothing) + self.section.label_smoothing / 2
        weight = (
            torch.tensor(self.weights, device=logits.device) if self.weights and self.kind == "multilabel" else None
        )
        terms = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none", pos_weight=weight)
        if self.section.loss == "focal":
            chance = torch.sigmoid(logits)
            hit = target * chance + (1 - target) * (1 - chance)
            terms = terms * (1 - hit) ** self.section.focal_gamma
        return (terms * known).sum(1) / known.sum(1).clamp_min(1)

    def sampling_weights(self, cases: Sequence[Case]) -> Floats | None:
        """Chance of each case to be drawn, when sampling is balanced; None when every case comes once an epoch."""
        if self.section.sampling == "natural" or self.kind == "regression":
            return None
        truth = self.truth(cases)
        if self.kind == "multilabel":
            frequency = np.nan_to_num(truth).mean(0).clip(1 / len(cases), None)
            return np.asarray((np.nan_to_num(truth) / frequency).max(1).clip(1.0, None), dtype=np.float64)
        counts = np.bincount(truth, minlength=len(self.labels))
        return np.asarray(1.0 / counts[truth], dtype=np.float64)

    # -- reading the answer ------------------------------------------------------------------------------------

    def combine(self, rows: NDArray[Any]) -> Floats:
        """Several networks' and views' numbers for one case, (rows, outputs), as one row (outputs,).

        Classes that exclude each other: the mean log probability, so that one sure member is not drowned by unsure
        ones; otherwise the mean.
        """
        z = np.asarray(rows, dtype=np.float64)
        if self.kind in ("binary", "multiclass"):
            z = z - z.max(-1, keepdims=True)
            z = z - np.log(np.exp(z).sum(-1, keepdims=True))
        return np.asarray(z.mean(0))

    def probabilities(self, logits: NDArray[Any], decision: Decision | None = None) -> Floats:
        """(cases, outputs) logits to (cases, classes) probabilities; a regression's numbers in the target's unit."""
        if self.kind == "regression":
            return np.asarray(logits, dtype=np.float64) * self.scale[1] + self.scale[0]
        if decision is None:
            return apply_temperature(logits, 1.0, self.kind)
        return calibrated(logits, decision, self.kind)

    def decode(self, logits: NDArray[Any], **options: Any) -> Scores:
        """One case's answer.

        Args:
            logits: (rows, outputs): one row for each network and view.
            options: ``decision``: the bundle's ``Decision``; without it nothing is calibrated and the largest score
                decides.
        """
        decision: Decision | None = options.get("decision")
        rows = np.atleast_2d(np.asarray(logits, dtype=np.float64))
        together = self.combine(rows)[None]
        values = self.probabilities(together, decision)[0]
        spread = self.probabilities(rows, decision).std(0) if len(rows) > 1 else None
        decided, abstained = self.decided(values, decision)
        return Scores(
            self.labels,
            values,
            self.kind,
            calibrated=decision is not None and self.kind != "regression",
            uncalibrated=self.probabilities(together)[0] if decision is not None else None,
            spread=spread,
            decided=decided,
            abstained=abstained,
        )

    def decided(self, values: Floats, decision: Decision | None) -> tuple[tuple[str, ...], bool]:
        """Names of the classes a rule decides on, and whether it leaves the case to a person."""
        if self.kind == "regression":
            return (), False
        names = [label.name for label in self.labels]
        rule = Decision() if decision is None else decision
        answer = decide(values[None].clip(0, 1), rule, self.kind)
        if bool(answer.abstained[0]):
            return (), True
        chosen = answer.predicted[0]
        if self.kind == "multilabel":
            return tuple(n for n, called in zip(names, chosen, strict=True) if called), False
        return (names[int(chosen)],), False

    def answers(self, forward: Forward, store: Examples, rows: Sequence[int]) -> NDArray[np.float32]:
        """(rows, outputs) the network's numbers."""
        parts = []
        for start in range(0, len(rows), JUDGED_AT_ONCE):
            images = [store[int(row)]["image"] for row in rows[start : start + JUDGED_AT_ONCE]]
            parts.append(forward(np.stack(images).astype(np.float32)))
        return np.concatenate(parts)

    def score(self, logits: NDArray[Any], cases: Sequence[Case]) -> Selection:
        """What "best by validation" goes by: mean AUROC less a tenth of the log loss; −error for a regression.

        AUROC alone has many ties on a small validation set; the log loss breaks them towards honest probabilities.
        """
        truth = self.truth(cases)
        if self.kind == "regression":
            error = float(np.nanmean(np.abs(logits - truth)) * self.scale[1])
            return Selection("mae", -error, error)
        chance = self.probabilities(logits)
        if self.kind == "multilabel":
            columns = [(chance[:, c], truth[:, c], ~np.isnan(truth[:, c])) for c in range(len(self.labels))]
            areas = [_area(p[k], t[k] == 1) for p, t, k in columns]
            likelihood = np.concatenate([np.where(t[k] == 1, p[k], 1 - p[k]) for p, t, k in columns])
        else:
            areas = [_area(chance[:, c], truth == c) for c in range(len(self.labels))]
            likelihood = chance[np.arange(len(truth)), truth]
        area = float(np.mean([a for a in areas if a is not None])) if any(a is not None for a in areas) else 0.5
        log_loss = float(-np.log(likelihood.clip(1e-7, 1)).mean())
        return Selection("auroc", area - 0.1 * log_loss, area)

    def supports(self, dimensions: int, channels: int) -> str | None:
        """Pictures and volumes of any channel count."""
        return None if dimensions in (2, 3) else f"images of {dimensions} dimensions"


def _area(scores: Floats, positive: NDArray[np.bool_]) -> float | None:
    if positive.all() or not positive.any():
        return None
    return metrics.auroc_value(scores, positive)


def make(
    section: ClassifySection, dataset: Dataset, shape: Sequence[int] = (), network: Mapping[str, Any] | None = None
) -> Classify:
    """The task for a dataset: its classes, and weights fitted on its cases (give the training cases).

    Args:
        section: ``task:`` of run.yaml.
        dataset: Cases with labels.
        shape, network: What the network sees, and what is said of it; of no meaning here.

    Raises:
        DatasetError: No classes, or fewer than two of them have a case.
    """
    kind: ScoreKind = dataset.kind
    if not dataset.labels:
        raise DatasetError(f"{dataset.name} names no class")
    if kind == "regression":
        values = np.array([c.truth.values for c in dataset if c.truth.values is not None], dtype=np.float64)
        if not len(values) or not np.nanstd(values) > 0:
            raise DatasetError("a regression needs a target that varies", got=f"{len(values)} values")
        return Classify(section, dataset.labels, kind, None, (float(np.nanmean(values)), float(np.nanstd(values))))
    plain = Classify(section, dataset.labels, kind)
    labelled = [case for case in dataset if case.truth.annotated]
    if not labelled:
        raise DatasetError(f"no case of {dataset.name} has a label")
    truth = plain.truth(labelled)
    weights: Floats | None = None
    if kind == "multilabel":
        if section.class_weights == "balanced":
            rate = np.nan_to_num(truth).sum(0) / np.maximum((~np.isnan(truth)).sum(0), 1)
            weights = np.clip((1 - rate) / np.maximum(rate, 1e-3), 1 / 30, 30)
    else:
        counts = np.bincount(truth, minlength=len(dataset.labels))
        if (counts > 0).sum() < 2:
            only = dataset.labels[int(counts.argmax())].name
            raise DatasetError("the training cases have one class only", got=only, expected="at least two classes")
        if section.class_weights == "balanced" and kind != "ordinal":
            weights = len(truth) / (np.maximum(counts, 1) * (counts > 0).sum())
    if weights is not None and not all(math.isfinite(w) for w in weights):
        raise DatasetError("a class weight is not finite", got=weights.tolist())
    return Classify(section, dataset.labels, kind, None if weights is None else tuple(map(float, weights)))
