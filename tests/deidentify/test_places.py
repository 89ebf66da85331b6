"""Folders that cannot be read, links, pipes, keys and reports in the wrong place: nothing is missing without a word."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from objects import ct_slice, file_of
from typer.testing import CliRunner

import medmap as mm
from medmap.cli.app import app
from medmap.deidentify import Deidentified, archive
from medmap.deidentify.archive import Finished, files_of, journal_lines
from medmap.errors import UsageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One file, and one in a folder."""
    folder = tmp_path / "in"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.dcm").write_bytes(file_of(ct_slice(1)))
    (folder / "inner" / "b.dcm").write_bytes(file_of(ct_slice(2)))
    return folder


@pytest.fixture
def closed(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of folders that cannot be listed, whoever runs the tests: rights do not bind an administrator."""
    names = {"inner"}
    scandir = os.scandir

    def listed(path: Path | str) -> object:
        if Path(path).name in names:
            raise PermissionError(13, "no")
        return scandir(path)

    monkeypatch.setattr(archive.os, "scandir", listed)
    return names


def reasons(made: Deidentified) -> dict[str, int]:
    return {str(row["reason"]): int(row["files"]) for row in made.verification.problems}


def test_a_folder_that_cannot_be_read_is_refused_and_tried_again(
    source: Path, closed: set[str], tmp_path: Path
) -> None:
    made = mm.deidentify(source, tmp_path / "out")
    assert (made.verification.written, made.verification.refused) == (1, 1)
    assert reasons(made) == {archive.FOLDER_UNREADABLE: 1}
    assert {line["path"] for line in journal_lines(made.journal) if "path" in line} == {"inner"}
    again = mm.deidentify(source, tmp_path / "out", resume=True)
    assert (again.verification.written, again.verification.refused) == (1, 1), "counted once, not once a run"
    closed.clear()
    whole = mm.deidentify(source, tmp_path / "out", resume=True)
    assert (whole.verification.written, whole.verification.refused) == (2, 0)


def test_the_command_ends_with_1_for_a_folder_that_cannot_be_read(
    source: Path, closed: set[str], tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["deidentify", str(source), str(tmp_path / "out"), "--workers", "1"])
    assert done.exit_code == 1, done.output
    assert f"not copied: 1 × {archive.FOLDER_UNREADABLE}" in done.stdout


def test_a_source_that_cannot_be_listed_is_refused(source: Path, closed: set[str], tmp_path: Path) -> None:
    closed.add("in")
    made = mm.deidentify(source, tmp_path / "out")
    assert (made.verification.written, made.verification.refused) == (0, 1)


def test_a_file_that_cannot_be_read_is_tried_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refused(path: Path, *words: object, **more: object) -> object:
        if path.name == "b.dcm":
            raise PermissionError(13, "no")
        return opened(path, *words, **more)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        made = mm.deidentify(source, tmp_path / "out")
    assert (made.verification.written, made.verification.refused) == (1, 1)
    assert reasons(made) == {f"{archive.FILE_UNREADABLE}: PermissionError": 1}
    whole = mm.deidentify(source, tmp_path / "out", resume=True)
    assert (whole.verification.written, whole.verification.refused) == (2, 0)


def test_links_and_pipes(source: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "c.dcm").write_bytes(file_of(ct_slice(3)))
    (source / "folder").symlink_to(elsewhere)
    (source / "circle").symlink_to(source)
    (source / "file.dcm").symlink_to(elsewhere / "c.dcm")
    (source / "nowhere").symlink_to(tmp_path / "gone")
    (source / "itself").symlink_to(source / "itself")
    os.mkfifo(source / "pipe")
    made = mm.deidentify(source, tmp_path / "out")
    assert made.verification.written == 3, "a linked file is read, a linked folder is not entered"
    assert reasons(made) == {
        archive.LINK_TO_FOLDER: 2,
        archive.NO_FILE: 1,
        archive.LINK_TO_NOTHING: reasons(made).get(archive.LINK_TO_NOTHING, 0),
        **({archive.FILE_UNREADABLE: 1} if archive.FILE_UNREADABLE in reasons(made) else {}),
    }
    assert made.verification.refused == 2, "the two links that lead nowhere"
    assert made.verification.skipped == 3


def test_folders_nested_without_end_are_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_FOLDERS", 3)
    (source / "1" / "2" / "3").mkdir(parents=True)
    (source / "1" / "2" / "3" / "c.dcm").write_bytes(file_of(ct_slice(3)))
    made = mm.deidentify(source, tmp_path / "out")
    assert (made.verification.written, reasons(made)) == (2, {archive.FOLDER_TOO_DEEP: 1})


def test_a_zip_that_cannot_be_opened_is_said(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(source / "b.zip", "w") as packed:
        packed.writestr("b.dcm", file_of(ct_slice(4)))

    def refused(*_: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(archive.zipfile, "ZipFile", refused)
    made = mm.deidentify(source, tmp_path / "out")
    assert made.verification.refused == 1


def test_a_key_in_the_source_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="key would lie in the source"):
        mm.deidentify(source, tmp_path / "out", key=source / "inner" / "key")
    with pytest.raises(UsageError, match="key would lie in the source"):
        mm.deidentify(source / "a.dcm", tmp_path / "out", key=source / "a.dcm")
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UsageError, match="key would lie in the source"):
        mm.deidentify(source, tmp_path / "out", key=tmp_path / "link" / "key")
    assert not (tmp_path / "out").exists()


def test_places_are_judged_behind_links(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UsageError, match="output lies in the source"):
        mm.deidentify(source, tmp_path / "link" / "out")
    with pytest.raises(UsageError, match="source lies in the output"):
        mm.deidentify(tmp_path / "link" / "inner", source)


@pytest.mark.parametrize("report", ["out.key", "out.journal", "mine.html"])
def test_a_report_takes_the_place_of_no_key_and_no_journal(report: str, source: Path, tmp_path: Path) -> None:
    key = tmp_path / ("mine.json" if report == "mine.html" else "out.key")
    with pytest.raises(UsageError, match="key or the journal"):
        mm.deidentify(source, tmp_path / "out", key=key, report=tmp_path / report)
    assert not key.exists()


def test_the_report_says_what_was_not_looked_at(source: Path, tmp_path: Path) -> None:
    made = mm.deidentify(source, tmp_path / "out", report=tmp_path / "plain.html")
    assert any("--clean pixels" in sentence for sentence in made.verification.limits)
    assert any("--clean face" in sentence for sentence in made.verification.limits)
    page = (tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "What was not looked at" in page
    assert "Video" in page
    made = mm.deidentify(source, tmp_path / "out2", clean=["pixels", "face"], keep=["safe-private"])
    said = " ".join(made.verification.limits)
    assert "--clean" not in said
    assert "8 GiB" in said
    assert "safe private" in said
    notes = {row["note"]: row["files"] for row in made.verification.notes}
    assert notes["pixels not looked at: a picture as a scanner reconstructs it"] == 2


def test_all_files_of_a_folder_are_found(tmp_path: Path) -> None:
    expected = set()
    for folder in ("", "x", "x/y", "z"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(3):
            (tmp_path / folder / f"{number}").write_text("")
            expected.add(f"{folder}/{number}".lstrip("/"))
    assert {found.name for found in files_of(tmp_path)} == expected


@given(st.sets(st.integers(0, 2**64 - 1), max_size=40), st.integers(0, 2**64 - 1))
def test_finished_files_are_those_that_were_given(numbers: set[int], other: int) -> None:
    finished = Finished(f"{number:016x}" for number in [*numbers, *numbers])
    assert len(finished) == len(numbers)
    assert all(f"{number:016x}" in finished for number in numbers)
    assert (f"{other:016x}" in finished) == (other in numbers)
