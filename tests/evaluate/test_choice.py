"""The best of several runs: chosen on held-out cases alone, tested against the others, and never of unlike runs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from finished_runs import TASKS, finished, folded, good_and_poor, judged, noisy, of_boxes, of_masks, of_scores
from judged_masks import dataset
from prediction_tables import KINDS, binary, regression

from medmap.bundle import Bundle
from medmap.errors import BundleError, DataError, MedmapError, ReadError, UsageError
from medmap.evaluate import ChoiceFile, Failure, choose_run, compare
from medmap.metrics import MaskRules


@pytest.mark.parametrize("task", TASKS)
def test_the_better_run_is_chosen_by_the_main_score(task: str, tmp_path: Path) -> None:
    good, poor, by = TASKS[task]
    runs = [finished(tmp_path / "poor", poor()), finished(tmp_path / "good", good())]
    found = choose_run(runs)
    assert (found.by, found.split, found.best.run) == (by, "oof", str(tmp_path / "good"))
    assert found.best.difference is None
    assert found.better_than_next is True
    gap = found.ranked[1].difference
    assert gap == next(
        row for row in compare(*(run / "evaluation" for run in runs)).rows if (row.name, row.group) == (by, "all")
    )
    assert (gap.a, gap.b) == pytest.approx((found.ranked[1].value, found.best.value))
    assert f"{runs[1]} is better than {runs[0]}, the next" in found.verdict[0]
    assert any("optimistic" in text and "best of 2" in text for text in found.warnings)
    assert ChoiceFile.model_validate_json(json.dumps(found.as_json())).chosen == str(runs[1])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "two targets"])
def test_classes_and_numbers_of_every_kind(kind: str, tmp_path: Path) -> None:
    table = KINDS[kind]()
    runs = [
        finished(tmp_path / name, of_scores(one, "val")) for name, one in (("a", noisy(table, noise=0.6)), ("b", table))
    ]
    found = choose_run(runs)
    assert found.by == ("mae" if kind == "regression" else "auroc")
    assert found.best.run == str(runs[1])
    assert found.ranked[1].difference.p is not None
    assert "validation split" in found.as_text()


def test_two_targets_have_no_score_over_all(tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(n), of_scores(regression(seed=n, targets=2)), weights=n + 1) for n in range(2)]
    with pytest.raises(UsageError, match="no metric of that name over all cases"):
        choose_run(runs)


@pytest.mark.parametrize("by", ["hd95_mm", "assd_mm", "dice", "nsd"])
def test_less_is_better_of_distances(by: str, tmp_path: Path) -> None:
    good, poor = good_and_poor(tmp_path)
    found = choose_run([poor, good], by)
    assert found.best.run == str(good)
    assert found.lower_is_better == by.endswith("_mm")
    assert found.as_json()["better"] == ("lower" if by.endswith("_mm") else "higher")
    assert (found.ranked[1].difference.difference > 0) == by.endswith("_mm")
    assert found.better_than_next is True


@pytest.mark.parametrize("by", ["brier", "ece"])
def test_less_is_better_of_errors(by: str, tmp_path: Path) -> None:
    a, b = (
        finished(tmp_path / name, of_scores(table))
        for name, table in (("plain", binary()), ("noisy", noisy(binary(), noise=0.6)))
    )
    found = choose_run([b, a], by)
    assert found.best.run == str(a)
    assert found.lower_is_better


def test_without_a_paired_test_nothing_is_claimed(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / name, of_scores(table), weights=n + 1)
        for n, (name, table) in enumerate((("noisy", noisy(binary())), ("plain", binary())))
    ]
    found = choose_run(runs, "auprc")
    assert found.better_than_next is None
    assert found.alternative is None
    assert "is not known" in found.verdict[0]
    assert "no paired test of auprc" in found.verdict[0]
    assert found.ranked[1].difference.difference == pytest.approx(found.ranked[1].value - found.best.value)


def test_within_chance_the_best_is_chosen_and_the_smaller_named(tmp_path: Path) -> None:
    table = binary()
    runs = [
        finished(tmp_path / "large", of_scores(table), weights=300_000, members=2),
        finished(tmp_path / "middle", of_scores(noisy(table, 1, 0.02)), weights=2_000),
        finished(tmp_path / "small", of_scores(noisy(table, 2, 0.02)), weights=1_000),
        finished(tmp_path / "useless", of_scores(noisy(table, 3, 2.0)), weights=10),
    ]
    found = choose_run(runs)
    assert found.better_than_next is False
    assert "within chance" in found.verdict[0]
    assert {found.best.run, found.ranked[1].run, found.ranked[2].run} == set(map(str, runs[:3]))
    assert found.ranked[-1].run == str(runs[3])
    assert not found.ranked[-1].within_chance
    assert any("of one pair alone" in text for text in found.warnings)


def test_the_alternative_is_the_smallest_within_chance(tmp_path: Path) -> None:
    table = judged(noise=0.3)
    same = [
        finished(tmp_path / name, of_masks(table), weights=weights, members=members)
        for name, weights, members in (("b", 50, 2), ("c", 30, 1), ("a", 30, 1))
    ]
    found = choose_run(same)
    assert [one.run for one in found.ranked] == [str(same[1]), str(same[2]), str(same[0])]
    assert [one.weights for one in found.ranked] == [30, 30, 100]
    assert "have the same score: the first one is chosen" in found.verdict[0]
    assert found.ranked[1].difference.p == 1
    assert found.alternative is None
    assert "the smaller one is chosen" in choose_run([same[0], same[2]]).verdict[0]
    better = finished(tmp_path / "better", of_masks(_a_little_better(table)), weights=5000)
    found = choose_run([same[0], better, same[2]])
    assert found.best.run == str(better)
    assert found.alternative.run == str(same[2])
    assert f"{same[2]} is smaller (30 against 5,000 weights)" in found.verdict[1]


def _a_little_better(table):
    """One voxel of one case more is right, which chance may give."""
    scores = list(table.scores)
    row = next(n for n, one in enumerate(scores) if one.common_voxels < min(one.truth_voxels, one.prediction_voxels))
    scores[row] = replace(scores[row], common_voxels=scores[row].common_voxels + 1)
    return replace(table, scores=tuple(scores))


def test_the_order_in_which_runs_are_given_does_not_matter(tmp_path: Path) -> None:
    tables = [binary(n=40), noisy(binary(n=40), 1), noisy(binary(n=40), 2)]
    runs = [finished(tmp_path / str(n), of_scores(table), weights=10 + n) for n, table in enumerate(tables)]
    first, *others = [choose_run(order).as_json() for order in permutations(runs)]
    values = [one["value"] for one in first["runs"]]
    assert values == sorted(values, reverse=True)
    assert others == [first] * 5


def test_the_table_says_what_differs(tmp_path: Path) -> None:
    network = {"name": "unet", "input_shape": [48, 48, 16], "width": 0.5, "slices": 3}
    prepare = {"prepare": {"shape": [48, 48, 16], "spacing_mm": [0.7, 0.7, 2.5], "grid": "spacing"}}
    good, poor = good_and_poor(tmp_path, network=network, run=prepare, members=3, weights=100_000)
    text = choose_run([good, poor]).as_text()
    assert text.splitlines()[0] == "2 runs by dice (more is better), 12 cases of 11 patients, out of fold"
    assert "3 × unet, width 0.5, 3 slices, 48 × 48 × 16 of 0.7 × 0.7 × 2.5 mm  0.30 million" in text
    assert "unet, 48 × 48" in text
    assert "fit.epochs: 1000 | 100000" in text
    assert 'prepare.grid: null | "spacing"' in text
    assert "reasons" not in text
    many = {"fit": {f"setting_{n:02}": n for n in range(30)}, "network": {"anchors": [[1.5, 2.5]] * 9}}
    other = finished(tmp_path / "other", of_masks(judged(noise=0.5)), run=many)
    lines = choose_run([good, other]).as_text().splitlines()
    assert lines[-1].startswith("and ")
    assert lines[-1].endswith("more: --json shows them")
    assert len([line for line in lines if " | " in line]) == 12


def test_the_chosen_bundle_is_copied_with_its_bytes_and_the_choice_beside_it(tmp_path: Path) -> None:
    good, poor = good_and_poor(tmp_path)
    (good / "looks.jsonl").write_text('{"cases_digest": "sha256:1"}\n')
    found = choose_run([poor, good])
    assert any("Test cases were looked at already" in text and str(good) in text for text in found.warnings)
    out = tmp_path / "deep" / "chosen"
    bundle = found.save(out)
    assert bundle.path == out / "bundle"
    assert bundle.digest == Bundle.load(good).digest == Bundle.load(out).digest
    assert {path.name for path in out.iterdir()} == {"bundle", "choice.json", "looks.jsonl"}
    assert (out / "looks.jsonl").read_text() == (good / "looks.jsonl").read_text()
    written = json.loads((out / "choice.json").read_text())
    assert written == found.as_json()
    assert ChoiceFile.model_validate(written).runs[1].run == str(poor)
    with pytest.raises(BundleError, match="exists already"):
        found.save(out)
    (tmp_path / "empty").mkdir()
    assert found.save(tmp_path / "empty").digest == bundle.digest


def test_cases_that_failed_in_all_runs_are_said(tmp_path: Path) -> None:
    failed = (Failure("c99", "the file is cut off"),)
    runs = [
        finished(tmp_path / name, replace(of_masks(judged(noise=noise)), failed=failed))
        for name, noise in (("a", 0.1), ("b", 0.9))
    ]
    assert any("c99 (the file is cut off)" in text for text in choose_run(runs).warnings)


def test_a_run_with_fewer_networks_than_planned_is_named(tmp_path: Path) -> None:
    runs = good_and_poor(tmp_path, run={"ensemble": {"folds": 2, "members": 5}})
    assert any(f"{runs[1]} has 1 of the 5 networks" in text for text in choose_run(runs).warnings)


# ---------------------------------------------------------------------------------------------------- what is refused


def test_one_run_or_one_twice(tmp_path: Path) -> None:
    good, _ = good_and_poor(tmp_path)
    for runs, words in (([good], "nothing to choose"), ([], "nothing to choose"), ([good, good], "the same bundle")):
        with pytest.raises(UsageError, match=words):
            choose_run(runs)


def test_metrics_that_cannot_choose(tmp_path: Path) -> None:
    runs = good_and_poor(tmp_path)
    with pytest.raises(UsageError, match=r"got 'auroc', expected dice, iou"):
        choose_run(runs, "auroc")
    with pytest.raises(UsageError, match="neither more nor less is better"):
        choose_run(runs, "volume_error_ml")
    rows = tuple(
        row.with_(value=None, low=None, high=None, method=None, reason="nothing to find") if row.name == "nsd" else row
        for row in of_masks(judged()).rows
    )
    without = finished(tmp_path / "without", replace(of_masks(judged()), rows=rows))
    with pytest.raises(DataError, match=r"nsd is not defined in .*without: got nothing to find"):
        choose_run([runs[0], without], "nsd")


def _changed(report, **changes):
    return replace(report, table=folded(replace(report.table, **changes), report.split))


UNLIKE = {
    "a case less": (
        lambda: of_masks(judged(dataset(11))),
        {},
        r"not judged on the same cases: got only in .*good: c11",
    ),
    "another task": (lambda: of_boxes(1.0), {}, "are of different tasks"),
    "other labels": (
        lambda: of_masks(replace(t := judged(), scores=tuple(replace(s, structure=s.structure[:5]) for s in t.scores))),
        {},
        "have different classes: got liver, tumou",
    ),
    "other regions": (lambda: of_masks(judged(noise=0.9)), {"provenance": {"regions": {"core": [2]}}}, "regions"),
    "another split": (lambda: of_masks(judged(), "val"), {}, "not judged in the same way: got validation split"),
    "other rules": (lambda: replace(of_masks(judged()), rules=MaskRules()), {}, "different rules"),
    "other folds": (
        lambda: replace(r := of_masks(judged()), table=replace(r.table, folds=tuple(1 - f for f in r.table.folds))),
        {},
        "different folds: got 12 cases judged in another fold: c0, c1, c10, c11, c2 and 7 more",
    ),
    "a structure less": (
        lambda: of_masks(judged(dataset(known=True))),
        {},
        "same cases: got only in .*good: tumour of c0",
    ),
    "another truth": (
        lambda: of_masks(
            replace(t := judged(), scores=tuple(replace(s, truth_voxels=s.truth_voxels + 1) for s in t.scores))
        ),
        {},
        "cannot be compared: .* has another truth",
    ),
    "other patients": (
        lambda: of_masks(replace(t := judged(), patients=tuple(f"q{p}" for p in t.patients))),
        {},
        "other patients",
    ),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_runs_that_were_not_judged_alike(what: str, tmp_path: Path) -> None:
    report, changes, words = UNLIKE[what]
    good, _ = good_and_poor(tmp_path)
    other = finished(tmp_path / "other", report(), **changes)
    with pytest.raises(DataError, match=words) as told:
        choose_run([good, other])
    assert str(good) in str(told.value)
    assert "Remedy" in str(told.value) or what == "other patients"
    with pytest.raises(DataError):
        choose_run([other, good])


def test_another_positive_class_and_kind(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", of_scores(binary()))
    turned = replace(binary(), positive=1, thresholds=(0.3, 0.7))
    other = finished(tmp_path / "turned", of_scores(turned))
    with pytest.raises(DataError, match=r"different positive classes: got benign in .*expected malignant"):
        choose_run([first, other])
    third = finished(tmp_path / "third", of_scores(KINDS["multiclass"]()))
    with pytest.raises(DataError, match="different kinds of classes"):
        choose_run([first, third])


def test_a_case_that_failed_in_one_run_alone_is_named_with_the_reason(tmp_path: Path) -> None:
    good, _ = good_and_poor(tmp_path)
    report = replace(of_masks(judged(dataset(11))), failed=(Failure("c11", "the file is cut off."),))
    other = finished(tmp_path / "other", report)
    with pytest.raises(DataError, match=r"only in .*good: c11 \(the file is cut off\)\. Remedy: train both on one"):
        choose_run([good, other])


@pytest.mark.parametrize("split", ["test", "all"])
def test_test_cases_never_choose(split: str, tmp_path: Path) -> None:
    good, _ = good_and_poor(tmp_path)
    other = finished(tmp_path / "other", replace(of_masks(judged()), split=split), run={"ensemble": {"folds": 2}})
    with pytest.raises(DataError, match="choosing by test cases would make the test worthless"):
        choose_run([good, other])
    with pytest.raises(ReadError, match=r"an evaluation, not a run.*leaves the test worthless"):
        choose_run([good, other / "evaluation"])


@pytest.mark.parametrize(("split", "folds"), [("train", 0), ("train", 2), ("val", 2), ("oof", 0)])
def test_cases_that_were_learned_from_never_choose(split: str, folds: int, tmp_path: Path) -> None:
    good, _ = good_and_poor(tmp_path)
    report = replace(of_masks(judged()), split=split)
    other = finished(tmp_path / "other", report, run={"ensemble": {"folds": folds, "members": 1}})
    with pytest.raises(DataError, match=f"cases that the networks learned from: got the split {split}"):
        choose_run([good, other])


def _without(name: str):
    def spoil(run: Path) -> Path:
        path = run / name
        for file in sorted(path.rglob("*")) if path.is_dir() else ():
            file.unlink()
        path.rmdir() if path.is_dir() else path.unlink()
        return run

    return spoil


def _interrupted(run: Path) -> Path:
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / "current.json").write_text("{}")
    return run


def _written(name: str, text: str):
    def spoil(run: Path) -> Path:
        (run / name).write_text(text)
        return run

    return spoil


def _other_metrics(**changes):
    def spoil(run: Path) -> Path:
        file = run / "evaluation" / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return run

    return spoil


def _other_dice(run: Path) -> Path:
    file = run / "evaluation" / "metrics.json"
    found = json.loads(file.read_text())
    next(row for row in found["metrics"] if (row["name"], row["group"]) == ("dice", "all"))["value"] += 0.01
    file.write_text(json.dumps(found))
    return run


BROKEN = {
    "no folder": (lambda run: run.with_name("nowhere"), ReadError, "nothing: it does not exist"),
    "a file": (lambda run: run / "run.yaml", ReadError, "is no run: got a file"),
    "a bundle": (lambda run: run / "bundle", ReadError, "is no run: got a bundle"),
    "another folder": (lambda run: run.parent, ReadError, "without run.yaml and bundle/"),
    "no bundle yet": (_without("bundle"), DataError, "is not finished.*--resume"),
    "stopped by hand": (_interrupted, DataError, "is not finished.*--resume"),
    "never judged": (_without("evaluation"), DataError, "was not judged"),
    "no table": (_without("evaluation/predictions.csv"), ReadError, "predictions.csv"),
    "no JSON": (_written("evaluation/metrics.json", "{"), ReadError, "not valid JSON"),
    "a list": (_written("evaluation/metrics.json", "[]"), ReadError, "not usable"),
    "a changed bundle": (_written("bundle/CARD.md", "better"), BundleError, "was changed"),
    "another bundle's evaluation": (_other_metrics(bundle="sha256:0"), DataError, "of another bundle"),
    "of several bundles": (_other_metrics(bundle=None), DataError, "got several"),
    "other cases": (_other_metrics(cases=13), DataError, "are of different cases: got 12 in predictions.csv"),
    "another score": (_other_dice, DataError, "do not belong together"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_finished_run_is_refused(what: str, tmp_path: Path) -> None:
    spoil, kind, words = BROKEN[what]
    good, poor = good_and_poor(tmp_path)
    with pytest.raises(MedmapError, match=words) as told:
        choose_run([good, spoil(poor)])
    assert isinstance(told.value, kind)
    assert told.value.exit_code in (3, 5)


def test_evaluations_of_another_kind_than_the_bundle_are_refused(tmp_path: Path) -> None:
    good, poor = good_and_poor(tmp_path)
    lines = [f"c{i},p{min(i, 10)},train,{i % 2},a,a,,0.5,0.5,binary,a" for i in range(12)]
    header = "case,patient,split,fold,truth,predicted,threshold,score_a,score_b,kind,positive"
    (poor / "evaluation" / "predictions.csv").write_text("\n".join([header, *lines]) + "\n")
    with pytest.raises(DataError, match=r"cannot be compared|same cases"):
        choose_run([good, poor])


def test_a_task_without_a_main_score_needs_a_metric(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / str(n), replace(of_masks(judged(noise=0.1 + n)), task="segment"), weights=n + 1)
        for n in range(2)
    ]
    for run in runs:
        file = run / "evaluation" / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"task": "dream"}))
    with pytest.raises(UsageError, match="no main score of dream"):
        choose_run(runs)
    assert choose_run(runs, "dice").best.run == str(runs[0])


def test_every_bit_of_the_weights_is_counted(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", of_masks(judged()), weights=7, members=3)
    assert Bundle.load(run).weight_count == 21
