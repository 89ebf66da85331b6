"""Scores: whole images, several at a time, on the fastest engine that gives the same answer; then the decision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medmap import augment
from medmap.bundle import Bundle
from medmap.dataset import Case, Dataset
from medmap.decision import Decision
from medmap.errors import DataError, UsageError
from medmap.image import Image
from medmap.predict.accept import FailedCase, images_of, refuse_unlike, unlike
from medmap.prepare import Prepared, Recipe
from medmap.results import Prediction, Scores
from medmap.tasks.classify import Classify, ClassifySection

ENGINES = ("auto", "torch", "onnx", "openvino")
BATCH_VOXELS = 2**22
# A prepared voxel with what the networks make of it on the way: some hundred float32 numbers.
BYTES_PER_VOXEL = 512


class Predictor:
    """A bundle made ready: its engine open, its recipe at hand. Use as a context manager.

    Args:
        bundle: What answers.
        engine: ``auto`` (the fastest that passed parity at export), ``torch``, ``onnx`` or ``openvino``.
        device: ``cpu``, ``cuda`` or ``auto``.
        test_time_flips: Average over the mirrored views that training allowed; None: as the bundle's run says.

    Raises:
        UsageError: An engine the bundle has not passed on.
    """

    def __init__(
        self, bundle: Bundle, engine: str = "auto", device: str = "auto", test_time_flips: bool | None = None
    ) -> None:
        if engine not in ENGINES:
            raise UsageError("unknown engine", got=repr(engine), expected=", ".join(ENGINES))
        self.bundle = bundle
        self.recipes = [Recipe.from_json(member.recipe) for member in bundle.spec.members]
        self.decision: Decision = bundle.decision
        self._engine = bundle.engine(engine, device=device)  # type: ignore[arg-type]
        flips = tuple(bundle.spec.run.get("augment", {}).get("flip_axes", ()))
        self._views = augment.views(flips) if test_time_flips in (None, True) else ((),)
        kind = bundle.spec.kind or "multiclass"
        scale = tuple(bundle.spec.provenance.get("target_scale", (0.0, 1.0)))
        self.task = Classify(ClassifySection(), bundle.labels, kind, None, (float(scale[0]), float(scale[1])))

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.close()

    def prepared(self, image: Image) -> list[Prepared]:
        """The image as each distinct recipe's members see it; refused when the bundle is not for such images.

        Raises:
            DataError: Another modality, dimension or channel count than the bundle is for.
        """
        name = next(iter(self.bundle.spec.inputs))
        refuse_unlike(image, self.decision.accepts.get(name, {}))
        recipes = self.recipes[:1] if self.bundle.shared_recipe else self.recipes
        return [recipe.apply(image) for recipe in recipes]

    def logits(self, images: Sequence[list[Prepared]]) -> NDArray[np.float32]:
        """(cases, members × views, outputs) for prepared images."""
        tensors = [np.stack([p.tensors["image"] for p in one]) for one in images]
        batch = np.stack([t[0] for t in tensors] if self.bundle.shared_recipe else tensors)
        out = []
        for flips in self._views:
            axes = tuple(a + batch.ndim - len(self.recipes[0].section.shape) for a in flips)
            view = np.ascontiguousarray(np.flip(batch, axes)) if axes else batch
            out.append(self._engine(view))
        return np.concatenate(out, axis=1)

    def answer(self, case: str, images: dict[str, Image], logits: NDArray[np.float32]) -> Prediction:
        """The decoded, calibrated answer for one case's (members × views, outputs) logits."""
        scores = self.task.decode(logits, decision=self.decision)
        accepts = self.decision.accepts.get(next(iter(self.bundle.spec.inputs)), {})
        told = [unlike(image, accepts) for image in images.values()]
        warnings = tuple(w for image in images.values() for w in image.source.warnings) + tuple(t for t in told if t)
        grids = {name: image.geometry for name, image in images.items()}
        return Prediction(case, {"class": scores}, grids, self.bundle.digest, warnings)


def answered(
    bundles: Sequence[Bundle],
    dataset: Dataset,
    engine: str,
    device: str,
    memory_bytes: int | None,
    channels: Sequence[str] | None,
) -> Iterator[Prediction | FailedCase]:
    """Answers for every case of a dataset, in order, several cases at a time."""
    predictors = [Predictor(b, engine, device) for b in bundles]
    try:
        size = _batch_size(predictors, memory_bytes)
        cases = list(dataset)
        for start in range(0, len(cases), size):
            yield from _answer_batch(predictors, dataset, cases[start : start + size], channels)
    finally:
        for predictor in predictors:
            predictor.__exit__()


def answer(bundles: Sequence[Bundle], name: str, image: Image, engine: str, device: str) -> Prediction:
    """The answer for one image."""
    answers = []
    for one in bundles:
        with Predictor(one, engine, device) as predictor:
            numbers = predictor.logits([predictor.prepared(image)])
            answers.append(predictor.answer(name, {next(iter(one.spec.inputs)): image}, numbers[0]))
            last = predictor
    return answers[0] if len(answers) == 1 else _together(answers, last)


def _batch_size(predictors: Sequence[Predictor], memory_bytes: int | None = None) -> int:
    voxels = max(int(np.prod(r.section.shape)) * r.section.channels for p in predictors for r in p.recipes)
    limit = BATCH_VOXELS if memory_bytes is None else min(BATCH_VOXELS, memory_bytes // BYTES_PER_VOXEL)
    return max(1, min(256, limit // voxels))


def _answer_batch(
    predictors: Sequence[Predictor], dataset: Dataset, cases: Sequence[Case], channels: Sequence[str] | None = None
) -> Iterator[Prediction | FailedCase]:
    failed: dict[str, str] = {}
    images: dict[str, dict[str, Image]] = {}
    prepared: dict[str, list[list[Prepared]]] = {}
    for case in cases:
        try:
            images[case.id] = images_of(predictors[0].bundle, dataset, case, channels)
            image = next(iter(images[case.id].values()))
            prepared[case.id] = [p.prepared(image) for p in predictors]
        except DataError as error:
            failed[case.id] = str(error)
    good = [case.id for case in cases if case.id not in failed]
    each = [p.logits([prepared[name][n] for name in good]) for n, p in enumerate(predictors)] if good else []
    for case in cases:
        if case.id in failed:
            yield FailedCase(case.id, failed[case.id])
            continue
        row = good.index(case.id)
        answers = [p.answer(case.id, images[case.id], logits[row]) for p, logits in zip(predictors, each, strict=True)]
        yield answers[0] if len(answers) == 1 else _together(answers, predictors[0])


def _together(answers: Sequence[Prediction], predictor: Predictor) -> Prediction:
    """The average of several bundles' calibrated scores, with their spread."""
    each = [a.outputs["class"] for a in answers]
    scores = [s for s in each if isinstance(s, Scores)]
    values = np.mean([s.values for s in scores], axis=0)
    plain = [s.uncalibrated for s in scores if s.uncalibrated is not None]
    decided, abstained = predictor.task.decided(values, predictor.decision)
    together = Scores(
        scores[0].labels,
        values,
        scores[0].kind,
        calibrated=all(s.calibrated for s in scores),
        uncalibrated=np.mean(plain, axis=0) if plain else None,
        spread=np.std([s.values for s in scores], axis=0),
        decided=decided,
        abstained=abstained,
    )
    warnings = tuple(dict.fromkeys(w for a in answers for w in a.warnings))
    return Prediction(
        answers[0].case, {"class": together}, answers[0].source, "+".join(a.bundle for a in answers), warnings
    )
