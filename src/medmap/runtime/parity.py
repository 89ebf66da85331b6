"""Whether an engine gives the same answer as the network it came from, in numbers; and which engine to take."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError

if TYPE_CHECKING:
    from medmap.runtime.engines import Engine

# Largest difference of a logit, as a share of the largest logit (at least 1). Float32 engines differ by the order of
# summation; bfloat16 keeps 8 bits of the significand (2^-8 ≈ 0.004 for one operation), int8 a scale of 256 steps.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "int8": 1e-1}
# A gap between two outputs below float32's tolerance is a tie: either order is the same answer.
TIE = TOLERANCE["float32"]
MIN_AGREEMENT = 0.99
# Fewer bits make other numbers at every voxel: what counts there is the mask. Against the truth it may lose this much
# Dice; where no truth is known, the two masks themselves may differ by that.
MAX_DROP = 0.002
IGNORED = 255  # in a truth: voxels that nothing looks at
ENSEMBLE_AXIS = 2  # of classes, in (N, members, classes …)


@dataclass(frozen=True)
class Parity:
    """How far an engine's outputs lie from the reference's.

    Args:
        engine: ``torch``, ``onnx`` or ``openvino``.
        precision: ``float32``, ``bfloat16`` or ``int8``.
        cases: How many inputs were compared.
        max_abs: Largest absolute difference of an output; None where an output is not finite.
        mean_abs: Mean absolute difference; None likewise.
        argmax_agreement: Share of positions with the same largest output, ties counted as same; for one output the
            share with the same sign.
        passed: Whether the engine may be used in the reference's place.
        tolerance: Largest difference allowed, as a share of the largest reference output or of 1.
        reason: Why nothing could be compared, in a sentence; None where it was.
        dice: Where outputs are for each voxel: Dice between the two masks over all inputs, mean over the structures
            that either shows; None where there is none.
        dice_drop: Where the truth is known too: what the reference's mean Dice against it is ahead by.
        phantom_max_abs: Largest difference on the bundle's phantoms: what a site may expect to see again.
        boxes_matched: Of a detector: share of the reference's boxes that the engine reports, too, at an IoU of 0.95.
        ap50_drop: Where the true boxes are known, too: what the reference's AP50 is ahead by.
    """

    engine: str
    precision: str
    cases: int
    max_abs: float | None
    mean_abs: float | None
    argmax_agreement: float
    passed: bool
    tolerance: float
    reason: str | None = None
    dice: float | None = None
    dice_drop: float | None = None
    phantom_max_abs: float | None = None
    boxes_matched: float | None = None
    ap50_drop: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for the bundle."""
        return asdict(self)

    @property
    def verdict(self) -> str:
        """What was found, in words.

        Example:
            >>> Parity("onnx", "float32", 8, 1.2e-7, 3e-8, 1.0, True, 0.001).verdict
            'the same answer, at most 1.2e-07 apart'
        """
        if self.reason:
            return f"DIFFERS: {self.reason}"
        if self.max_abs is None:
            return "DIFFERS: an output is not a finite number"
        if self.precision != "float32" and self.dice is not None:
            lost = "" if self.dice_drop is None else f", {max(self.dice_drop, 0):.4f} Dice lost against the truth"
            far = f"Dice {self.dice:.4f} between the masks{lost}"
        elif self.precision != "float32" and self.boxes_matched is not None:
            lost = "" if self.ap50_drop is None else f", {max(self.ap50_drop, 0):.4f} AP50 lost against the truth"
            far = f"{self.boxes_matched:.2%} of the boxes the same{lost}"
        else:
            far = f"{'at most' if self.passed else 'up to'} {self.max_abs:.2g} apart"
        return f"the same answer, {far}" if self.passed else f"DIFFERS: {far}"


