"""The prediction table and its file: there and back again, and every refusal."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.errors import DataError, DatasetError, ReadError
from medmap.evaluate import PredictionTable, read_predictions, table_of, write_predictions
from medmap.evaluate.csvfile import predictions_text
from medmap.results import Label, Scores


def same(a, b):
    for name in PredictionTable.__dataclass_fields__:
        one, two = getattr(a, name), getattr(b, name)
        if isinstance(one, np.ndarray):
            assert np.array_equal(one, two, equal_nan=True), name
        else:
            assert one == two, name


def test_there_and_back_again(table, tmp_path):
    write_predictions(table, tmp_path / "predictions.csv")
    same(table, read_predictions(tmp_path))


def test_columns_stand_as_the_interface_names_them(binary_table, tmp_path):
    write_predictions(binary_table, tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = list(rows[0])
    assert first[:9] == [
        "case", "patient", "split", "fold", "truth", "predicted", "threshold", "score_malignant", "score_benign"
    ]  # fmt: skip
    assert {row["threshold"] for row in rows} == {"0.3"}
    assert all(row["truth"] in ("malignant", "benign") for row in rows)
    left = [row for row in rows if row["abstained"] == "yes"]
    assert left
    assert all(row["predicted"] == "" for row in left)


hostile = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("=+-@\t\r\n'\",;|"), min_size=1
)


@given(hostile, hostile, st.one_of(st.none(), hostile, st.floats(allow_nan=False)))
def test_hostile_text_comes_back_and_is_never_a_formula(case, patient, value):
    table = PredictionTable(
        (case,), (patient,), [0], [[0.25, 0.75]], ("=cmd|' /C calc'!A0", "b"), "binary", 0, columns={patient: (value,)}
    )
    text = predictions_text(table)
    for row in csv.reader(text.splitlines(keepends=True)):
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t", "\r")) or _number(cell), cell
            assert not cell.startswith("-") or _number(cell), cell
    same(table, _through(text))


def _number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _through(text):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.csv"
        path.write_bytes(text.encode())
        return read_predictions(path)


def test_texts_that_look_like_numbers_stay_texts(binary_table, tmp_path):
    n = len(binary_table)
    table = replace(
        binary_table, cases=tuple(f"{i:04d}" for i in range(n)), columns={"code": ("007", 7.0, None) * (n // 3)}
    )
    write_predictions(table, tmp_path / "predictions.csv")
    back = read_predictions(tmp_path)
    assert back.columns["code"][:3] == ("007", 7.0, None)
    assert (tmp_path / "predictions.csv").read_text().splitlines()[1].startswith("0000,"), (
        "identifiers stay as they are"
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: "", "empty"),
        (lambda t: t.splitlines()[0], "no table of predictions"),
        (lambda t: t.replace("kind", "sort", 1), "missing columns: kind"),
        (lambda t: t.replace("binary", "trinary"), "unknown kind"),
        (lambda t: t.replace("case_000,P000", "case_000"), "cells"),
        (lambda t: t.replace("benign,", "purple,", 1), "cell that cannot be read"),
        (lambda t: t.replace("score_benign", "score_malignant", 1), "names a column twice"),
        (lambda t: t.replace("0.3,", "0,3x,", 1), "cells"),
        (lambda t: t.replace("case_001,", 'ca"se,', 1) + '"', "CSV"),
    ],
)
def test_a_damaged_file_is_one_sentence(binary_table, tmp_path, damage, words):
    path = tmp_path / "predictions.csv"
    path.write_text(damage(predictions_text(binary_table)))
    with pytest.raises(ReadError, match=words):
        read_predictions(path)


def test_an_absent_file_says_what_to_do(tmp_path):
    with pytest.raises(ReadError, match="medmap evaluate"):
        read_predictions(tmp_path / "nowhere.csv")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "predictions.csv").write_bytes(b"\xff\xfe\x00case")
    with pytest.raises(ReadError, match="CSV"):
        read_predictions(tmp_path)


def test_a_threshold_that_differs_between_rows(binary_table, tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(predictions_text(binary_table).replace(",0.3,", ",0.4,", 1))
    with pytest.raises(DataError, match="differs from row to row"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "sums"}, "unknown kind"),
        ({"cases": ("a",) * 120}, "stands twice"),
        ({"patients": ("a",)}, "patients do not fit"),
        ({"scores": np.full((120, 2), 1.5)}, "outside 0…1"),
        ({"scores": np.full((120, 2), np.nan)}, "not a finite number"),
        ({"truth": np.full(120, 2)}, "unknown class"),
        ({"truth": np.zeros((120, 2))}, "truth does not fit"),
        ({"positive": None}, "which is positive"),
        ({"labels": ("a", "a")}, "absent or repeat"),
        ({"thresholds": (0.5,)}, "do not fit the classes"),
        ({"thresholds": (1.5, 0.5)}, "outside 0…1"),
        ({"columns": {"age": (1.0,)}}, "column age do not fit"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(binary_table, changes, words):
    with pytest.raises(DataError, match=words):
        replace(binary_table, **{"decided": (), **changes})


def test_some_of_the_cases(binary_table):
    part = binary_table.at(binary_table.is_positive)
    assert len(part) == int(binary_table.is_positive.sum())
    assert part.is_positive.all()
    same(part, binary_table.at(np.flatnonzero(binary_table.is_positive)))
    assert len(binary_table.at([])) == 0


def test_only_binary_tables_have_a_positive_score():
    table = PredictionTable(("a",), ("a",), [[1.0]], [[2.0]], ("age",), "regression")
    with pytest.raises(DataError, match="only binary"):
        _ = table.positive_scores
    with pytest.raises(DataError, match="no classes"):
        _ = table.classes


def cases(*labels):
    return tuple(Case(f"c{i}", "p", {"x": Ref("a")}, Truth(label is not None, label)) for i, label in enumerate(labels))


def test_the_table_of_a_dataset_leaves_out_what_nobody_labelled():
    labels = (Label("a"), Label("b"))
    data = Dataset("d", "classify", cases(0, None, 1), {"x": InputSpec()}, labels, "binary", positive=1)
    scores = {case.id: Scores(labels, [0.4, 0.6], "binary", decided=("b",)) for case in data}
    table = table_of(data, scores, thresholds=(0.5, 0.5), folds={"c2": 4})
    assert table.cases == ("c0", "c2")
    assert table.folds == (None, 4)
    assert table.uncalibrated is None
    with pytest.raises(DatasetError, match="no case"):
        table_of(data, {})
    with pytest.raises(DatasetError, match="are of different classes"):
        table_of(data, {"c0": Scores((Label("a"), Label("z")), [0.4, 0.6], "binary")})
