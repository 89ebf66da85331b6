"""What a detector's bundle says of its task, and whether two engines find the same boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case, Ref
from medmap.decision import Decision
from medmap.geometry import Geometry
from medmap.metrics import box_iou
from medmap.tasks.box_reading import Found, decided
from medmap.tasks.detect import Detect, DetectSection

if TYPE_CHECKING:
    from medmap.bundle.stored import Bundle

SAME = 0.95  # IoU of two boxes that are the same
LEAST_SAME = 0.99  # share of boxes that must be the same where no truth is known
LEAST_SAME_BESIDE_TRUTH = 0.95  # and where one is, that says what the others cost
NEARLY = 0.05  # score that a box may lack to be called where the other engine calls it
MAX_AP50_DROP = 0.002
REPORTED = 0.3  # score from which a box counts here, where the bundle has no operating point


def task_of(bundle: Bundle) -> Detect:
    """The detection that a bundle was trained for, as its run and its first member's network say."""
    from medmap.networks import NetworkSpec

    section = DetectSection.model_validate(bundle.spec.run.get("task", {"kind": "detect"}))
    return Detect(section, bundle.labels, NetworkSpec(**bundle.spec.members[0].network))


class BoxLikeness:
    """The share of boxes that two engines agree on, and what one of them loses of AP50 against the truth.

    Args:
        task: What makes boxes of numbers.
        decision: Says which boxes are reported.
    """

    def __init__(self, task: Detect, decision: Decision) -> None:
        self._task, self._decision = task, decision
        self._same, self._reported = 0, 0
        self._pairs: list[tuple[Found, Found, NDArray[np.float32]]] = []

    @classmethod
    def of(cls, bundle: Bundle) -> BoxLikeness:
        """The likeness for a bundle's engines."""
        task = task_of(bundle)
        decision = bundle.decision
        return cls(task, decision if decision.thresholds else decision.with_(thresholds=(REPORTED,) * task.outputs))

    def again(self) -> BoxLikeness:
        """The same question, with nothing gathered yet."""
        return BoxLikeness(self._task, self._decision)

    def add(self, expected: NDArray[Any], found: NDArray[Any], truth: Any | None) -> None:
        """Gather the (N, members, places, numbers) of both, and the boxes in each input where they are known."""
        for number, both in enumerate(zip(expected, found, strict=True)):
            theirs, ours = (self._task.reading.of_patch(numbers) for numbers in both)
            grid = Geometry.without_size(self._task.patch)
            each = [decided(self._task.boxes(one, grid), self._decision) for one in (theirs, ours)]
            for one, other in (each, each[::-1]):
                reported = one.taken(one.called)
                nearly = other.taken(other.scores >= np.asarray(other.thresholds)[other.label_ids] - NEARLY)
                shared = box_iou(reported.corners, nearly.corners)
                shared = np.where(reported.label_ids[:, None] == nearly.label_ids[None], shared, 0)
                self._same += int((shared.max(1, initial=0) >= SAME).sum())
                self._reported += len(reported.scores)
            if truth is not None:
                self._pairs.append((theirs, ours, truth[number]))

    def result(self) -> dict[str, Any]:
        """``boxes_matched`` of those that either engine reports, and ``ap50_drop`` (of volumes the drop of AP10)."""
        matched = self._same / self._reported if self._reported else None
        drop = None
        if any((truth[:, 2 * self._task.spec.dimensions] > 0).any() for _, _, truth in self._pairs):
            cases = [Case(str(n), str(n), {"image": Ref("")}) for n in range(len(self._pairs))]
            theirs = self._task.score([(found, truth) for found, _, truth in self._pairs], cases)
            ours = self._task.score([(found, truth) for _, found, truth in self._pairs], cases)
            drop = theirs.value - ours.value
        return {"boxes_matched": matched, "ap50_drop": drop}

    @property
    def decides(self) -> bool:
        """Proposals that are as sure as each other may change places."""
        return self._task.spec.two_stage

    def passed(self) -> bool | None:
        """By the boxes that both report, and by the AP50 lost where a truth is known."""
        found = self.result()
        matched, drop = found["boxes_matched"], found["ap50_drop"]
        if matched is None:
            return True if self.decides else None
        if drop is None:
            return bool(matched >= LEAST_SAME)
        return bool(matched >= LEAST_SAME_BESIDE_TRUTH and drop <= MAX_AP50_DROP)