class Likeness(Protocol):
    """Whether the answers that two engines' numbers stand for are the same: masks, boxes."""

    def again(self) -> Likeness:
        """The same question, with nothing gathered yet."""
        ...

    def add(self, expected: NDArray[Any], found: NDArray[Any], truth: Any | None) -> None:
        """Gather the outputs of both for some inputs, with their truth where it is known."""
        ...

    def result(self) -> dict[str, Any]:
        """Fields of ``Parity``."""
        ...

    @property
    def decides(self) -> bool:
        """Whether it tells in float32, too, as the numbers cannot: they may stand in another order."""
        ...

    def passed(self) -> bool | None:
        """Whether fewer bits lose nothing that matters; None where the numbers themselves must tell."""
        ...


class MaskLikeness:
    """Dice between two engines' masks, and what one of them loses of it against the truth.

    Args:
        class_axis: As in ``Comparison``.
        exclusive: As in ``Comparison``.
    """

    decides = False

    def __init__(self, class_axis: int, exclusive: bool) -> None:
        self._axis, self._exclusive = class_axis, exclusive
        self._mutual: NDArray[np.float64] | None = None
        self._against: NDArray[np.float64] | None = None

    def again(self) -> MaskLikeness:
        """See ``Likeness``."""
        return MaskLikeness(self._axis, self._exclusive)

    def add(self, expected: NDArray[Any], found: NDArray[Any], truth: Any | None) -> None:
        """See ``Likeness``; truths are (N, *spatial) labels, or (N, structures, *spatial) where they overlap."""
        masks = [self._decided(outputs) for outputs in (expected, found)]
        mutual = _sizes(*masks)
        self._mutual = mutual if self._mutual is None else self._mutual + mutual
        if truth is None:
            return
        real = _structures(truth, masks[0].shape[1]) if truth.ndim == masks[0].ndim - 1 else truth == 1
        counted = (truth != IGNORED)[:, None] if truth.ndim == masks[0].ndim - 1 else truth != IGNORED
        sizes = np.stack([_sizes(mask & counted, real) for mask in masks])
        self._against = sizes if self._against is None else self._against + sizes

    def _decided(self, outputs: NDArray[Any]) -> NDArray[np.bool_]:
        """(N, structures, *spatial): where each one is; the members' mean decides."""
        scores = outputs.mean(axis=1) if self._axis == ENSEMBLE_AXIS else outputs
        if scores.shape[1] == 1 or not self._exclusive:
            return np.asarray(scores > 0)
        return _structures(scores.argmax(axis=1), scores.shape[1] - 1)

    def result(self) -> dict[str, Any]:
        """``dice`` and ``dice_drop``."""
        dice = _mean_dice(self._mutual) if self._mutual is not None else None
        drop = None
        if self._against is not None:
            reference, candidate = (_mean_dice(sizes) for sizes in self._against)
            drop = reference - candidate if reference is not None and candidate is not None else None
        return {"dice": dice, "dice_drop": drop}

    def passed(self) -> bool | None:
        """By the Dice lost, else by the Dice between the masks."""
        found = self.result()
        dice, drop = found["dice"], found["dice_drop"]
        if dice is None:
            return None
        return bool(drop <= MAX_DROP if drop is not None else dice >= 1 - MAX_DROP)


