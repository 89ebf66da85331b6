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
