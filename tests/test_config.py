from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from medmap.config import (
    MAX_YAML_BYTES,
    MAX_YAML_DEPTH,
    Section,
    parse_yaml,
    read_text,
    to_yaml,
    validate,
    with_overrides,
    write_atomically,
)
from medmap.errors import ConfigError


class Fit(Section):
    epochs: int = Field(5, ge=1, le=1000)
    rate: float = Field(1e-3, gt=0, lt=1)
    mode: Literal["plain", "fast"] = "plain"


class Whole(Section):
    fit: Fit = Fit()
    seed: int


# -- YAML ------------------------------------------------------------------------------------------------------------

WORDS = st.text(max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(WORDS, PLAIN, max_size=4))
def test_what_is_written_is_read_back(data: dict[str, Any]) -> None:
    assert parse_yaml(to_yaml(data), "run.yaml") == data


def test_order_stays_tuples_become_lists_and_nothing_is_anchored() -> None:
    shared = [1, 2]
    text = to_yaml({"zebra": (1, 2, 3), "apple": shared, "other": shared, "größe": "µm"})
    assert text.splitlines() == ["zebra: [1, 2, 3]", "apple: [1, 2]", "other: [1, 2]", "größe: µm"]


def test_words_stay_words_and_exponents_are_numbers() -> None:
    data = parse_yaml("labels: {0: no, 1: yes, 2: off, 3: y}\nrate: 1e-4\nflag: true\ntext: '1e-4'", "dataset.yaml")
    assert data["labels"] == {0: "no", 1: "yes", 2: "off", 3: "y"}
    assert data["rate"] == 1e-4
    assert data["flag"] is True
    assert data["text"] == "1e-4"
    assert parse_yaml(to_yaml(data), "dataset.yaml") == data


BILLION_LAUGHS = "a: &a [x, x]\n" + "\n".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("a: 1\na: 2", "stands twice in one block: got a"),
        ("b: {a: 1, a: 1}", "stands twice"),
        ("1: a\n0x1: b", "stands twice"),
        ("? [1, 2]\n: 3", "a key is a list"),
        ("? {a: 1}\n: 3", "a key is a list"),
        (BILLION_LAUGHS, "aliases"),
        ("a: &x 1\nb: *x", "aliases"),
        ("a: &x [*x]", "aliases"),
        ("<<: {a: 1}\nb: 2", "not valid YAML"),
        ("a: " + "[" * MAX_YAML_DEPTH + "]" * MAX_YAML_DEPTH, "nested too deeply"),
        ("a: " + "[" * 100_000, "nested too deeply"),
        ("- " * 5_000 + "a", "nested too deeply"),
        ("a: 2024-99-99", "cannot be read"),
        ("a: " + "9" * 5_000, "cannot be read"),
        ("a: !!python/object/apply:os.system ['echo boo']", "not valid YAML"),
        ("a: !!python/name:os.system", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("", "holds no settings: got NoneType"),
        ("just words", "holds no settings: got str"),
        ("- 1\n- 2", "holds no settings: got list"),
    ],
    ids=lambda v: v[:24] if isinstance(v, str) else None,
)
def test_yaml_that_is_no_configuration_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_yaml(text, "run.yaml")


@given(st.text(alphabet="ab:-[]{}&*!?#|>'\"%@`, \n\t019.~<=", max_size=40))
def test_any_text_is_a_mapping_or_a_sentence(text: str) -> None:
    try:
        data: object = parse_yaml(text, "run.yaml")
    except ConfigError as error:
        data = {"sentence": str(error)}
    assert isinstance(data, dict)