class Comparison:
    """The differences of one engine, gathered input by input, so that no two inputs' outputs need be kept.

    Args:
        engine: What is compared with the reference.
        tolerance: Largest difference allowed, as a share of the largest reference output or of 1; None: 0.001 in
            float32, 0.02 in bfloat16, 0.1 in int8.
        class_axis: The outputs' axis of classes: 1 for (N, outputs …), 2 for an ensemble's (N, members, outputs …).
        exclusive: For each voxel one class (the largest); False: each output is a structure of its own where it is
            positive.
        likeness: What tells whether the answers are the same; None: masks, where outputs are for each voxel.
    """

    def __init__(
        self,
        engine: Engine,
        tolerance: float | None = None,
        class_axis: int = 1,
        exclusive: bool = True,
        likeness: Likeness | None = None,
    ) -> None:
        self._engine = engine
        self._tolerance = TOLERANCE[engine.precision] if tolerance is None else tolerance
        self._axis, self._exclusive = class_axis, exclusive
        self._cases = 0
        self._max, self._sum, self._numbers, self._largest = 0.0, 0.0, 0, 0.0
        self._finite = True
        self._agreeing: list[tuple[NDArray[np.float64], int]] = []  # leads that are no ties on their face, positions
        self._likeness = likeness

    def again(self) -> Comparison:
        """The same question, with nothing gathered yet."""
        likeness = None if self._likeness is None else self._likeness.again()
        return Comparison(self._engine, self._tolerance, self._axis, self._exclusive, likeness)

    def add(
        self,
        expected: NDArray[Any],
        inputs: NDArray[np.float32],
        truth: Any | None = None,
        once_more: bool = False,
    ) -> None:
        """Run inputs and compare.

        Args:
            expected: The reference's outputs for them.
            inputs: (N, C, *spatial) float32.
            truth: What is true of them, as the likeness takes it: of masks (N, *spatial) labels, 255 where nothing is
                known, or (N, structures, *spatial) where they overlap.
            once_more: The same inputs in another batch: the answers, which are gathered over inputs, have them already.

        Raises:
            DataError: Outputs of different shapes.
        """
        found = np.asarray(self._engine(inputs))
        if found.shape != expected.shape:
            raise DataError("two engines give outputs of different shapes", got=found.shape, expected=expected.shape)
        self._cases += 0 if once_more else len(inputs)
        self._numbers += found.size
        if not (np.isfinite(expected).all() and np.isfinite(found).all()):
            self._finite = False
            return
        difference = np.abs(found.astype(np.float64) - expected)
        self._max = max(self._max, float(difference.max()))
        self._sum += float(difference.sum())
        self._largest = max(self._largest, float(np.abs(expected).max()))
        self._agreeing.append(_leads(expected, found, self._axis, self._exclusive))
        if self._likeness is None and expected.ndim > self._axis + 1:
            self._likeness = MaskLikeness(self._axis, self._exclusive)
        if self._likeness is not None and not once_more:
            self._likeness.add(expected, found, truth)

    def result(self, phantom_max_abs: float | None = None) -> Parity:
        """What was found."""
        scale = max(1.0, self._largest)
        tie = 2 * min(self._tolerance, TIE) * scale
        positions = sum(count for _, count in self._agreeing)
        turned = sum(int((lead > tie).sum()) for lead, _ in self._agreeing)
        agreement = 1 - turned / positions if positions and self._finite else 0.0
        passed = self._finite and self._max <= self._tolerance * scale and agreement >= MIN_AGREEMENT
        alike = self._likeness if self._finite else None
        if alike is not None and (self._engine.precision != "float32" or alike.decides):
            told = alike.passed()
            passed = passed if told is None else told
        found = Parity(
            engine=self._engine.name,
            precision=self._engine.precision,
            cases=self._cases,
            max_abs=self._max if self._finite else None,
            mean_abs=self._sum / max(self._numbers, 1) if self._finite else None,
            argmax_agreement=agreement,
            passed=bool(passed),
            tolerance=float(self._tolerance),
            phantom_max_abs=phantom_max_abs,
        )
        return found if alike is None else replace(found, **alike.result())


def measure_parity(
    reference: Engine | NDArray[np.float32],
    candidate: Engine,
    inputs: NDArray[np.float32],
    tolerance: float | None = None,
    *,
    class_axis: int = 1,
    truths: NDArray[Any] | None = None,
    exclusive: bool = True,
) -> Parity:
    """Run the same inputs through both and compare.

    Args:
        reference: The engine to agree with, or its outputs, (N, outputs …) or (N, members, outputs …).
        candidate: The engine in question.
        inputs: (N, C, *spatial) float32, N ≥ 1; one case at a time is run, and the first two together once more, so
            that an engine that answers otherwise in a batch is found.
        tolerance: Largest difference allowed, as a share of the largest reference output or of 1; None: 0.001 in
            float32, 0.02 in bfloat16, 0.1 in int8.
        class_axis: The outputs' axis of classes: 1 for (N, outputs …), 2 for an ensemble's (N, members, outputs …).
        truths: (N, *spatial) labels, where outputs are for each voxel and the truth is known.
        exclusive: As in ``Comparison``.

    Raises:
        DataError: No inputs, or outputs of different shapes.
    """
    return compare_engines(reference, [Comparison(candidate, tolerance, class_axis, exclusive)], inputs, truths)[0]


