"""Whole archives: a planted patient is nowhere, no original changes, a killed run goes on, bad files are refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from objects import BIRTH, NAME, PATIENT_ID, STUDY_DATE, UIDS, ct_slice, file_of
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from typer.testing import CliRunner

import medmap as mm
from medmap.cli.app import app
from medmap.deidentify import create_key, load_key
from medmap.deidentify.archive import journal_lines
from medmap.deidentify.instance import made
from medmap.errors import ConfigError, DataError, UsageError


def planted(number: int = 1) -> bytes:
    """The invented patient everywhere an object has room for a word."""
    ds = ct_slice(number)
    ds.SeriesDescription = "lung for Dulcinea QUIXOTELY born 23.09.1948"
    ds.ImageComments = f"seen {STUDY_DATE[:4]}-{STUDY_DATE[4:6]}-{STUDY_DATE[6:]} {PATIENT_ID}"
    ds.ManufacturerModelName = "Scanner 9 of Quixotely"
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "Lung of Dulcinea"
    deep = Dataset()
    deep.PatientName, deep.PatientID, deep.ContentDate = NAME, PATIENT_ID, STUDY_DATE
    deep.ReferencedSOPInstanceUID = UIDS[0]
    item.RealWorldValueMappingSequence = Sequence([deep])
    ds.DerivationCodeSequence = Sequence([item])
    block = ds.private_block(0x0029, "QUIXOTELY INC", create=True)
    block.add_new(1, "OB", b"zephyrine quixotely" + b"\0")
    block.add_new(2, "LO", PATIENT_ID)
    ds.add_new(0x60003000, "OW", b"Quixotely " * 2)
    ds.add_new(0x60000010, "US", 4)
    ds.add_new(0x50000010, "US", 4)
    ds.PixelData = (b"\xff\xfe" * 128) + bytes(256)
    return file_of(ds, preamble=b"II*\0 Quixotely".ljust(128, b"\0"))


NEEDLES = [
    *(b"quixotely", b"dulcinea", b"zephyrine", b"mrn-7741", b"acc99182736", b"vexillary", b"brontewick", b"osgood"),
    *(BIRTH.encode(), STUDY_DATE.encode(), b"23.09.1948", b"2019-08-17", b"sn-445566", b"s4471"),
    *(uid.encode() for uid in UIDS),
]  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two series of the planted patient, files that are no DICOM, and names of files that tell who it is."""
    folder = tmp_path / "in" / "Quixotely_Dulcinea"
    folder.mkdir(parents=True)
    for number in (1, 2, 3):
        (folder / f"Quixotely {number}.dcm").write_bytes(planted(number))
    (tmp_path / "in" / "Quixotely.txt").write_text("letter to Dulcinea")
    with zipfile.ZipFile(tmp_path / "in" / "more.zip", "w") as packed:
        packed.writestr("../../Quixotely.dcm", planted(4))
        packed.writestr("readme", "nothing")
    return tmp_path / "in"


