"""What is the segmentation's own in a training: cases with masks, the masks of judged cases, their evaluation."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.config import write_atomically
from medmap.dataset import Case, Dataset
from medmap.decision import (
    ComponentRule,
    Decision,
    ExpectedDice,
    Parts,
    fit_expected_dice,
    fit_rule,
)
from medmap.errors import DataError, counted
from medmap.evaluate import Circumstances, Failure, Report, report_from_masks
from medmap.feed import PatchStore, Progress, build_patch_store
from medmap.fit import FitState, forwarding
from medmap.plan import Run
from medmap.prepare import Recipe
from medmap.read import read_ref
from medmap.results import Mask
from medmap.tasks.segment import Looking, Seen, voxel_size
from medmap.train.cascade import JUDGED, write_rules
from medmap.train.events import Event
from medmap.train.members import Member
from medmap.train.parts import Concluded, accepted, flow_of

if TYPE_CHECKING:
    import torch

    from medmap.train.parts import Trained, Work


def store(run: Run, dataset: Dataset, recipe: Recipe, folder: Path, progress: Progress) -> PatchStore:
    """Every case with its mask, prepared once; of the test cases training looks at the hashes alone.

    Raises:
        DataError: No mask holds a structure.
    """
    made = build_patch_store(dataset, recipe, memory_bytes=run.memory_bytes, folder=folder, progress=progress)
    if not any(row.places for row in made.prepared if row.case.split != "test"):
        raise DataError(
            f"every mask of {dataset.name} is empty: there is nothing to learn",
            remedy="look at the masks with medmap check; values that are ignored are no structures",
        )
    return made


def doubts(dataset: Dataset) -> tuple[str, ...]:
    """Nothing is said of truths beyond what `medmap check` says."""
    return ()


def learned(work: Work, member: Member, state: FitState) -> dict[str, torch.Tensor]:
    """Nothing to keep with the member: the mask of each case that judges it, on its own grid, becomes a file."""
    folder = work.output / JUDGED
    folder.mkdir(parents=True, exist_ok=True)
    with forwarding(state.fabric, state.judged, work.run.fit) as forward:
        for done, row in enumerate(member.judge):
            found = work.store.prepared[int(row)]
            inside = found.judged_inside
            pixels = np.asarray(found.image, dtype=np.float32)
            seen = work.task.seen(forward, pixels, found.trace, Looking(inside=inside))
            write_atomically(folder / _file(int(row), member), _packed(found.case.id, seen))
            work.listen(Event("progress", f"network {member.number + 1}, its cases", done + 1, len(member.judge)))
    return {}


def _file(row: int, member: Member) -> str:
    return f"{row:06d}_{member.number:03d}.npz"


def _packed(case: str, seen: Seen) -> bytes:
    """The mask, and the Dice that its probabilities say (NaN for no structure)."""
    buffer = io.BytesIO()
    said = np.float64(np.nan if seen.expected_dice is None else seen.expected_dice)
    np.savez_compressed(buffer, labels=seen.mask, said=said, case=np.str_(case))
    return buffer.getvalue()


def parity_examples(work: Work, rows: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(rows, channels, patch …) patches on which engines are compared, and their truth."""
    images, truths = work.task.examples(work.store, rows, work.run.seed)
    return images, truths


def provenance(work: Work) -> dict[str, Any]:
    """The regions, where structures overlap: which values of a true mask each is made of."""
    regions = {name: list(values) for name, values in work.task.regions.items()}
    return {"regions": regions} if regions else {}


def concluded(work: Work, done: Sequence[Trained]) -> Concluded:
    """The evaluation of cases that the networks did not learn from, each by the first network that judged it."""
    how = "out of fold" if work.run.ensemble.folds else "validation split"
    first: dict[int, Member] = {}
    for one in done:
        for row in one.member.judge:
            if work.coarse is None or work.store.cases[int(row)].id in work.coarse.boxes:
                first.setdefault(int(row), one.member)
    fitted_on = {"cases": len(first), "how": how if first else "nothing"}
    decision = Decision(accepts=accepted(work), fitted_on=fitted_on)
    if not first:
        return Concluded(decision, ("no validation case: nothing was judged",), None)
    parts = _parts(work, first)
    rules, of_fold = _components(work, first, parts)
    named = work.task.structures.named
    write_rules(work.output, {work.store.cases[row].id: of_fold[member.fold] for row, member in first.items()})
    decision = decision.with_(components={named[value].name: rule.to_json() for value, rule in rules.items()})
    report = _report(work, first, of_fold)
    if rules:
        report = replace(report, notes=(*report.notes, _in_words(work, rules)))
    if rules and (words := _judged_whole(first, of_fold)):
        report = replace(report, notes=(*report.notes, words))
    expected = _foretold(work, first, parts, of_fold)
    if expected is not None:
        decision = decision.with_(expected_dice=expected.to_json())
        report = replace(report, notes=(*report.notes, expected.in_words()))
    return Concluded(decision, (), report)


Rules = dict[int, ComponentRule]


