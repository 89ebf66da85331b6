"""Boxes: an image at a time through windows, all members' and views' answers made one, back on the source's grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from medmap import augment
from medmap.bundle import Bundle
from medmap.bundle.boxes import task_of
from medmap.dataset import Case, Dataset
from medmap.errors import LimitError, UsageError
from medmap.image import Image
from medmap.predict.accept import FailedCase, images_of, refuse_unlike, unlike
from medmap.predict.ahead import in_order
from medmap.prepare import Prepared, Recipe
from medmap.results import Prediction
from medmap.runtime import Windows, passing_bytes, rss_bytes
from medmap.tasks.box_reading import WINDOWS_AT_ONCE, Found, decided
from medmap.tasks.detect import Detect

Ready = tuple[dict[str, Image], list[Prepared]]


class Predictor:
    """Bundles made ready to answer together. Use as a context manager.

    Args:
        bundles: What answers; each with its own preparation, boxes of all of them are fused on the image's grid.
        engine: ``auto`` (the fastest that passed parity at export), ``torch``, ``onnx`` or ``openvino``.
        device: ``cpu``, ``cuda`` or ``auto``.
        memory_bytes: The most the process may take; None: as much as it needs.
        test_time_flips: Answer for the mirrored views that training allowed, too; None: as the bundle's run says.

    Raises:
        UsageError: A bundle whose members prepare images differently.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        engine: str = "auto",
        device: str = "auto",
        memory_bytes: int | None = None,
        test_time_flips: bool | None = None,
    ) -> None:
        for bundle in bundles:
            if len({Recipe.from_json(member.recipe).digest for member in bundle.spec.members}) > 1:
                raise UsageError("the members of a detector prepare images in one way", got=str(bundle.path))
        self.bundles = tuple(bundles)
        self.recipes = [Recipe.from_json(bundle.spec.members[0].recipe) for bundle in bundles]
        self.tasks = [task_of(bundle) for bundle in bundles]
        self._engines = [b.engine(engine, device=device, precision="auto") for b in bundles]  # type: ignore[arg-type]
        self._views = [_views(*one, test_time_flips) for one in zip(bundles, self.tasks, strict=True)]
        self._memory_bytes, self._passing_bytes = memory_bytes, 0
        if memory_bytes is not None:  # one batch is run, so that what the engines take for it is known
            for recipe, engine_ in zip(self.recipes, self._engines, strict=True):
                seen = recipe.section
                nothing = np.zeros((WINDOWS_AT_ONCE, seen.channels, *seen.shape), dtype=np.float32)
                self._passing_bytes = max(self._passing_bytes, passing_bytes(partial(engine_, nothing)))

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        for engine in self._engines:
            engine.close()

    def prepared(self, images: dict[str, Image]) -> Ready:
        """A case as each bundle's networks see it; refused when the bundle is not for such images.

        Raises:
            DataError: Another modality, dimension or channel count than the bundle is for.
        """
        ((name, image),) = images.items()
        refuse_unlike(image, self.bundles[0].decision.accepts.get(name, {}))
        return images, [recipe.apply(image) for recipe in self.recipes]

    def _windows(self, task: Detect, pixels: NDArray[np.float32]) -> Windows:
        """Windows of which so many are looked at together as fit the memory.

        Raises:
            LimitError: Not even one does.
        """
        windows = task.reading.windows(pixels)
        if self._memory_bytes is None:
            return windows
        held = rss_bytes() + (pixels.nbytes if any(len(views) > 1 for views in self._views) else 0)
        each = self._passing_bytes / WINDOWS_AT_ONCE
        fitting = int((self._memory_bytes - held) // max(1.0, each))
        if fitting < 1:
            needed = (held + each) / 2**30
            raise LimitError(
                "this image does not fit into the memory that was allowed",
                got=f"{needed:.1f} GiB are needed",
                expected=f"at most {self._memory_bytes / 2**30:.1f} GiB",
                remedy=f"allow {needed + 0.1:.1f} GiB",
            )
        return replace(windows, batch=min(windows.batch, fitting))

    def answer(self, case: str, ready: Ready) -> Prediction:
        """The boxes of one case on its own grid, those below the operating point among them.

        Raises:
            LimitError: It does not fit the memory.
        """
        images, prepared = ready
        ((name, image),) = images.items()
        each: list[Found] = []
        calibrated = True
        parts = zip(self.bundles, self.tasks, self._engines, self._views, prepared, strict=True)
        for bundle, task, engine, views, one in parts:
            pixels = one.tensors["image"]
            found = task.reading.viewed(engine, pixels, views, self._windows(task, pixels))
            # what one bundle's score means is its own to say, before several are put together
            boxes = decided(task.boxes(found, one.trace.target).moved(one.trace).inside(), bundle.decision)
            calibrated &= boxes.calibrated
            each.append(Found(boxes.corners, boxes.scores, boxes.label_ids))
        together = self.tasks[0].reading.fused(each)
        decision = self.bundles[0].decision
        told = unlike(image, decision.accepts.get(name, {}))
        warnings = (*image.source.warnings, *([told] if told else []))
        boxes = self.tasks[0].boxes(together, image.geometry)
        boxes = replace(boxes, thresholds=decision.thresholds, calibrated=calibrated)
        digest = "+".join(bundle.digest for bundle in self.bundles)
        return Prediction(case, {"boxes": boxes}, {name: image.geometry}, digest, warnings)


def _views(bundle: Bundle, task: Detect, asked: bool | None) -> tuple[tuple[int, ...], ...]:
    """The mirrored views in which a bundle looks at an image, by its own run."""
    flips = tuple(bundle.spec.run.get("augment", {}).get("flip_axes", ()))
    return augment.views(flips) if (task.section.views if asked is None else asked) else ((),)


def answered(
    bundles: Sequence[Bundle],
    dataset: Dataset,
    engine: str,
    device: str,
    memory_bytes: int | None,
    channels: Sequence[str] | None,
) -> Iterator[Prediction | FailedCase]:
    """Boxes for every case of a dataset, in order; the next case is read meanwhile, where memory is not limited."""
    with Predictor(bundles, engine, device, memory_bytes) as predictor:

        def ready(case: Case) -> Ready:
            return predictor.prepared(images_of(bundles[0], dataset, case, channels))

        yield from in_order(list(dataset), ready, predictor.answer, ahead=memory_bytes is None)


def answer(bundles: Sequence[Bundle], name: str, image: Image, engine: str, device: str) -> Prediction:
    """The boxes for one image."""
    with Predictor(bundles, engine, device) as predictor:
        return predictor.answer(name, predictor.prepared({next(iter(bundles[0].spec.inputs)): image}))
