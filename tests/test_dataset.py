from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap.dataset import (
    Case,
    Dataset,
    InputSpec,
    Ref,
    Truth,
    deal,
    folds,
    known_values,
    stratum,
    with_splits,
)
from medmap.errors import DatasetError, UsageError
from medmap.results import Label

CAT, DOG = Label("cat", "SCT:1"), Label("dog")


def case(number: int, patient: str | None = None, label: int | None = 0, split: str | None = None) -> Case:
    name = f"case{number:06}"
    truth = Truth(annotated=label is not None, label=label)
    return Case(name, patient or f"of {name}", {"image": Ref("a.npz", f"{number}")}, truth, split)


def dataset(cases: Sequence[Case], **changes: object) -> Dataset:
    labels = tuple(Label(f"class {n}") for n in range(40))
    changes = {"inputs": {"image": InputSpec("US")}, "labels": labels, **changes}
    return Dataset("toy", "classify", tuple(cases), **changes)  # type: ignore[arg-type]


@st.composite
def case_lists(draw: st.DrawFn, splits: Sequence[str | None] = (None,)) -> list[Case]:
    """Up to 80 cases; some patients with several; labels skewed."""
    count = draw(st.integers(1, 80))
    patients = draw(st.integers(1, count))
    rng = random.Random(draw(st.integers(0, 10**6)))
    rows = [(f"p{rng.randrange(patients)}", int(rng.random() ** 3 * 8)) for _ in range(count)]
    return [case(n, p, label, rng.choice(splits)) for n, (p, label) in enumerate(rows)]


SHARES = st.lists(st.integers(1, 10), min_size=1, max_size=6)


def ids(cases: Sequence[Case]) -> set[str]:
    return {c.id for c in cases}


# -- dealing ---------------------------------------------------------------------------------------------------------


@given(case_lists(), SHARES, st.integers(0, 99))
def test_parts_are_disjoint_complete_and_of_whole_patients(cases: list[Case], shares: list[int], seed: int) -> None:
    parts = deal(cases, shares, seed)
    assert len(parts) == len(shares)
    assert sorted(c.id for part in parts for c in part) == sorted(ids(cases))
    patients = [{c.patient for c in part} for part in parts]
    assert sum(map(len, patients)) == len(set().union(*patients))
    if len({c.patient for c in cases}) >= len(shares):
        assert all(parts), "no part is empty while there are patients for it"


