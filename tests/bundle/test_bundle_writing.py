"""Written whole or not at all: full disks, kills and what stood there before."""

import errno
import os
from pathlib import Path

import pytest

from bundle.conftest import make_spec
from medmap.bundle import Bundle
from medmap.bundle import files as bundle_files
from medmap.errors import BundleError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
# spec.json, weights.safetensors, CARD.md, extra.csv, SHA256SUMS
WRITES = 5


def _failing(monkeypatch, owner, name, at, *, after=None):
    """Let the ``at``-th call fail as a full disk does; ``after`` first does part of the work."""
    original, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) - 1 == at:
            if after is not None:
                after(*args)
            raise FULL
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return calls


def _new(path, states, **more):
    return Bundle.write(path, make_spec(name="new"), states, card="new", files={"extra.csv": b"a\n"}, **more)


@pytest.fixture
def old(tmp_path, spec, states):
    return Bundle.write(tmp_path / "bundle", spec, states, card="old")


def _half(path, data):
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("at", range(WRITES))
@pytest.mark.parametrize("after", [None, _half])
def test_a_disk_full_at_any_file_leaves_the_old_bundle_and_no_litter(old, states, monkeypatch, at, after):
    calls = _failing(monkeypatch, bundle_files, "_write", at, after=after)
    with pytest.raises(BundleError, match=r"could not be written.*No space left.*untouched"):
        _new(old.path, states, overwrite=True)
    assert len(calls) == at + 1
    assert Bundle.load(old.path).digest == old.digest
    assert [entry.name for entry in old.path.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("at", range(WRITES + 2))  # the files, the new folder, the parent after the renames
def test_a_failing_sync_leaves_the_old_bundle_and_no_litter(old, states, monkeypatch, at):
    calls = _failing(monkeypatch, os, "fsync", at)
    with pytest.raises(BundleError, match="could not be written"):
        _new(old.path, states, overwrite=True)
    assert len(calls) == at + 1
    assert Bundle.load(old.path).digest == old.digest
    assert [entry.name for entry in old.path.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("at", [0, 1])  # the old one aside, the new one in
def test_a_failing_rename_leaves_the_old_bundle_and_no_litter(old, states, monkeypatch, at):
    _failing(monkeypatch, Path, "rename", at)
    with pytest.raises(BundleError, match="could not be written"):
        _new(old.path, states, overwrite=True)
    monkeypatch.undo()
    assert Bundle.load(old.path).digest == old.digest
    assert [entry.name for entry in old.path.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("at", range(WRITES))
def test_a_first_write_that_fails_leaves_nothing(tmp_path, states, monkeypatch, at):
    _failing(monkeypatch, bundle_files, "_write", at, after=_half)
    with pytest.raises(BundleError, match="could not be written"):
        _new(tmp_path / "bundle", states)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_the_old_bundle_and_no_litter(old, states, monkeypatch):
    def interrupted(path, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_files, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _new(old.path, states, overwrite=True)
    assert Bundle.load(old.path).digest == old.digest
    assert [entry.name for entry in old.path.parent.iterdir()] == ["bundle"]


def test_killed_between_the_renames_the_old_bundle_is_found(old, states):
    # what kill -9 leaves: the old one aside, the new one not yet in
    aside, writing = (old.path.parent / f".bundle.medmap-{what}" for what in ("previous", "writing"))
    old.path.rename(aside)
    writing.mkdir()
    (writing / "spec.json").write_text("half")
    found = Bundle.load(old.path)
    assert found.digest == old.digest
    assert Bundle.load(old.path.parent).digest == old.digest  # as a run folder
    new = _new(old.path, states, overwrite=True)
    assert Bundle.load(old.path).digest == new.digest != old.digest
    assert [entry.name for entry in old.path.parent.iterdir()] == ["bundle"]


def test_killed_before_the_old_one_was_deleted_the_new_one_counts(old, states):
    aside = old.path.parent / ".bundle.medmap-previous"
    old.path.rename(aside)
    new = _new(old.path.parent / "elsewhere", states)
    new.path.rename(old.path)
    assert Bundle.load(old.path).digest == new.digest
    _new(old.path, states, overwrite=True)
    assert [entry.name for entry in old.path.parent.iterdir()] == ["bundle"]


def test_an_old_one_that_cannot_be_deleted_does_not_spoil_the_new(old, states, monkeypatch):
    def locked(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bundle_files.shutil, "rmtree", locked)
    new = _new(old.path, states, overwrite=True)
    monkeypatch.undo()
    assert Bundle.load(old.path).digest == new.digest


def test_overwriting_is_asked_for_and_only_ever_a_bundle(old, states, tmp_path):
    with pytest.raises(BundleError, match="exists already"):
        _new(old.path, states)
    assert Bundle.load(old.path).digest == old.digest
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    for taken in ("thesis", "file", "link"):
        with pytest.raises(BundleError, match="something else than a bundle"):
            _new(tmp_path / taken, states, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert _new(tmp_path / "empty", states, overwrite=True).spec.name == "new"


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, states):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="could not be written"):
        _new(tmp_path / "file" / "bundle", states)


# -- a copy ----------------------------------------------------------------------------------------------------------


def test_a_copy_keeps_every_byte_and_has_files_beside_it(old, tmp_path):
    copy = old.copied(tmp_path / "deep" / "copy", {"choice.json": b"{}"})
    assert (copy.path, copy.digest) == (tmp_path / "deep" / "copy" / "bundle", old.digest)
    assert {path.name for path in copy.path.parent.iterdir()} == {"bundle", "choice.json"}
    assert copy.weight_count == old.weight_count == sum(t.numel() for m in (0, 1) for t in old.state_dict(m).values())
    (tmp_path / "empty").mkdir()
    assert old.copied(tmp_path / "empty").digest == old.digest


@pytest.mark.parametrize("at", range(8))  # four files, their folder, the file beside, the new folder, the parent
def test_a_copy_is_whole_or_not_at_all(old, monkeypatch, at):
    calls = _failing(monkeypatch, os, "fsync", at)
    with pytest.raises(BundleError, match=r"could not be copied to .*copy: got No space left"):
        old.copied(old.path.parent / "copy", {"choice.json": b"{}"})
    assert len(calls) == at + 1
    monkeypatch.undo()
    assert Bundle.load(old.path).digest == old.digest
    left = {entry.name for entry in old.path.parent.iterdir()}
    assert left == {"bundle", "copy"} if at == 7 else {"bundle"}
    if at == 7:  # it was in its place already
        assert Bundle.load(old.path.parent / "copy").digest == old.digest


def test_an_interrupted_copy_leaves_nothing(old, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_files, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        old.copied(old.path.parent / "copy", {"choice.json": b"{}"})
    assert [entry.name for entry in old.path.parent.iterdir()] == ["bundle"]


def test_a_bundle_changed_meanwhile_and_a_place_that_is_taken_are_refused(old, states, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "chapter.txt").write_text("years of work")
    for taken in ("file", "link", "full", "bundle"):
        with pytest.raises(BundleError, match="exists already"):
            old.copied(tmp_path / taken)
    assert (tmp_path / "full" / "chapter.txt").read_text() == "years of work"
    with pytest.raises(BundleError, match="could not be copied"):
        old.copied(tmp_path / "file" / "copy")
    _new(old.path, states, overwrite=True)
    with pytest.raises(BundleError, match="was changed after it was opened"):
        old.copied(tmp_path / "copy")
    (old.path / "extra.csv").write_bytes(b"b\n")
    with pytest.raises(BundleError, match="was changed after the bundle was written"):
        old.copied(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