def compare_engines(
    reference: Engine | NDArray[np.float32],
    comparisons: Collection[Comparison],
    inputs: NDArray[np.float32],
    truths: Sequence[Any] | NDArray[Any] | None = None,
    phantoms: NDArray[np.float32] | None = None,
) -> list[Parity]:
    """``measure_parity`` for several engines, the reference being asked once.

    Args:
        reference: The engine to agree with, or its outputs.
        comparisons: One an engine.
        inputs: (N, C, *spatial) float32, N ≥ 1.
        truths: (N, *spatial) labels, or what else the likeness takes, one an input; or None.
        phantoms: Further inputs that judge nothing: the largest difference on them is only noted.

    Raises:
        DataError: No inputs, or outputs of different shapes.
    """
    if not len(inputs):
        raise DataError("parity needs at least one input")
    first: list[NDArray[Any]] = []
    for i in range(len(inputs)):
        expected = reference[i : i + 1] if isinstance(reference, np.ndarray) else reference(inputs[i : i + 1])
        truth = None if truths is None else truths[i : i + 1]
        for comparison in comparisons:
            comparison.add(expected, inputs[i : i + 1], truth)
        first = [*first, expected][:2]
    if len(inputs) > 1:
        for comparison in comparisons:
            comparison.add(np.concatenate(first), inputs[:2], once_more=True)
    noted: list[float | None] = [None] * len(comparisons)
    if phantoms is not None and not isinstance(reference, np.ndarray):
        on_phantoms = [comparison.again() for comparison in comparisons]
        for i in range(len(phantoms)):
            expected = reference(phantoms[i : i + 1])
            for comparison in on_phantoms:
                comparison.add(expected, phantoms[i : i + 1])
        noted = [comparison.result().max_abs for comparison in on_phantoms]
    return [c.result(far) for c, far in zip(comparisons, noted, strict=True)]


def _leads(expected: NDArray[Any], found: NDArray[Any], axis: int, exclusive: bool) -> tuple[NDArray[np.float64], int]:
    """How far the output that the reference takes is ahead of the one that the engine takes, and at how many places."""
    if expected.shape[axis] == 1 or not exclusive:
        lead = np.where((expected > 0) == (found > 0), 0, np.abs(expected))
    else:
        chosen = np.argmax(found, axis=axis, keepdims=True)
        lead = expected.max(axis=axis, keepdims=True) - np.take_along_axis(expected, chosen, axis=axis)
    return lead[lead > 0].astype(np.float64), int(lead.size)


def _structures(labels: NDArray[Any], count: int) -> NDArray[np.bool_]:
    values = np.arange(1, count + 1).reshape(1, -1, *[1] * (labels.ndim - 1))
    return np.asarray(labels[:, None] == values)


def _sizes(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(structures, 2): voxels in both, and voxels of either counted twice where both have them."""
    axes = (0, *range(2, a.ndim))
    return np.stack([2.0 * (a & b).sum(axes), a.sum(axes) + b.sum(axes)], axis=1)


def _mean_dice(sizes: NDArray[np.float64]) -> float | None:
    """Mean over the structures that are there; None where there is none."""
    there = sizes[:, 1] > 0
    return float((sizes[there, 0] / sizes[there, 1]).mean()) if there.any() else None


def choose(passed: Collection[str], device: str = "cpu") -> str:
    """The engine to run: OpenVINO on a CPU, torch on a CUDA GPU, ONNX Runtime elsewhere, of those that passed.

    Args:
        passed: Names of engines whose parity passed; torch is the reference and need not be named.
        device: ``cpu``, ``cuda``, or another.

    Example:
        >>> choose(["onnx", "openvino"], "cpu"), choose(["onnx"], "cpu"), choose(["onnx"], "cuda"), choose([], "cpu")
        ('openvino', 'onnx', 'torch', 'torch')
    """
    order = {"cpu": ("openvino", "onnx"), "cuda": ()}.get(device.partition(":")[0], ("onnx",))
    return next((name for name in order if name in passed), "torch")