@given(case_lists(), SHARES, st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(
    cases: list[Case], shares: list[int], seed: int, rng: random.Random
) -> None:
    mixed = rng.sample(cases, len(cases))
    assert [ids(p) for p in deal(mixed, shares, seed)] == [ids(p) for p in deal(cases, shares, seed)]


def test_the_seed_decides() -> None:
    cases = [case(n, label=n % 3) for n in range(60)]
    again = [[ids(part) for part in deal(cases, (2, 1), seed)] for seed in (0, 0, 1)]
    assert again[0] == again[1]
    assert again[0] != again[2]


@given(st.lists(st.integers(0, 39), min_size=12, max_size=300), SHARES, st.integers(0, 9))
def test_each_class_is_spread_by_the_shares(labels: list[int], shares: list[int], seed: int) -> None:
    cases = [case(n, label=label) for n, label in enumerate(labels)]
    for part, share in zip(deal(cases, shares, seed), shares, strict=True):
        fraction = share / sum(shares)
        counts = Counter(c.truth.label for c in part)
        assert abs(len(part) - fraction * len(cases)) <= 2
        for label, total in Counter(labels).items():
            assert abs(counts[label] - fraction * total) <= 2


@given(case_lists(), SHARES, st.integers(0, 9))
def test_whole_patients_cost_balance_by_no_more_than_two_of_them(
    cases: list[Case], shares: list[int], seed: int
) -> None:
    largest = max(Counter(c.patient for c in cases).values())
    for part, share in zip(deal(cases, shares, seed), shares, strict=True):
        assert abs(len(part) - share / sum(shares) * len(cases)) <= 2 * largest


def test_many_rare_classes_do_not_all_end_in_the_largest_part() -> None:
    cases = [case(n, label=n) for n in range(40)]
    assert [len(part) for part in deal(cases, (0.7, 0.1, 0.2), 0)] == [28, 4, 8]


@pytest.mark.parametrize("shares", [[], [1, 0], [0.5, -0.5]])
def test_shares_that_are_none_are_refused(shares: list[float]) -> None:
    with pytest.raises(UsageError, match="positive numbers"):
        deal([case(0)], shares, 0)


def test_a_hundred_thousand_cases_are_dealt_without_looking_at_each_other() -> None:
    """Ten times the cases take about ten times as long: were it quadratic, a hundred times."""

    def seconds(count: int) -> float:
        cases = [case(n, f"p{n // 2}", n % 7) for n in range(count)]
        start = time.process_time()
        parts = deal(cases, (0.7, 0.1, 0.2), 0)
        took = time.process_time() - start
        assert [len(p) for p in parts] == pytest.approx([0.7 * count, 0.1 * count, 0.2 * count], abs=4)
        return took

    assert seconds(100_000) < 40 * seconds(10_000)


# -- splits ----------------------------------------------------------------------------------------------------------


@given(case_lists(splits=(None, None, "train", "test")), st.integers(0, 9))
def test_supplied_splits_are_kept_and_patients_stay_whole(cases: list[Case], seed: int) -> None:
    owners: dict[str, set[str]] = {}
    for c in cases:
        if c.split:
            owners.setdefault(c.patient, set()).add(c.split)
    data = dataset(cases)
    done = with_splits(data, seed)
    assert [c.id for c in done] == [c.id for c in data]
    assert all(c.split in ("train", "val", "test") for c in done)
    partly = any(c.split is None for c in cases)
    for before, after in zip(data, done, strict=True):
        if before.split == "test" or (partly and before.split):
            assert after.split == before.split
        elif before.split == "train":
            assert after.split in ("train", "val")
    where: dict[str, set[str | None]] = {}
    for c in done:
        where.setdefault(c.patient, set()).add(c.split)
    for patient, splits in where.items():
        if len(owners.get(patient, ())) < 2:  # the owner's own leak is reported by the check, not mended here
            assert len(splits) == 1


def test_without_supplied_splits_the_shares_hold() -> None:
    done = with_splits(dataset([case(n, label=n % 2) for n in range(200)]), seed=3)
    assert Counter(c.split for c in done) == {"train": 140, "val": 20, "test": 40}
    for name, each in (("train", 70), ("val", 10), ("test", 20)):
        assert Counter(c.truth.label for c in done.split(name)) == {0: each, 1: each}


def test_complete_splits_are_left_alone() -> None:
    data = dataset([case(n, split=("train", "val", "test")[n % 3]) for n in range(9)])
    assert with_splits(data) is data
    only_test = dataset([case(n, split="test") for n in range(9)])
    assert with_splits(only_test) is only_test


def test_missing_validation_is_taken_from_train_never_from_test() -> None:
    data = dataset([case(n, split="test" if n < 50 else "train", label=n % 2) for n in range(210)])
    done = with_splits(data)
    assert Counter(c.split for c in done) == {"train": 140, "val": 20, "test": 50}
    assert ids(done.split("test").cases) == {f"case{n:06}" for n in range(50)}


def test_where_some_cases_are_test_no_further_one_becomes_it() -> None:
    """An official test set stays what it is; the others are learned from."""
    data = dataset([case(n, split="test" if n < 20 else None, label=n % 2) for n in range(100)])
    done = with_splits(data)
    assert Counter(c.split for c in done) == {"train": 70, "val": 10, "test": 20}
    assert ids(done.split("test").cases) == {f"case{n:06}" for n in range(20)}
    both = dataset([case(n, split={0: "test", 1: "val"}.get(n % 10)) for n in range(50)])
    assert Counter(c.split for c in with_splits(both)) == {"train": 40, "val": 5, "test": 5}


def test_three_patients_give_one_to_each_split() -> None:
    assert Counter(c.split for c in with_splits(dataset([case(n) for n in range(3)]))) == {
        "train": 1,
        "val": 1,
        "test": 1,
    }


def test_a_split_has_three_shares() -> None:
    with pytest.raises(UsageError, match="three shares"):
        with_splits(dataset([case(0)]), shares=(0.8, 0.2))


@given(case_lists(), st.integers(2, 6), st.integers(0, 9))
def test_folds_hold_every_case_out_once(cases: list[Case], count: int, seed: int) -> None:
    if len({c.patient for c in cases}) < count:
        with pytest.raises(UsageError, match="a patient for each"):
            folds(cases, count, seed)
        return
    parts = folds(cases, count, seed)
    assert len(parts) == count
    assert all(parts)
    assert sorted(c.id for part in parts for c in part) == sorted(ids(cases))
    patients = [{c.patient for c in part} for part in parts]
    assert sum(map(len, patients)) == len(set().union(*patients))


def test_one_fold_is_no_cross_validation() -> None:
    with pytest.raises(UsageError, match="at least two folds"):
        folds([case(0), case(1)], 1, 0)


def test_what_a_split_keeps_balanced() -> None:
    def of(**truth: object) -> tuple[object, ...]:
        return stratum(replace(case(0), truth=Truth(True, **truth)))  # type: ignore[arg-type]

    assert of(label=3) != of(label=2)
    assert of(values=(1.0, 0.0)) != of(values=(0.0, 1.0))
    assert of(values=(1.0, math.nan)) == of(values=(1.0, math.nan))
    assert of(values=(63.2,)) == of(values=(17.5,))
    assert of(boxes=(((0, 0, 1, 1), 1), ((0, 0, 2, 2), 0))) == of(boxes=(((0, 0, 5, 5), 0), ((0, 0, 2, 2), 1)))
    assert of(boxes=()) != of(boxes=(((0, 0, 1, 1), 1),))
    assert of(masks=(Ref("m.png"),)) != stratum(replace(case(0), truth=Truth()))


# -- the dataset -----------------------------------------------------------------------------------------------------


def test_cases_are_found_in_order_and_by_name() -> None:
    data = dataset([case(2), case(0), case(1)])
    assert len(data) == 3
    assert [c.id for c in data] == ["case000002", "case000000", "case000001"]
    assert data["case000001"].inputs["image"] == Ref("a.npz", "1")
    with pytest.raises(DatasetError, match="no such case"):
        data["nobody"]
    assert dataset([case(0)], labels=(CAT, DOG)).label_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "regress"}, "unknown task"),
        ({"cases": ()}, "no cases"),
        ({"inputs": {}}, "names no input"),
        ({"labels": (CAT, CAT)}, "same name"),
        ({"kind": "binary"}, "says which is positive"),
        ({"kind": "binary", "labels": (CAT, DOG)}, "says which is positive"),
        ({"kind": "binary", "labels": (CAT, DOG), "positive": 2}, "says which is positive"),
        ({"cases": (case(0), case(0))}, "stands twice"),
        ({"cases": (replace(case(0), id=""),)}, "is empty"),
        ({"cases": (replace(case(0), patient=""),)}, "names no patient"),
        ({"cases": (case(0, split="dev"),)}, "unknown split"),
        ({"cases": (case(0, label=40),)}, "unknown class"),
        ({"cases": (case(0, label=-1),)}, "unknown class"),
        ({"cases": (replace(case(0), inputs={"picture": Ref("a.png")}),)}, "unknown input"),
        ({"kind": "multilabel", "cases": (replace(case(0), truth=Truth(True, values=(1.0,))),)}, "one value a class"),
    ],
    ids=str,
)
def test_a_dataset_that_contradicts_itself_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        replace(dataset([case(0)]), **changes)  # type: ignore[arg-type]