def everything(folder: Path) -> bytes:
    """All bytes and all names under a folder, in lower case."""
    parts = [str(path.relative_to(folder)).encode() for path in sorted(folder.rglob("*"))]
    parts += [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\n".join(parts).lower()


@pytest.mark.parametrize("keep", [(), ("dates-modified", "patient"), ("safe-private", "device")])
@pytest.mark.parametrize("clean", [(), ("descriptors", "structured")])
def test_a_planted_patient_is_nowhere(
    archive: Path, tmp_path: Path, keep: tuple[str, ...], clean: tuple[str, ...]
) -> None:
    before = everything(archive)
    made = mm.deidentify(archive, tmp_path / "out", keep=keep, clean=clean, report=tmp_path / "report.html")
    assert everything(archive) == before, "the originals are untouched"
    assert made.verification.clean
    assert made.verification.written == 4
    needles = [n for n in NEEDLES if not ("device" in keep and n == b"sn-445566")]
    for where in (
        everything(made.output),
        (tmp_path / "report.html").read_bytes().lower(),
        (tmp_path / "report.json").read_bytes().lower(),
    ):
        assert [needle for needle in needles if needle in where] == []
    files = sorted(made.output.rglob("*.dcm"))
    assert len(files) == 4
    read = [pydicom.dcmread(path) for path in files]
    assert len({ds.PatientID for ds in read}) == len({ds.StudyInstanceUID for ds in read}) == 1
    assert read[0].PatientID == files[0].relative_to(made.output).parts[0]
    assert len({ds.SOPInstanceUID for ds in read}) == 4
    for ds in read:
        assert ds.preamble == bytes(128)
        assert ds.PixelData == (b"\xff\xfe" * 128) + bytes(256)
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert "SourceApplicationEntityTitle" not in ds.file_meta
        assert ds.PatientIdentityRemoved == "YES"
        assert ds.ManufacturerModelName == "Scanner 9 of"
        assert ds.DerivationCodeSequence[0].CodeMeaning == "Lung of"
        assert (ds.Rows, ds.KVP, ds.BodyPartExamined, str(ds.Modality)) == (16, 120, "CHEST", "CT")
        nested = ds.DerivationCodeSequence[0].RealWorldValueMappingSequence[0]
        assert nested.ReferencedSOPInstanceUID == ds.StudyInstanceUID, "one UID becomes one UID everywhere"
        if "dates-modified" in keep:
            assert nested.ContentDate == ds.StudyDate != STUDY_DATE
            assert ds.PatientAge == "070Y"
    names = {str(line["path"]) for line in journal_lines(made.journal) if "path" in line}
    assert names == {"Quixotely.txt", "more.zip#readme"}
    assert made.journal.stat().st_mode & 0o077 == made.key.stat().st_mode & 0o077 == 0


def test_what_cannot_be_cleaned_is_reported_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(file_of(ct_slice(BodyPartExamined="QUIXOTELY")))
    words = [
        "deidentify",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--report",
        str(tmp_path / "r.html"),
        "--workers",
        "1",
        "--json",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert found["residuals"] == [{"place": "00180015", "name": "Body Part Examined", "kind": "name", "files": 1}]
    assert not found["clean"]
    page = (tmp_path / "r.html").read_text()
    assert "Body Part Examined" in page
    assert "113100" in page
    assert "quixotely" not in page.lower()


def test_the_same_key_gives_the_same_pseudonyms_and_another_key_others(archive: Path, tmp_path: Path) -> None:
    first = mm.deidentify(archive, tmp_path / "a", key=tmp_path / "project.key")
    again = mm.deidentify(archive, tmp_path / "b", key=tmp_path / "project.key")
    other = mm.deidentify(archive, tmp_path / "c")
    assert everything(first.output) == everything(again.output)
    names = [{p.name for p in folder.output.iterdir()} for folder in (first, other)]
    assert names[0].isdisjoint(names[1])


def test_a_killed_run_goes_on_and_redoes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(150):
        (source / f"{number}.dcm").write_bytes(file_of(ct_slice(number)))
    whole = mm.deidentify(source, tmp_path / "whole", key=tmp_path / "k")
    code = "import sys, medmap as mm; mm.deidentify(sys.argv[1], sys.argv[2], key=sys.argv[3])"
    out = tmp_path / "out"
    running = subprocess.Popen([sys.executable, "-c", code, str(source), str(out), str(tmp_path / "k")])
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.dcm"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.kill()
    running.wait()
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}
    recorded = {out / str(line["o"]) for line in journal_lines(tmp_path / "out.journal") if "o" in line}
    assert 20 <= len(finished) < 150
    assert recorded <= set(finished)
    for path in finished:
        assert path.read_bytes() == (whole.output / path.relative_to(out)).read_bytes(), "no file is half written"
    with (tmp_path / "out.journal").open("a") as journal:
        journal.write('{"s": "cut sho')
    with pytest.raises(UsageError, match="resume"):
        mm.deidentify(source, out, key=tmp_path / "k")
    made = mm.deidentify(source, out, key=tmp_path / "k", resume=True, workers=2)
    assert made.verification.written == 150
    assert all(path.stat().st_mtime_ns == finished[path] for path in recorded)
    assert everything(out) == everything(whole.output)
    with pytest.raises(UsageError, match="other options"):
        mm.deidentify(source, out, key=tmp_path / "k", resume=True, keep=["patient"])


def test_bad_files_are_refused_and_nothing_of_them_is_written(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    whole = file_of(ct_slice())
    for cut in range(140, len(whole), 97):
        (source / f"cut{cut}.dcm").write_bytes(whole[:cut])
    (source / "deep.dcm").write_bytes(
        whole + b"\x40\x00\x96\x90SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    )
    level = bottom = Dataset()
    for _ in range(60):
        below = Dataset()
        bottom.RealWorldValueMappingSequence = Sequence([below])
        bottom = below
    bottom.PatientComments = "x"
    (source / "deep60.dcm").write_bytes(file_of(ct_slice(RealWorldValueMappingSequence=Sequence([level]))))
    (source / "long.dcm").write_bytes(whole[:-516] + b"\xff\xff\xff\x7f" + b"tiny")
    with zipfile.ZipFile(source / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("bomb.dcm", whole + bytes(200_000_000))
    made = mm.deidentify(source, tmp_path / "out")
    found = made.verification
    cuts = len(list(source.glob("cut*")))
    assert found.refused + found.written == cuts + 4
    assert found.clean
    reasons = {row["digest"]: row["reason"] for row in found.refused_files}
    assert sum("nested too deep" in reason for reason in reasons.values()) == 2
    assert sum("packed file is too large" in reason for reason in reasons.values()) == 1
    for path in (tmp_path / "out").rglob("*"):
        assert not path.name.endswith(".part")
        if path.is_file():
            assert [n for n in NEEDLES if n in path.read_bytes().lower()] == []


def test_refusals_of_places(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="output lies in the source"):
        mm.deidentify(archive, archive / "out")
    with pytest.raises(UsageError, match="output lies in the source"):
        mm.deidentify(archive, archive)
    with pytest.raises(UsageError, match="source lies in the output"):
        mm.deidentify(archive, tmp_path)
    with pytest.raises(UsageError, match="key would lie with the data"):
        mm.deidentify(archive, tmp_path / "out", key=tmp_path / "out" / "key")
    with pytest.raises(DataError, match="does not exist"):
        mm.deidentify(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        mm.deidentify(archive, tmp_path / "full")
    with pytest.raises(UsageError, match="is a file"):
        mm.deidentify(archive, tmp_path / "full" / "x")
    with pytest.raises(UsageError, match="too few workers"):
        mm.deidentify(archive, tmp_path / "out", workers=0)
    with pytest.raises(UsageError, match="unknown profile"):
        mm.deidentify(archive, tmp_path / "out", profile="strict")
    with pytest.raises(UsageError, match="unknown option to keep"):
        mm.deidentify(archive, tmp_path / "out", keep=["names"])
    with pytest.raises(UsageError, match="both"):
        mm.deidentify(archive, tmp_path / "out", keep=["dates", "dates-modified"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no DICOM file"):
        mm.deidentify(tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize("words", [None, "a letter"], ids=["empty", "without DICOM"])
def test_a_refused_call_leaves_nothing_and_the_corrected_one_works(
    archive: Path, tmp_path: Path, words: str | None
) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    if words is not None:
        (wrong / "letter.txt").write_text(words)
    output = tmp_path / "new" / "out"
    with pytest.raises(DataError, match=r"no DICOM file.*name the folder"):
        mm.deidentify(wrong, output)
    assert not output.parent.exists(), "neither output, journal and key nor the folder made for them"
    assert mm.deidentify(archive, output).verification.written == 4


def test_a_refused_call_takes_away_nothing_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "out").mkdir()
    key = create_key(tmp_path / "project.key")
    with pytest.raises(DataError, match="no DICOM file"):
        mm.deidentify(tmp_path / "wrong", tmp_path / "out", key=tmp_path / "project.key")
    assert load_key(tmp_path / "project.key") == key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "project.key", "wrong"]


def test_the_report_says_where_a_pseudonym_stands(archive: Path, tmp_path: Path) -> None:
    made = mm.deidentify(archive, tmp_path / "out", report=tmp_path / "report.html")
    actions = {(row["name"], row["action"]) for row in made.verification.attributes}
    for name in ("Patient's Name", "Patient ID"):
        assert {action for n, action in actions if n == name} == {"replaced by a pseudonym"}
    assert ("Patient's Birth Date", "emptied") in actions
    assert "replaced by a pseudonym" in (tmp_path / "report.html").read_text()


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"
    key = create_key(path)
    assert load_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert key.secret.hex() not in repr(key)
    with pytest.raises(UsageError, match="exists already"):
        create_key(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="read by others"):
        load_key(path)
    for text in ("{}", "nothing", "[]", '{"medmap_deidentify_key": 1, "secret": "00"}'):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(ConfigError):
            load_key(path)


def test_a_resumed_run_without_its_key_is_refused(archive: Path, tmp_path: Path) -> None:
    made = mm.deidentify(archive, tmp_path / "out")
    made.key.unlink()
    with pytest.raises(UsageError, match="is not there"):
        mm.deidentify(archive, tmp_path / "out", resume=True)


def test_a_dicomdir_is_dropped(shared_data: Path, tmp_path: Path) -> None:
    directory = next((shared_data / "dicom").rglob("DICOMDIR"))
    (tmp_path / "in").mkdir()
    shutil.copy(directory, tmp_path / "in" / "DICOMDIR")
    (tmp_path / "in" / "a").write_bytes(file_of(ct_slice()))
    found = mm.deidentify(tmp_path / "in", tmp_path / "out").verification
    assert (found.written, found.skipped) == (1, 1)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "reportsi.dcm", "rtplan.dcm"])
def test_outputs_are_no_worse_than_inputs(name: str, tool: Callable[[str], str], tmp_path: Path) -> None:
    validator = tool("dciodvfy")
    from pydicom.data import get_testdata_file

    source = Path(str(get_testdata_file(name)))
    made = mm.deidentify(source, tmp_path / "out")
    (output,) = made.output.rglob("*.dcm")

    def errors(path: Path) -> set[str]:
        done = subprocess.run([validator, str(path)], capture_output=True, text=True, check=False, errors="replace")
        lines = (done.stdout + done.stderr).splitlines()
        return {re.sub(r"InstanceUID [0-9.]+", "InstanceUID", line) for line in lines if line.startswith("Error")}

    assert errors(output) - errors(source) == set()
    assert len(pydicom.dcmread(output)) > 20


def test_a_broken_zip_among_files_stops_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.dcm").write_bytes(file_of(ct_slice()))
    with zipfile.ZipFile(source / "b.zip", "w") as packed:
        packed.writestr("b.dcm", file_of(ct_slice(2)))
    content = (source / "b.zip").read_bytes()
    (source / "b.zip").write_bytes(content.replace(b"PK\1\2", b"xx\1\2"))
    found = mm.deidentify(source, tmp_path / "out").verification
    assert found.written == 1
    assert [row["reason"] for row in found.problems] == ["a file in the zip is damaged or encrypted: got BadZipFile."]


def test_a_deflated_bomb_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(made.__globals__, "_DEFLATED_BYTES", 1 << 20)
    ds = ct_slice()
    ds.add_new(0x00420011, "OB", bytes(1 << 23))
    (tmp_path / "a.dcm").write_bytes(file_of(ds, "1.2.840.10008.1.2.1.99"))
    found = mm.deidentify(tmp_path / "a.dcm", tmp_path / "out").verification
    assert found.written == 0
    assert "unpacks to far more than images do" in str(found.problems[0]["reason"])


def test_a_report_overwrites_no_image(archive: Path, tmp_path: Path) -> None:
    picture = tmp_path / "precious.dcm"
    picture.write_bytes(file_of(ct_slice()))
    before = picture.read_bytes()
    with pytest.raises(UsageError, match="is no report"):
        mm.deidentify(archive, tmp_path / "out", report=picture)
    with pytest.raises(UsageError, match="in the source"):
        mm.deidentify(archive, tmp_path / "out", report=archive / "r.html")
    assert picture.read_bytes() == before
