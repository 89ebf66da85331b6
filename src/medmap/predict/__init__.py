"""A bundle's answer: prepare, run on the fastest engine that gives the same answer, decide, take it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from medmap.bundle import Bundle
from medmap.dataset import Case, Dataset, InputSpec, Ref, TaskName
from medmap.errors import UsageError
from medmap.image import Image
from medmap.predict import boxes, masks, scores
from medmap.predict.accept import FailedCase
from medmap.predict.examples import examples
from medmap.predict.masks import MaskView
from medmap.predict.scores import ENGINES
from medmap.read import read
from medmap.results import Prediction

ANSWERERS: dict[str, Any] = {"classify": scores, "detect": boxes, "segment": masks}  # task → how its bundles answer

__all__ = [
    "ENGINES",
    "FailedCase",
    "MaskView",
    "dataset_of_images",
    "examples",
    "predict",
    "predict_cases",
    "predict_masks",
]


Progress = Callable[[float, int], None]


def predict_cases(
    bundles: Sequence[Bundle],
    dataset: Dataset,
    *,
    engine: str = "auto",
    device: str = "auto",
    memory_bytes: int | None = None,
    channels: Sequence[str] | None = None,
    progress: Progress | None = None,
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
    answers = ANSWERERS[bundles[0].spec.task].answered(bundles, dataset, engine, device, memory_bytes, channels)
    yield from _told(answers, len(dataset), progress)


def predict_masks(
    bundles: Sequence[Bundle],
    dataset: Dataset,
    view: MaskView,
    *,
    engine: str = "auto",
    device: str = "auto",
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Prediction | FailedCase]:
    """Masks for every case of a dataset, as ``predict_cases``, looked for as a view says.

    Args:
        bundles, dataset, engine, device, memory_bytes: As in ``predict_cases``.
        progress: Called with (done, of) cases, window by window: of the one in progress a share is done.
        view: Within what a coarse bundle finds, mirrored, with uncertainty.

    Raises:
        UsageError: Bundles of something else than masks, or that cannot answer so.
    """
    _require_alike(bundles)
    if (task := bundles[0].spec.task) != "segment":
        raise UsageError("masks alone are looked for within a box, mirrored, or with their uncertainty", got=task)
    done, count = 0, len(dataset)
    if progress is not None:
        view = replace(view, told=lambda part: progress(done + part, count))
    for answer in masks.answered(bundles, dataset, engine, device, memory_bytes, None, view):
        yield answer
        done += 1
        if progress is not None:
            progress(done, count)


def _told(
    answers: Iterator[Prediction | FailedCase], count: int, progress: Progress | None
) -> Iterator[Prediction | FailedCase]:
    for done, answer in enumerate(answers, start=1):
        yield answer
        if progress is not None:
            progress(done, count)


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
        if len(first.inputs) > 1 and list(other.spec.inputs) != list(first.inputs):
            raise UsageError(
                "the bundles take their inputs in different orders",
                got=list(other.spec.inputs),
                expected=list(first.inputs),
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
    answer: Prediction = ANSWERERS[bundles[0].spec.task].answer(bundles, name, image, engine, device)
    return answer


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
    task = cast("TaskName", bundle.spec.task)
    return Dataset("files", task, cases, inputs, bundle.labels, kind, positive=bundle.spec.positive)