def test_a_binary_dataset_says_which_class_is_positive() -> None:
    assert dataset([case(0)], labels=(CAT, DOG), kind="binary", positive=0).positive == 0


def test_split_gives_one_split_or_says_what_there_is() -> None:
    data = dataset([case(0, split="train"), case(1, split="train"), case(2, split="test"), case(3)])
    assert data.has_splits
    assert data.split("all") is data
    assert ids(data.split("train").cases) == {"case000000", "case000001"}
    with pytest.raises(UsageError, match="test: 1, train: 2"):
        data.split("val")
    with pytest.raises(UsageError, match="train, val, test or all"):
        data.split("dev")
    bare = dataset([case(0)])
    assert not bare.has_splits
    with pytest.raises(UsageError, match="no splits"):
        bare.split("test")


def test_selection_leaves_something() -> None:
    data = dataset([case(0, label=0), case(1, label=1)])
    assert len(data.where(lambda c: c.truth.label == 1)) == 1
    with pytest.raises(DatasetError, match="no case of toy is left"):
        data.where(lambda c: False)


def test_references_name_files_and_members(tmp_path: Path) -> None:
    for text in ("a/b.png", "b.npz#train_images/3", "c.dcm#0"):
        assert str(Ref.parse(text)) == text
    assert Ref.parse("b.npz#x") == Ref("b.npz", "x")
    assert Ref.parse("b.npz#") == Ref("b.npz")
    data = dataset([case(0)], root=tmp_path)
    assert data.resolve(Ref("a/b.png")) == tmp_path / "a" / "b.png"
    assert data.resolve(Ref("/somewhere/b.png")) == Path("/somewhere/b.png")