def test_nesting_to_the_limit_is_accepted() -> None:
    inner = MAX_YAML_DEPTH - 2
    assert parse_yaml("a: " + "[" * inner + "]" * inner, "run.yaml")["a"] is not None


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_text_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("größe: 1", encoding="utf-8")
    assert read_text(tmp_path / "run.yaml") == "größe: 1"


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_text(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="is no file"):
        read_text(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("größe".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_text(tmp_path / "latin.yaml")
    (tmp_path / "huge.yaml").touch()
    os.truncate(tmp_path / "huge.yaml", MAX_YAML_BYTES + 1)  # sparse
    with pytest.raises(ConfigError, match=f"too large.*{MAX_YAML_BYTES + 1} bytes"):
        read_text(tmp_path / "huge.yaml")
    with pytest.raises(ConfigError, match="too large"):
        read_text(tmp_path / "latin.yaml", limit_bytes=2)
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_text("nul\0byte.yaml")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="is no file"):
        read_text(tmp_path / "run.yaml")


def test_a_file_without_permission_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").write_text("a: 1")

    def refuse(self: Path, **_: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)  # the user who runs this may be root, who reads everything
    with pytest.raises(ConfigError, match="Permission denied"):
        read_text(tmp_path / "run.yaml")


# -- sections --------------------------------------------------------------------------------------------------------


def test_a_section_is_frozen_and_complete() -> None:
    whole = validate(Whole, {"seed": 3, "fit": {"epochs": 7}}, "run.yaml")
    assert (whole.seed, whole.fit.epochs, whole.fit.rate) == (3, 7, 1e-3)
    with pytest.raises(ValidationError, match="frozen"):
        whole.seed = 4


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"seed": 1, "fti": {}}, r"unknown key fti \(did you mean fit\?\)"),
        ({"seed": 1, "fit": {"epoch": 3}}, r"unknown key fit\.epoch \(did you mean epochs\?\)"),
        ({"seed": 1, "fit": {"qqqq": 3}}, r"unknown key fit\.qqqq\.$"),
        ({}, "seed is missing"),
        ({"seed": 1, "fit": {"epochs": 0}}, r"fit\.epochs = 0: input should be greater than or equal to 1"),
        ({"seed": 1, "fit": {"epochs": 2.5}}, r"fit\.epochs = 2\.5"),
        ({"seed": 1, "fit": {"rate": float("nan")}}, r"fit\.rate = nan"),
        ({"seed": 1, "fit": {"rate": float("inf")}}, r"fit\.rate = inf"),
        ({"seed": 1, "fit": {"mode": "slow"}}, r"fit\.mode = 'slow': input should be 'plain' or 'fast'"),
        ({"seed": 1, "fit": 3}, r"fit = 3"),
        ({"seed": "three"}, r"seed = 'three'"),
        ({"seed": 1, 2: 3}, "2 = "),
        ({"seed": 1, "fit": {"epochs": 0, "rate": 2}}, r"fit\.epochs.*; fit\.rate"),
    ],
    ids=str,
)
def test_every_error_names_key_value_and_what_was_expected(data: dict[Any, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        validate(Whole, data, "run.yaml")
    assert str(caught.value).startswith("run.yaml is not usable")


def test_a_huge_wrong_value_is_not_repeated_in_full() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Whole, {"seed": "x" * 10**6}, "run.yaml")
    assert len(str(caught.value)) < 1000


# -- overrides -------------------------------------------------------------------------------------------------------


def test_overrides_change_a_copy() -> None:
    data = {"fit": {"epochs": 5, "betas": [0.9, 0.99]}, "seed": 0}
    changed = with_overrides(data, ["fit.epochs=7", "fit.betas=[0.5, 0.9]", "new.block.key=no", "seed=", "note=a=b"])
    assert changed == {
        "fit": {"epochs": 7, "betas": [0.5, 0.9]},
        "seed": None,
        "new": {"block": {"key": "no"}},
        "note": "a=b",
    }
    assert data == {"fit": {"epochs": 5, "betas": [0.9, 0.99]}, "seed": 0}
    assert with_overrides(data, ["seed=1", "seed=2"])["seed"] == 2
    assert with_overrides(data, ["fit.rate=1e-4"])["fit"]["rate"] == 1e-4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fit.epochs", "block.key=value"),
        ("=3", "block.key=value"),
        (".epochs=3", "block.key=value"),
        ("fit..epochs=3", "block.key=value"),
        ("fit.=3", "block.key=value"),
        ("", "block.key=value"),
        (".".join("a" * 10_000) + "=1", "block.key=value"),
        ("seed.deeper=3", "which is no block: got 0"),
        ("fit.epochs.deeper=3", "leads through epochs"),
        ("seed=[1", "the value of seed is not valid YAML"),
        ("seed=*x", "aliases"),
        ("seed=" + "[" * 10_000, "nested too deeply"),
        ("seed=2024-99-99", "cannot be read"),
        ("seed=!!python/object/apply:os.system ['echo boo']", "not valid YAML"),
    ],
    ids=lambda v: v[:24],
)
def test_hostile_overrides_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        with_overrides({"fit": {"epochs": 5}, "seed": 0}, [text])
    assert len(str(caught.value)) < 1000


def test_an_override_of_special_names_reaches_nothing_but_the_mapping() -> None:
    changed = with_overrides({"seed": 0}, ["__class__.__init__=1"])
    assert changed == {"seed": 0, "__class__": {"__init__": 1}}
    with pytest.raises(ConfigError, match="unknown key __class__"):
        validate(Whole, changed, "run.yaml")


# -- writing ---------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    target = tmp_path / "run.yaml"
    write_atomically(target, "größe: 1")
    assert target.read_text(encoding="utf-8") == "größe: 1"
    write_atomically(target, b"\x00\xff")
    assert target.read_bytes() == b"\x00\xff"
    write_atomically(tmp_path / ("n" * 255), "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["n" * 255, "run.yaml"]


def test_the_umask_decides_who_reads_the_file(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "private.csv", "a")
        os.umask(0o022)
        write_atomically(tmp_path / "shared.csv", "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private.csv").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "shared.csv").stat().st_mode) == 0o644


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failure_leaves_the_old_file_and_no_litter(
    moment: str, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run.yaml"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(type(failure)):
        write_atomically(target, "new")
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_really_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The kernel itself refuses: the file may not grow beyond the limit."""
    import resource
    import signal

    target = tmp_path / "run.yaml"
    target.write_text("old")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomically(target, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_absent_or_a_target_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "run.yaml", "a")
    (tmp_path / "run.yaml").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "run.yaml", "a")
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"]
