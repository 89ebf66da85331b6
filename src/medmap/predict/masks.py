"""Masks: an image at a time through sliding windows, all members' scores averaged, decided on the source's grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from medmap.bundle import Bundle
from medmap.dataset import Case, Dataset
from medmap.decision import ExpectedDice
from medmap.errors import BundleError, UsageError, counted
from medmap.geometry import Trace
from medmap.image import Image
from medmap.predict.accept import FailedCase, images_of, refuse_unlike, unlike
from medmap.predict.ahead import in_order
from medmap.predict.within import AROUND_BODY_MM, box_of, box_on_prepared, foreground_of
from medmap.prepare import Prepared, Recipe
from medmap.results import Mask, Output, Picture, Prediction
from medmap.runtime import Box, passing_bytes, plan_memory, rss_bytes
from medmap.tasks.segment import WINDOWS_AT_ONCE, Looking, Segment, SegmentSection, voxel_size
from medmap.tasks.structures import Structures

MARGIN_MM = 10.0  # around what a coarse mask found, where nothing else is asked for
Ready = tuple[dict[str, Image], Prepared]


@dataclass(frozen=True)
class MaskView:
    """How masks are looked for, beyond what their bundles say.

    Args:
        within: Bundles of a coarse mask of the same images: only the box of what they find is looked at. Without them
            bundles that hold coarse ones of their own look where these find something, as they were trained.
        margin_mm: Around the box that ``within`` finds, on every side; in voxels where an image states no size.
        mirror: Whether scores are averaged over views mirrored along the axes that training mirrored
            (``augment.flip_axes`` of the run): twice the time an axis.
        uncertainty: Whether a prediction has ``uncertainty`` beside ``mask``: at each voxel the entropy of the averaged
            scores in parts of the largest possible one, of overlapping regions the largest; 0 where nobody looked.
        whole: Whether a volume is looked at as a whole, and neither where a coarse bundle says nor within the box of
            what is no background; without ``within``.
        told: Called with the share of the case in progress that is done, 0 to 1; no part of how masks are looked for.

    Raises:
        UsageError: A margin below 0; the whole volume and the part that a coarse bundle finds at once.
    """

    within: tuple[Bundle, ...] = ()
    margin_mm: float = MARGIN_MM
    mirror: bool = False
    uncertainty: bool = False
    whole: bool = False
    told: Callable[[float], None] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.margin_mm < np.inf:
            raise UsageError("a margin is a length", got=self.margin_mm, expected="0 mm or more")
        if self.whole and self.within:
            raise UsageError("either the whole volume is looked at or what a coarse bundle finds", got="both")

    def as_json(self) -> dict[str, Any]:
        """What is asked for beyond the plain view; the coarse bundles by their digests."""
        margin = {"margin_mm": self.margin_mm} if self.within else {}
        asked = {name: True for name in ("mirror", "uncertainty", "whole") if getattr(self, name)}
        return {**({"within": [b.digest for b in self.within]} if self.within else {}), **margin, **asked}


def task_of(bundle: Bundle, shape: tuple[int, ...]) -> Segment:
    """The task of a bundle of masks.

    Args:
        bundle: Its labels are the classes, or the regions that its provenance states the values of.
        shape: Voxels along each axis of what the network sees.

    Raises:
        BundleError: Regions that are not those of its labels.
    """
    section = _section(bundle)
    regions = bundle.spec.provenance.get("regions") or {}
    names = [label.name for label in bundle.labels]
    sound = isinstance(regions, dict) and all(
        isinstance(some, list) and some and all(type(value) is int for value in some) for some in regions.values()
    )
    if not sound or (regions and list(regions) != names):
        raise BundleError(f"{bundle.path} states regions that are not its own", got=regions, expected=names)
    values = {name: tuple(some) for name, some in regions.items()}
    return Segment(section, bundle.labels, shape, regions=values)


def _section(bundle: Bundle) -> SegmentSection:
    """How a bundle was trained.

    Raises:
        BundleError: It states none.
    """
    try:
        return SegmentSection.model_validate(bundle.spec.run.get("task", {"kind": "segment"}))
    except ValidationError as error:
        raise BundleError(
            f"{bundle.path} states no task of masks", got=f"{bundle.spec.run.get('task')!r:.200}"
        ) from error


def _where_to_look(bundles: Sequence[Bundle], view: MaskView) -> tuple[tuple[Bundle, ...], float]:
    """The bundles that say where to look, and how far around, mm: those asked for, else the bundles' own coarse ones.

    Raises:
        UsageError: Some were trained coarse to fine and others not, or to look further around.
    """
    if view.within or view.whole or not any(bundle.coarse for bundle in bundles):
        return view.within, view.margin_mm
    coarse = tuple(bundle.coarse for bundle in bundles if bundle.coarse is not None)
    margins = {_section(bundle).around_mm for bundle in bundles}
    if len(coarse) < len(bundles) or len(margins) > 1:
        raise UsageError(
            "the bundles were trained to look in different places",
            got=f"{len(coarse)} of {len(bundles)} with a coarse network, around_mm {sorted(margins)}",
            remedy="say where to look with --within, or --whole for everywhere",
        )
    return coarse, margins.pop()


class Predictor:
    """Bundles made ready to answer together. Use as a context manager.

    Args:
        bundles: What answers; the mean of all their members' scores counts.
        engine: ``auto`` (the fastest that passed parity at export), ``torch``, ``onnx`` or ``openvino``.
        device: ``cpu``, ``cuda`` or ``auto``.
        memory_bytes: The most the process may take; None: as much as it needs.
        view: Where and how to look.

    Raises:
        UsageError: Bundles whose images are prepared in different ways; a coarse bundle that gives no mask or takes
            other inputs; mirrored views of networks that did not learn from any.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        engine: str = "auto",
        device: str = "auto",
        memory_bytes: int | None = None,
        view: MaskView | None = None,
    ) -> None:
        self.view = view or MaskView()
        recipes = {Recipe.from_json(member.recipe).digest for bundle in bundles for member in bundle.spec.members}
        if len(recipes) > 1:
            raise UsageError("masks of bundles that prepare images differently are not averaged yet", got=len(recipes))
        self.bundles = tuple(bundles)
        first = bundles[0]
        self.recipe = Recipe.from_json(first.spec.members[0].recipe)
        self.task = task_of(first, self.recipe.section.shape)
        self._engines = [b.engine(engine, device=device, precision="auto") for b in bundles]  # type: ignore[arg-type]
        numbers = {label.name: number for number, label in self.task.structures.named.items()}
        rules = first.decision.component_rules
        if strange := sorted(rules.keys() - numbers.keys()):
            raise BundleError(
                f"{first.path} has rules for structures that it does not have", got=", ".join(strange),
                expected=", ".join(numbers),
            )  # fmt: skip
        self._rules = {numbers[name]: rule for name, rule in rules.items() if name in numbers}
        self._expected = ExpectedDice.from_json(first.decision.expected_dice)
        self._modality = next(iter(first.spec.inputs.values())).modality
        self._mirror = _mirrored(bundles) if self.view.mirror else ()
        self._coarse: Predictor | None = None
        within, self._margin_mm = _where_to_look(bundles, self.view)
        if within:
            _require_coarse(within, first)
            self._coarse = Predictor(within, engine, device, memory_bytes)
        self._memory_bytes, self._passing_bytes = memory_bytes, 0
        if memory_bytes is not None:  # one batch is run, so that what the engines take for it is known
            seen = self.recipe.section
            nothing = np.zeros((WINDOWS_AT_ONCE, seen.channels, *seen.shape), dtype=np.float32)
            self._passing_bytes = passing_bytes(partial(self.scores, nothing))

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        for engine in self._engines:
            engine.close()
        if self._coarse is not None:
            self._coarse.__exit__()

    def prepared(self, images: dict[str, Image]) -> Ready:
        """A case as the network sees it; refused when the bundle is not for such images.

        Raises:
            DataError: Another modality, dimension or channel count than the bundle is for.
        """
        ((name, image),) = images.items()
        refuse_unlike(image, self.bundles[0].decision.accepts.get(name, {}))
        return images, self.recipe.apply(image)

    def scores(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(batch, classes, patch …) mean over all members."""
        parts = [engine(batch).sum(axis=1) for engine in self._engines]
        members = sum(len(bundle.spec.members) for bundle in self.bundles)
        return np.asarray(sum(parts) / members, dtype=np.float32)

    def _looking(self, pixels: NDArray[np.float32], trace: Trace, inside: Box | None) -> Looking:
        """Windows that fit the memory.

        Raises:
            LimitError: They do not, even one at a time; the message says what is needed.
        """
        windows = replace(self.task.windows(pixels), mirror=self._mirror)
        doubt, limit = self.view.uncertainty, self._memory_bytes
        if limit is not None:
            held = max(0, rss_bytes() - pixels.nbytes) + self._passing_bytes
            sinks = self.task.structures.sinks(trace, doubt)
            planned = partial(plan_memory, windows, pixels.shape, self.task.outputs, sinks)
            windows = planned(inside=inside, held_bytes=held, limit_bytes=limit).windows
        return Looking(windows, inside, doubt, self._told)

    def _told(self, done: int, total: int) -> None:
        if self.view.told is not None:
            self.view.told(done / max(1, total))

    def _inside(self, images: dict[str, Image], trace: Trace) -> tuple[Box | None, str | None]:
        """Where to look: within what the coarse bundles found, else where there is no background; and a warning."""
        (image,) = images.values()
        if self._coarse is None:
            body = None if self.view.whole else foreground_of(image, self._modality)
            return None if body is None else box_on_prepared(body, trace, AROUND_BODY_MM), None
        given = {next(iter(self._coarse.bundles[0].spec.inputs)): image}
        coarse = self._coarse.answer("", self._coarse.prepared(given)).outputs["mask"]
        ends = box_of(coarse) if isinstance(coarse, Mask) else None
        box = None if ends is None else box_on_prepared(ends, trace, self._margin_mm)
        return box, None if box else "the coarse bundle found nothing: the whole image was looked at"

    def answer(self, case: str, ready: Ready) -> Prediction:
        """The mask of one case on its own grid, and its uncertainty where that is wanted.

        Raises:
            LimitError: It does not fit the memory.
        """
        images, prepared = ready
        ((name, image),) = images.items()
        pixels, grid = prepared.tensors["image"], image.geometry
        inside, lost = self._inside(images, prepared.trace)
        how = self._looking(pixels, prepared.trace, inside)
        seen = self.task.seen(self.scores, pixels, prepared.trace, how)
        kept = self.task.structures.kept(seen.mask, self._rules, voxel_size(grid))
        told = unlike(image, self.bundles[0].decision.accepts.get(name, {}))
        gone = _vanished(self.task.structures, self._rules, seen.mask, kept)
        warnings = (*image.source.warnings, *(words for words in (told, lost) if words), *gone)
        outputs: dict[str, Output] = {"mask": self.task.structures.mask(kept, grid)}
        if seen.uncertainty is not None:
            outputs["uncertainty"] = Picture(Image(seen.uncertainty, grid, "probability"))
        digest = "+".join(bundle.digest for bundle in (*self.bundles, *self.view.within))
        said = seen.expected_dice if np.any(kept) else None  # of what was found; nothing is left to be sure of
        expected = None if self._expected is None or said is None else self._expected.of(said)
        return Prediction(case, outputs, {name: grid}, digest, warnings, expected, said)


def _vanished(structures: Structures, rules: Iterable[int], found: NDArray[Any], kept: NDArray[Any]) -> list[str]:
    """A sentence for each structure of which the rules for connected parts left nothing."""
    if kept is found:
        return []
    return [
        f"{structures.named[number].name}: all that was found was dropped, {counted(int(before.sum()), 'voxel')} in "
        "parts smaller than any that training kept"
        for number in rules
        if (before := structures.one(found, number)).any() and not structures.one(kept, number).any()
    ]


def _mirrored(bundles: Sequence[Bundle]) -> tuple[int, ...]:
    """Axes along which every bundle learned from mirrored images.

    Raises:
        UsageError: There is none.
    """
    told = [bundle.spec.run.get("augment") for bundle in bundles]
    each = [set(section.get("flip_axes") or ()) if isinstance(section, dict) else set() for section in told]
    if not (axes := set.intersection(*each)):
        raise UsageError(
            "the networks did not learn from mirrored images",
            got="augment.flip_axes: none",
            remedy="leave --mirror out, or train with augment.flip_axes where anatomy allows it",
        )
    return tuple(sorted(axes))


def _require_coarse(coarse: Sequence[Bundle], fine: Bundle) -> None:
    for bundle in coarse:
        if bundle.spec.task != "segment":
            raise UsageError("what says where to look gives masks", got=bundle.spec.task, expected="segment")
        ours, theirs = list(fine.spec.inputs), list(bundle.spec.inputs)
        if len(ours) != len(theirs) or (len(ours) > 1 and ours != theirs):
            raise UsageError("the coarse bundle takes other inputs, or in another order", got=theirs, expected=ours)


def answered(
    bundles: Sequence[Bundle],
    dataset: Dataset,
    engine: str,
    device: str,
    memory_bytes: int | None,
    channels: Sequence[str] | None,
    view: MaskView | None = None,
) -> Iterator[Prediction | FailedCase]:
    """Masks for every case of a dataset, in order; the next case is read meanwhile, where memory is not limited."""
    with Predictor(bundles, engine, device, memory_bytes, view) as predictor:

        def ready(case: Case) -> Ready:
            return predictor.prepared(images_of(bundles[0], dataset, case, channels))

        yield from in_order(list(dataset), ready, predictor.answer, ahead=memory_bytes is None)


def answer(bundles: Sequence[Bundle], name: str, image: Image, engine: str, device: str) -> Prediction:
    """The mask for one image."""
    with Predictor(bundles, engine, device) as predictor:
        return predictor.answer(name, predictor.prepared({next(iter(bundles[0].spec.inputs)): image}))