def test_the_digest_speaks_of_content_not_of_place(tmp_path: Path) -> None:
    data = dataset([case(0), case(1)])
    assert data.digest == dataset([case(0), case(1)], root=tmp_path).digest
    assert data.digest.startswith("sha256:")
    others = [
        dataset([case(1), case(0)]),
        dataset([case(0)]),
        dataset([case(0), case(1, label=1)]),
        dataset([case(0), case(1, split="train")]),
        dataset([case(0), case(1, patient="p")]),
        dataset([case(0), replace(case(1), site="north")]),
        dataset([case(0), replace(case(1), columns={"age_years": 4.0})]),
        dataset([case(0), replace(case(1), inputs={"image": None})]),
        dataset([case(0), case(1)], kind="ordinal"),
        dataset([case(0), case(1)], ignore=255),
        dataset([case(0), case(1)], regions={"whole": (1, 2)}),
        dataset([case(0), case(1)], labels=(CAT, DOG)),
        dataset([case(0), case(1)], labels=(replace(CAT, code=None), DOG)),
    ]
    assert len({data.digest, *(d.digest for d in others)}) == len(others) + 1


def test_the_files_digest_reads_every_byte(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"first")
    (tmp_path / "m.png").write_bytes(b"mask")
    with_mask = replace(case(0), truth=Truth(True, masks=(Ref("m.png"),), target=None))
    data = dataset([with_mask, case(1)], root=tmp_path)
    before = data.files_digest()
    assert before == data.files_digest()
    (tmp_path / "m.png").write_bytes(b"maSk")
    assert data.files_digest() != before
    (tmp_path / "m.png").unlink()
    with pytest.raises(DatasetError, match=r"cannot be read.*m\.png"):
        data.files_digest()


def test_unknown_values_are_known_as_such() -> None:
    assert known_values((1.0, math.nan, 0.0)) == [True, False, True]


def test_partial_labels_ignored_boxes_and_hashes_are_content() -> None:
    box = ((0.0, 0.0, 1.0, 1.0), 1)
    plain = replace(case(0), truth=Truth(True, boxes=(box,)))
    base = dataset([plain], labels=(CAT, DOG))
    others = [
        dataset([replace(plain, truth=Truth(True, boxes=(box,), known=(1,)))], labels=(CAT, DOG)),
        dataset([replace(plain, truth=Truth(True, boxes=(box,), known=(0, 1)))], labels=(CAT, DOG)),
        dataset([replace(plain, truth=Truth(True, boxes=(box,), ignored=(box,)))], labels=(CAT, DOG)),
        dataset([plain], labels=(CAT, DOG), hashes={"m.png": "0" * 64}),
        dataset([plain], labels=(CAT, DOG), inputs={"image": InputSpec(None, ("a", "b"))}),
    ]
    assert len({base.digest, *(d.digest for d in others)}) == len(others) + 1
    assert dataset([plain], labels=(CAT, DOG), version=2, parent="sha256:0").digest == base.digest
    # what is not said is not shown, so that older digests still hold
    assert repr(Truth()) == "Truth(annotated=False, label=None, values=None, masks=(), boxes=None, target=None)"
    assert "known=(1,)" in repr(others[0].cases[0].truth)
    assert "ignored=" in repr(others[2].cases[0].truth)


@pytest.mark.parametrize(
    ("truth", "sentence"),
    [
        (Truth(True, boxes=(((0, 0, 1, 1), 2),)), "a box of an unknown class: got 2, expected 0 to 1"),
        (Truth(True, boxes=(), ignored=(((0, 0, 1, 1), -1),)), "a box of an unknown class"),
        (Truth(True, ignored=(((0, 0, 1, 1), 0),)), "boxes to ignore without boxes"),
        (Truth(known=(0,)), "belong to an annotated case"),
        (Truth(True, known=()), "belong to an annotated case"),
        (Truth(True, known=(1, 0)), "no list of classes"),
        (Truth(True, known=(0, 0)), "no list of classes"),
        (Truth(True, known=(0, 2)), "no list of classes"),
        (Truth(True, known=(-1,)), "no list of classes"),
    ],
)
def test_truth_that_contradicts_the_classes_is_refused(truth: Truth, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        dataset([replace(case(0), truth=truth)], labels=(CAT, DOG))