def _judged_whole(first: dict[int, Member], of_fold: dict[int | None, Rules]) -> str | None:
    """That cases are judged with parts which the bundle drops, where its rules were fitted on these very cases."""
    whole = sum(not of_fold[member.fold] for member in first.values())
    if not whole:
        return None
    return (
        "The bundle drops parts of structures by rules fitted on the cases judged here. For "
        f"{counted(whole, 'case')} there were no others to fit a rule on: judged with all parts, which predict and "
        "evaluate do not give."
    )


def _components(
    work: Work, first: dict[int, Member], parts: dict[int, dict[int, Parts]]
) -> tuple[Rules, dict[int | None, Rules]]:
    """Which parts of each structure are kept: for the bundle, and, fitted without it, for judging each fold."""
    folds = {row: member.fold for row, member in first.items()}
    rules: Rules = {}
    of_fold: dict[int | None, Rules] = {fold: {} for fold in folds.values()}
    for value, found in parts.items():
        rule = fit_rule(list(found.values()))
        if rule is None:
            continue
        rules[value] = rule
        _say(work, value, rule, list(found.values()))
        for fold, there in of_fold.items():
            others = [one for row, one in found.items() if folds[row] != fold]
            without = fit_rule(others)  # of one validation split there are no others: it is judged with all parts
            if without is not None:
                there[value] = without
    return rules, of_fold


def _parts(work: Work, first: dict[int, Member]) -> dict[int, dict[int, Parts]]:
    """Number → row → the structure's parts in a judged case, where the case's truth speaks of it."""
    structures = work.task.structures
    parts: dict[int, dict[int, Parts]] = {number: {} for number in structures.named}
    for row, member in first.items():
        case, grid = work.store.cases[row], work.store.prepared[row].trace.source
        if not case.truth.masks:
            continue
        truth = np.asarray(read_ref(work.dataset, case.truth.masks[0]).laid_on(grid).array)
        mask, ignored = _mask(work, row, member), work.dataset.ignore
        for number in structures.looked_at(case.truth.known):
            parts[number][row] = structures.parts(mask, truth, number, voxel_size(grid), ignored)
    return parts


def _foretold(
    work: Work, first: dict[int, Member], parts: dict[int, dict[int, Parts]], of_fold: dict[int | None, Rules]
) -> ExpectedDice | None:
    """How the mean Dice of a case follows from what its probabilities say."""
    pairs: list[tuple[float, float]] = []
    for row, member in first.items():
        rules = of_fold[member.fold]
        there = {value: found[row] for value, found in parts.items() if row in found}
        dice = [
            one.dice(rules.get(value, ComponentRule())) for value, one in there.items() if one.truth or len(one.sizes)
        ]
        with np.load(work.output / JUDGED / _file(row, member)) as held:
            said = float(held["said"]) if "said" in held else np.nan
        if dice and np.isfinite(said):
            pairs.append((said, float(np.mean(dice))))
    return fit_expected_dice([said for said, _ in pairs], [dice for _, dice in pairs])


def _say(work: Work, value: int, rule: ComponentRule, cases: Sequence[Parts]) -> None:
    before, after = (float(np.mean([case.dice(r) for case in cases])) for r in (ComponentRule(), rule))
    said = f"{_rule_in_words(work, value, rule)} (Dice {after:.3f}, with all parts {before:.3f})"
    work.listen(Event("line", said))


def _rule_in_words(work: Work, value: int, rule: ComponentRule) -> str:
    grid = work.store.prepared[0].trace.source
    unit = {3: "mm³", 2: "mm²"}[len(grid.shape)] if grid.has_size else "voxels"
    return f"{work.task.structures.named[value].name}: {rule.in_words(unit)}"


def _in_words(work: Work, rules: Rules) -> str:
    """What the bundle drops, for the report."""
    told = "; ".join(_rule_in_words(work, value, rule) for value, rule in rules.items())
    return f"Of what the networks find, the bundle drops connected parts by rules fitted here. {told}."


def _mask(work: Work, row: int, member: Member) -> NDArray[Any]:
    with np.load(work.output / JUDGED / _file(row, member)) as held:
        mask: NDArray[Any] = held["labels"]
    return mask


def _report(work: Work, first: dict[int, Member], of_fold: dict[int | None, Rules]) -> Report:
    cases = {row: work.store.cases[row] for row in sorted(first)}
    folds = {case.id: fold for row, case in cases.items() if (fold := first[row].fold) is not None}

    def masks() -> Iterator[tuple[Case, Mask]]:
        for row, case in cases.items():
            grid = work.store.prepared[row].trace.source
            structures, rules = work.task.structures, of_fold[first[row].fold]
            kept = structures.kept(_mask(work, row, first[row]), rules, voxel_size(grid))
            yield case, structures.mask(kept, grid)

    failed = tuple(Failure(case, reason) for case, reason in work.store.failed.items())
    found = Circumstances(
        failed=failed,
        flow=flow_of(work, len(cases)),
        started=time.monotonic() - work.clock.spent_s,
        dataset_digest=work.dataset.digest,
    )
    return report_from_masks(
        work.dataset.with_cases(list(cases.values())),
        masks(),
        split="oof" if work.run.ensemble.folds else "val",
        folds=folds,
        warnings=list(work.warnings),
        circumstances=found,
    )
