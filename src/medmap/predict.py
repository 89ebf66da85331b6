"""A bundle's answer: prepare, run on the fastest engine that gives the same answer, decide, take it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap import augment
from medmap.bundle import Bundle
from medmap.dataset import Case, Dataset, InputSpec, Ref
from medmap.decision import Decision
from medmap.errors import DataError, UsageError
from medmap.image import Image
from medmap.prepare import Prepared, Recipe
from medmap.read import read, read_ref
from medmap.results import Prediction, Scores
from medmap.tasks.classify import Classify, ClassifySection

ENGINES = ("auto", "torch", "onnx", "openvino")
BATCH_VOXELS = 2**22
# A prepared voxel with what the networks make of it on the way: some hundred float32 numbers.
BYTES_PER_VOXEL = 512


@dataclass(frozen=True)
class FailedCase:
    """A case without an answer, and why."""

    case: str
    reason: str


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


# Radiographs by either technique answer to one name.
SAME_MODALITY = {"DX": "CR", "RG": "CR"}


def refuse_unlike(image: Image, accepts: Mapping[str, Any]) -> None:
    """Refuse an image that the bundle is not for; what either side does not state is not compared.

    Raises:
        DataError: Another modality, number of dimensions, or a voxel spacing far from all seen in training.
    """
    wanted, have = accepts.get("modality"), image.source.modality
    if wanted and have and SAME_MODALITY.get(wanted, wanted) != SAME_MODALITY.get(have, have):
        raise DataError("the bundle is not for such images", got=have, expected=wanted)
    if accepts.get("ndim") and image.ndim != accepts["ndim"]:
        raise DataError("the bundle is not for such images", got=f"{image.ndim}-D", expected=f"{accepts['ndim']}-D")
    limits = accepts.get("spacing_mm")
    if limits and image.geometry.has_size:
        low, high = min(image.spacing_mm), max(image.spacing_mm)
        if low < limits[0] or high > limits[1]:
            raise DataError(
                "the bundle is not for images of such spacing",
                got=f"{low:.3g} to {high:.3g} mm",
                expected=f"{limits[0]:.3g} to {limits[1]:.3g} mm",
            )


def unlike(image: Image, accepts: Mapping[str, Any]) -> str | None:
    """A sentence when an image's values mean something else than those the bundle learned from."""
    known = accepts.get("quantities")
    if not known or image.quantity in known or "unknown" in (*known, image.quantity):
        return None
    return (
        f"the image's values are {image.quantity}, the bundle learned from {', '.join(known)}: do not trust the scores"
    )


def predict_cases(
    bundles: Sequence[Bundle],
    dataset: Dataset,
    *,
    engine: str = "auto",
    device: str = "auto",
    memory_bytes: int | None = None,
    channels: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Prediction | FailedCase]:
    """Answers for every case of a dataset, in order; a case that cannot be read fails alone.

    Args:
        bundles: One, or several that answer together (their calibrated scores are averaged).
        dataset: Cases; their truth is not looked at.
        engine, device: As in ``Predictor``.
        memory_bytes: About what a batch may take; limits how many cases are answered together, never the answers.
        channels: Names of the images' channels to take, in the bundle's order; None: as they are.
        progress: Called with (done, of).

    Raises:
        UsageError: No bundle, or bundles with other classes than each other.
    """
    _require_alike(bundles)
    predictors = [Predictor(b, engine, device) for b in bundles]
    try:
        size = _batch_size(predictors, memory_bytes)
        cases = list(dataset)
        for start in range(0, len(cases), size):
            part = cases[start : start + size]
            yield from _answer_batch(predictors, dataset, part, channels)
            if progress is not None:
                progress(start + len(part), len(cases))
    finally:
        for predictor in predictors:
            predictor.__exit__()


def _require_alike(bundles: Sequence[Bundle]) -> None:
    if not bundles:
        raise UsageError("there is no bundle to answer")
    first = bundles[0].spec
    for other in bundles[1:]:
        if (other.spec.labels, other.spec.kind, other.spec.task) != (first.labels, first.kind, first.task):
            raise UsageError(
                "the bundles do not answer the same question",
                got=[label.name for label in other.spec.labels],
                expected=[label.name for label in first.labels],
            )


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
            images[case.id] = _images(predictors[0], dataset, case, channels)
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


def _images(
    predictor: Predictor, dataset: Dataset, case: Case, channels: Sequence[str] | None = None
) -> dict[str, Image]:
    name = next(iter(dataset.inputs))
    ref = case.inputs.get(name)
    if ref is None:
        raise DataError("the input was not acquired", got=f"no {name}", case=case.id)
    image = read_ref(dataset, ref)
    return {next(iter(predictor.bundle.spec.inputs)): image.select(channels) if channels else image}


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


def predict(
    bundle: Bundle | Sequence[Bundle], source: Any, *, engine: str = "auto", device: str = "auto"
) -> Prediction:
    """The answer for one image: a file, a folder with one image, or an ``Image``.

    Args:
        bundle: One, or several that answer together.
        source: Path or ``Image``.
        engine, device: As in ``Predictor``.

    Raises:
        DataError: The image cannot be read or is not what the bundle is for.
    """
    bundles = [bundle] if isinstance(bundle, Bundle) else list(bundle)
    _require_alike(bundles)
    image = source if isinstance(source, Image) else read(source)
    name = Path(image.source.path).name or "image"
    answers = []
    for one in bundles:
        with Predictor(one, engine, device) as predictor:
            numbers = predictor.logits([predictor.prepared(image)])
            answers.append(predictor.answer(name, {next(iter(one.spec.inputs)): image}, numbers[0]))
            last = predictor
    return answers[0] if len(answers) == 1 else _together(answers, last)


def dataset_of_images(images: Sequence[tuple[str, Ref]], bundle: Bundle) -> Dataset:
    """Images as an unlabelled dataset in a bundle's terms.

    Args:
        images: Name of a case and where its image is, each name once.
        bundle: Says what the input is called and which classes there are.

    Raises:
        UsageError: No image.
    """
    if not images:
        raise UsageError("there is no image to predict")
    name = next(iter(bundle.spec.inputs))
    cases = tuple(Case(case, case, {name: ref}) for case, ref in images)
    inputs = {name: InputSpec(bundle.spec.inputs[name].modality)}
    kind = bundle.spec.kind or "multiclass"
    return Dataset("files", "classify", cases, inputs, bundle.labels, kind, positive=bundle.spec.positive)
