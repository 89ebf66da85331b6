"""A spreadsheet of labels beside images: what matches, what does not, what is never guessed."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap.errors import DatasetError, LimitError, ReadError, UsageError
from medmap.layouts import spreadsheet
from medmap.layouts.join import MOST_NEAR, Keys, join, key_columns, label_column, near_keys
from medmap.layouts.spreadsheet import read_spreadsheet
from medmap.layouts.table import Table

FOUND = (
    Keys("1.1.1", "1.1", "000123", "A7"),
    Keys("1.1.2", "1.1", "000123", "A7"),
    Keys("2.1.1", "2.1", "000124", "B8"),
    Keys("3.1.1", "3.1", "", "C9"),
)


def table(header: str, *rows: str) -> Table:
    cells = [row.split(",") for row in rows]
    return Table(Path("labels.csv"), tuple(header.split(",")), cells, list(range(2, 2 + len(rows))))


def test_rows_and_images_that_match_nothing_stand_on_both_sides():
    joined = join(table("Accession Number,label", "000123,benign", "000999,malignant"), FOUND)
    assert (joined.level, joined.column) == ("accession", "Accession Number")
    assert joined.row_of == {0: 0, 1: 0}
    assert joined.rows_left == (1,)
    assert joined.found_left == (2, 3)
    assert joined.loosely == ()


def test_the_most_exact_key_that_matches_is_taken():
    rows = table("PatientID,StudyInstanceUID,label", "A7,1.1,x", "C9,3.1,y")
    assert join(rows, FOUND).level == "study"
    assert join(rows, FOUND, on="patient").row_of == {0: 0, 1: 0, 3: 1}
    other = table("PatientID,StudyInstanceUID,label", "A7,9.9,x")
    assert join(other, FOUND).level == "patient"


def test_leading_zeros_that_a_spreadsheet_dropped():
    joined = join(table("acc,label", "123,x", "124.0,y"), FOUND)
    assert joined.row_of == {0: 0, 1: 0, 2: 1}
    assert joined.loosely == (0, 1)
    ambiguous = (Keys("1", "1", "0123", "A"), Keys("2", "2", "00123", "B"))
    with pytest.raises(DatasetError, match="leading zeros alone"):
        join(table("acc,label", "123,x"), ambiguous)
    exact = join(table("acc,label", "0123,x", "123,y"), ambiguous)
    assert exact.row_of == {0: 0, 1: 1}


def test_rows_that_contradict_each_other_are_refused_and_equal_ones_are_not():
    with pytest.raises(DatasetError, match=r"line 2 and labels.csv, line 3"):
        join(table("patient,label", "A7,x", "A7,y"), FOUND)
    assert join(table("patient,label", "A7,x", "A7,x"), FOUND).row_of == {0: 0, 1: 0}


def test_no_key_and_no_match_are_sentences():
    with pytest.raises(DatasetError, match="no column by which"):
        join(table("name,label", "a,x"), FOUND)
    with pytest.raises(DatasetError, match=r"no row of labels\.csv matches"):
        join(table("patient,label", "Z,x"), FOUND)
    with pytest.raises(UsageError, match="joined by a key"):
        join(table("patient,label", "A7,x"), FOUND, on="name")
    with pytest.raises(DatasetError, match=r"images by accession: got patient, label.*AccessionNumber.*leave out --on"):
        join(table("patient,label", "A7,x"), FOUND, on="accession")


def test_columns_by_the_names_that_people_use():
    assert key_columns(["MRN", "Study UID", "Acc. No."]) == {
        "study": "Study UID", "accession": "Acc. No.", "patient": "MRN",
    }  # fmt: skip
    rows = table("MRN,Diagnosis,x", "A7,a,1")
    assert label_column(rows, None) == "Diagnosis"
    assert label_column(rows, "x") == "x"
    with pytest.raises(DatasetError, match="no such column"):
        label_column(rows, "y")


@given(st.lists(st.sampled_from("ABCDEFG"), unique=True), st.lists(st.sampled_from("ABCDEFG"), unique=True, min_size=1))
def test_every_row_and_every_image_is_accounted_for(rows, patients):
    found = [Keys(f"s{p}", f"t{p}", "", p) for p in patients]
    sheet = table("patient,label", *(f"{p},x" for p in rows))
    if not set(rows) & set(patients):
        with pytest.raises(DatasetError):
            join(sheet, found)
        return
    joined = join(sheet, found)
    assert set(joined.row_of.values()) | set(joined.rows_left) == set(range(len(rows)))
    assert set(joined.row_of) | set(joined.found_left) == set(range(len(patients)))
    assert all(found[i].patient == rows[n] for i, n in joined.row_of.items())


@given(st.text("ABC123", min_size=5, max_size=12), st.data())
def test_one_slip_of_the_hand_is_near(key, data):
    at = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.sampled_from("xyz"))
    rest = key[:at] + key[at + 1 :]
    moved = data.draw(st.integers(0, len(rest)))
    slips = (key[:at] + other + key[at + 1 :], rest, key[:at] + other + key[at:], rest[:moved] + key[at] + rest[moved:])
    for slip in (*slips, key.lower()):
        assert near_keys([slip], [key, "nothing alike"]) == {slip: [key]}
        assert near_keys([key], [slip]) == {key: [slip]}
    assert near_keys([key], [other + key + other]) == {}


def test_short_keys_and_very_many_are_not_compared():
    assert near_keys(["123", ""], ["124", "12", ""]) == {}
    many = [f"A{n:05d}" for n in range(MOST_NEAR + 1)]
    assert near_keys(["A00000x"], many) == {}
    assert near_keys(["A00000x"], many[1:]) == {}
    assert near_keys(["A00001x"], many[1:]) == {"A00001x": ["A00001"]}


# -- workbooks --------------------------------------------------------------------------------------------------------


def workbook(path: Path, *sheets: tuple[str, list[list[object]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets:
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook_reads_as_the_same_table_as_csv(tmp_path):
    rows = [
        ["AccessionNumber", "label", "date", "age"],
        ["0012", "x", datetime.datetime(2024, 5, 31), 61.0],
        [13, None, None, 6.5],
    ]
    read = read_spreadsheet(workbook(tmp_path / "a.xlsx", ("empty", []), ("labels", rows)))
    assert read.header == ("AccessionNumber", "label", "date", "age")
    assert read.rows == [["0012", "x", "2024-05-31", "61"], ["13", "", "", "6.5"]]
    assert read.where(1) == "a.xlsx, line 3"
    (tmp_path / "a.csv").write_text("AccessionNumber,label,date,age\n0012,x,2024-05-31,61\n13,,,6.5\n")
    assert read_spreadsheet(tmp_path / "a.csv").rows == read.rows


def test_a_sheet_by_name(tmp_path):
    path = workbook(tmp_path / "a.xlsx", ("one", [["a"], ["1"]]), ("two", [["b"], ["2"]]))
    assert read_spreadsheet(path).header == ("a",)
    assert read_spreadsheet(path, "two").header == ("b",)
    with pytest.raises(DatasetError, match="no such sheet"):
        read_spreadsheet(path, "three")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["a", None, "c"], [1, 2, 3]], "no name"),
        ([["a", "a"], [1, 2]], "same name"),
        ([["a"], [1, 2]], "does not fit.*2 cells, expected 1 cell. Remedy.*title"),
    ],
)
def test_workbooks_that_are_no_table(tmp_path, rows, words):
    with pytest.raises(DatasetError, match=words):
        read_spreadsheet(workbook(tmp_path / "a.xlsx", ("s", rows)))


def test_an_empty_workbook_a_broken_one_and_a_bomb(tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match="holds no table"):
        read_spreadsheet(workbook(tmp_path / "e.xlsx", ("s", [])))
    (tmp_path / "b.xlsx").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ReadError, match="no workbook"):
        read_spreadsheet(tmp_path / "b.xlsx")
    with zipfile.ZipFile(tmp_path / "z.xlsx", "w") as archive:
        archive.writestr("hello.txt", "x")
    with pytest.raises(ReadError, match="no workbook"):
        read_spreadsheet(tmp_path / "z.xlsx")
    monkeypatch.setattr(spreadsheet, "MAX_UNPACKED_BYTES", 100)
    with pytest.raises(LimitError, match="unpacks to more"):
        read_spreadsheet(workbook(tmp_path / "big.xlsx", ("s", [["a"], ["1"]])))
