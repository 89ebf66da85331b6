"""The screen: what is a result goes to standard output, whatever moves on standard error."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from medmap.cli import run as medmap
from medmap.cli import show
from medmap.cli.show import Screen


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error, as captured, is a terminal; nobody waits two seconds."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(show, "PATIENCE_S", 0.0)


def test_lines_beside_a_bar_go_to_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch)
    with Screen() as screen:
        screen.progress("learning", 1, 4)
        assert screen._bar is not None
        screen.line("a line")
        screen.result("a result")
        screen.progress("learning", 3, 4)
        assert screen._bar.live.is_started, "the bar goes on after a line"
        screen.warning("careful")
    told = capsys.readouterr()
    assert told.out == "a line\na result\nwarning: careful\n"
    assert "learning" in told.err
    assert "a result" not in told.err
    assert screen._bar is None


def test_beside_a_bar_json_has_standard_output_for_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch)
    with Screen(json=True) as screen:
        screen.progress("learning", 1, 4)
        assert screen._bar is not None
        screen.line("for people")
        screen.document({"a": 1})
    told = capsys.readouterr()
    assert told.out == '{\n  "a": 1\n}\n'
    assert "for people" in told.err


def test_a_download_of_unknown_length_shows_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "PATIENCE_S", 0.0)
    monkeypatch.setattr(show, "LINE_EVERY_S", 0.0)
    with Screen() as screen:
        tell = screen.counter("fetching")
        tell(5, None)
        tell(5, 10)
    assert capsys.readouterr().err.startswith("fetching: 50 %")


def test_the_time_left_is_of_what_is_counted_now(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "PATIENCE_S", 0.0)
    monkeypatch.setattr(show, "LINE_EVERY_S", 0.5)
    clock = [100.0]
    monkeypatch.setattr(show.time, "monotonic", lambda: clock[0])
    with Screen() as screen:
        for done in (10, 20, 40):
            clock[0] += 1
            screen.progress("network 1, epoch 1", done, 100)
        for done in (1, 2, 3):  # another count of the same network
            clock[0] += 1
            screen.progress("network 1, its cases", done, 33)
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "network 1, its cases: 9 %, about 30 s left"


def test_what_takes_long_and_cannot_be_counted_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Screen().doing("thinking"):  # short: nothing is said
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(show, "PATIENCE_S", 0.01)
    monkeypatch.setattr(show, "LINE_EVERY_S", 0.02)
    for screen, told in ((Screen(), True), (Screen(json=True), True), (Screen(quiet=True), False)):
        with screen.doing("thinking"):
            time.sleep(0.3)
        out, err = capsys.readouterr()
        assert not out
        assert err.startswith("thinking …\nthinking … 0 s so far\n") is told
    with pytest.raises(ValueError, match="no"), Screen().doing("thinking"):
        raise ValueError("no")


@pytest.mark.parametrize("command", ["plan", "compare", "export"])
def test_long_commands_say_what_they_do(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each ends at its first step: what it was doing is said before."""
    monkeypatch.setattr(show, "PATIENCE_S", 0.0)
    (tmp_path / "a").mkdir()
    given = {"plan": ["a", "-o", "run.yaml"], "compare": ["a", "a"], "export": ["a", "-o", "b"]}[command]
    words = [str(tmp_path / word) if word[0] != "-" else word for word in given]
    assert medmap([command, *words]) != 0
    assert " …" in capsys.readouterr().err
    assert medmap([command, *words, "--quiet"]) != 0
    assert " …" not in capsys.readouterr().err
