"""Whether an engine gives the same answer as the network it came from, in numbers; and which engine to take."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError

if TYPE_CHECKING:
    from medmap.runtime.engines import Engine

# Largest difference of a logit, as a share of the largest logit (at least 1). Float32 engines differ by the order of
# summation; bfloat16 keeps 8 bits of the significand (2^-8 ≈ 0.004 for one operation).
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
# A gap between two outputs below float32's tolerance is a tie: either order is the same answer.
TIE = TOLERANCE["float32"]
MIN_AGREEMENT = 0.99


@dataclass(frozen=True)
class Parity:
    """How far an engine's outputs lie from the reference's.

    Args:
        engine: ``torch``, ``onnx`` or ``openvino``.
        precision: ``float32`` or ``bfloat16``.
        cases: How many inputs were compared.
        max_abs: Largest absolute difference of an output; None where an output is not finite.
        mean_abs: Mean absolute difference; None likewise.
        argmax_agreement: Share of positions with the same largest output, ties counted as same; for one output the
            share with the same sign.
        passed: Whether the engine may be used in the reference's place.
        tolerance: Largest difference allowed, as a share of the largest reference output or of 1.
        reason: Why nothing could be compared, in a sentence; None where it was.
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

    def as_json(self) -> dict[str, Any]:
        """Plain values for the bundle."""
        return asdict(self)


def measure_parity(
    reference: Engine | NDArray[np.float32],
    candidate: Engine,
    inputs: NDArray[np.float32],
    tolerance: float | None = None,
    *,
    class_axis: int = 1,
) -> Parity:
    """Run the same inputs through both and compare.

    Args:
        reference: The engine to agree with, or its outputs, (N, outputs …) or (N, members, outputs …).
        candidate: The engine in question.
        inputs: (N, C, *spatial) float32, N ≥ 1; one case at a time is run, and the first two together once more, so
            that an engine that answers otherwise in a batch is found.
        tolerance: Largest difference allowed, as a share of the largest reference output or of 1; None: 0.001 in
            float32, 0.02 in bfloat16.
        class_axis: The outputs' axis of classes: 1 for (N, outputs …), 2 for an ensemble's (N, members, outputs …).

    Raises:
        DataError: No inputs, or outputs of different shapes.
    """
    if not len(inputs):
        raise DataError("parity needs at least one input")
    tolerance = TOLERANCE[candidate.precision] if tolerance is None else tolerance
    if isinstance(reference, np.ndarray):
        expected = np.asarray(reference, dtype=np.float64)
    else:
        expected = np.concatenate([reference(inputs[i : i + 1]) for i in range(len(inputs))]).astype(np.float64)
    found = np.concatenate([candidate(inputs[i : i + 1]) for i in range(len(inputs))]).astype(np.float64)
    if found.shape != expected.shape:
        raise DataError("two engines give outputs of different shapes", got=found.shape, expected=expected.shape)
    if len(inputs) > 1:
        found, expected = np.concatenate([found, candidate(inputs[:2])]), np.concatenate([expected, expected[:2]])
    finite = bool(np.isfinite(expected).all() and np.isfinite(found).all())
    scale = max(1.0, float(np.abs(expected).max())) if finite else 1.0
    difference = np.abs(found - expected) if finite else np.full(1, np.inf)
    agreement = _agreement(expected, found, class_axis, 2 * min(tolerance, TIE) * scale) if finite else 0.0
    return Parity(
        engine=candidate.name,
        precision=candidate.precision,
        cases=len(inputs),
        max_abs=float(difference.max()) if finite else None,
        mean_abs=float(difference.mean()) if finite else None,
        argmax_agreement=agreement,
        passed=bool(difference.max() <= tolerance * scale and agreement >= MIN_AGREEMENT),
        tolerance=float(tolerance),
    )


def _agreement(expected: NDArray[np.float64], found: NDArray[np.float64], axis: int, tie: float) -> float:
    """Share of positions that decide alike, up to ties."""
    if expected.shape[axis] == 1:
        return float((((expected > 0) == (found > 0)) | (np.abs(expected) <= tie)).mean())
    chosen = np.argmax(found, axis=axis, keepdims=True)
    lead = expected.max(axis=axis, keepdims=True) - np.take_along_axis(expected, chosen, axis=axis)
    return float((lead <= tie).mean())


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
