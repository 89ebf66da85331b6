"""Two evaluations beside each other: symmetrical, on common cases only, and never of different truths."""

import json
from dataclasses import replace

import numpy as np
import pytest
from prediction_tables import binary, multilabel, regression, several

from medmap.errors import DataError
from medmap.evaluate import compare, compare_tables, write_predictions


def other(table, seed=9):
    """Another model's answers for the same cases."""
    rng = np.random.default_rng(seed)
    if table.kind == "regression":
        return replace(table, scores=table.scores + rng.normal(0, 4, table.scores.shape))
    chance = np.clip(table.scores + rng.normal(0, 0.2, table.scores.shape), 0.001, 0.999)
    if table.kind != "multilabel":
        chance = chance / chance.sum(axis=1, keepdims=True)
    return replace(table, scores=chance, uncalibrated=None, decided=())


@pytest.mark.parametrize("make", [binary, several, multilabel, regression])
def test_a_against_b_is_b_against_a(make):
    a = make(n=60)
    b = other(a)
    one, two = compare_tables(a, b), compare_tables(b, a)
    assert len(one.rows) == len(two.rows) > 0
    for x, y in zip(one.rows, two.rows, strict=True):
        assert (x.name, x.group, x.n) == (y.name, y.group, y.n)
        assert x.a == pytest.approx(y.b)
        assert x.difference == pytest.approx(-y.difference)
        assert x.p == pytest.approx(y.p)
        assert x.low == pytest.approx(-y.high, abs=1e-9)


def test_the_order_of_cases_and_of_classes_does_not_matter():
    a = binary()
    b = other(a)
    shuffled = b.at(np.random.default_rng(0).permutation(len(b)))
    turned = replace(
        shuffled,
        labels=shuffled.labels[::-1],
        scores=shuffled.scores[:, ::-1],
        spread=None,
        truth=1 - shuffled.truth,
        positive=1,
        thresholds=(0.7, 0.3),
    )
    assert [r.as_json() for r in compare_tables(a, turned).rows] == [r.as_json() for r in compare_tables(a, b).rows]


def test_files_alone_are_enough(tmp_path):
    a = binary()
    for name, table in (("a", a), ("b", other(a))):
        (tmp_path / name).mkdir()
        write_predictions(table, tmp_path / name / "predictions.csv")
    found = compare(tmp_path / "a", tmp_path / "b")
    assert [r.as_json() for r in found.rows] == [r.as_json() for r in compare_tables(a, other(a)).rows]
    assert {r.name for r in found.rows} == {"auroc", "accuracy", "brier", "sensitivity", "specificity"}
    methods = {r.name: r.method for r in found.rows}
    assert methods["auroc"].startswith("DeLong")
    assert methods["accuracy"].startswith("McNemar")
    assert methods["brier"].startswith("bootstrap")
    document = json.loads(json.dumps(found.as_json()))
    assert document["cases"] == len(a)
    text = found.as_text()
    assert "auroc" in text
    assert "120 cases of 120 patients" in text


def test_cases_of_one_alone_are_counted_and_said():
    a = binary()
    found = compare_tables(a.at(np.arange(100)), other(a).at(np.arange(30, 120)))
    assert (found.cases, found.only_in_a, found.only_in_b) == (70, 30, 20)
    assert any("30 cases are in the first" in text for text in found.warnings)
    assert any("20 cases are in the second" in text for text in found.warnings)
    assert all(row.n == 70 for row in found.rows)


def test_training_cases_are_warned_of():
    table = binary(splits=("train",) * 120)
    assert any("training split" in text for text in compare_tables(table, table).warnings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: replace(t, truth=1 - t.truth, decided=()), "another truth"),
        (lambda t: replace(t, labels=("malignant", "normal"), decided=()), "same question"),
        (lambda t: replace(t, cases=tuple(f"x{c}" for c in t.cases)), "no case in common"),
        (lambda t: replace(t, patients=t.patients[::-1]), "other patients"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, words):
    with pytest.raises(DataError, match=words):
        compare_tables(binary(), change(binary()))
