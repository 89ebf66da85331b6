"""Every command and snippet that the documentation shows is executed, page by page, in the order it stands there.

A page's ``python`` blocks share a namespace; of its ``console`` blocks every line runs that begins with ``$``. What
follows a command, and what a ``text`` block shows, is compared only under ``<!-- compared -->``. Above a block,
``<!-- exits with N -->`` expects that exit code of its last command. ``<!-- not run: reason -->`` is for ``make`` and
``pip install`` alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medmap.errors import MedmapWarning

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = {"python", "console", "yaml", "csv", "json", "text"}
FENCE = re.compile(
    r"(?P<marks>(?:^<!--[^\n]*-->\n)*)^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
TIMEOUT_S = 300


@dataclass(frozen=True)
class Block:
    """A fenced block, and the comments directly above it."""

    language: str
    body: str
    marks: str
    line: int

    @property
    def commands(self) -> list[str]:
        """What stands behind ``$``; a backslash at the end goes on."""
        joined = self.body.replace("\\\n", " ")
        return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]

    @property
    def not_run(self) -> bool:
        return "<!-- not run" in self.marks

    @property
    def exit_code(self) -> int:
        match = re.search(r"<!-- exits with (\d+) -->", self.marks)
        return int(match[1]) if match else 0


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(m["language"].strip(), m["body"], m["marks"], text.count("\n", 0, m.start("language")) + 1)
        for m in FENCE.finditer(text)
    ]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_command(command: str, folder: Path, expected: int, where: str) -> str:
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == expected, f"{where}: {command}\nexit code {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


def run_page(page: Path, folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.not_run:
            continue
        if block.language == "console":
            for number, command in enumerate(block.commands, 1):
                last = number == len(block.commands)
                printed = run_command(command, folder, block.exit_code if last else 0, where)
                if last and "<!-- compared -->" in block.marks:
                    shown = block.body.split(block.body.splitlines()[0] + "\n", 1)[1]
                    assert printed == shown, where
        elif block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out), warnings.catch_warnings():
                warnings.simplefilter("ignore", MedmapWarning)  # what a reader is told of runs of seconds
                exec(compile(block.body, where, "exec"), namespace)  # noqa: S102  (our own pages)
            printed = out.getvalue()
        elif block.language == "text" and "<!-- compared -->" in block.marks:
            assert printed.strip() == block.body.strip(), where


def runs(page: Path) -> bool:
    return any(b.language in ("python", "console") and not b.not_run for b in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=name)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nothing_shown_escapes_execution(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = blocks(page)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found), "a fence is not closed, or not understood"
    for block in found:
        where = f"{page.name}:{block.line}"
        assert block.language in SHOWN, f"{where}: show it as one of {sorted(SHOWN)}"
        if block.language == "console":
            assert block.commands, f"{where}: no line begins with $"
        if block.language in ("text", "yaml"):
            assert not re.search(r"^\$ |^medmap [a-z]+ ", block.body, re.MULTILINE), f"{where}: a command; use console"
        if block.not_run:
            assert re.search(r"<!-- not run: \S.{8,}-->", block.marks), f"{where}: give the reason"
            assert block.language == "console", where
            for command in block.commands:
                assert re.match(r"(make( \w+)*|(python -m )?pip install [^;&|]*)$", command), (
                    f"{where}: {command} can run"
                )


def test_shown_yaml_and_json_are_what_they_say() -> None:
    import json

    from medmap.config import parse_yaml

    for page in PAGES:
        for block in blocks(page):
            if block.language == "yaml":
                assert parse_yaml(block.body, f"{name(page)}:{block.line}")
            elif block.language == "json":
                json.loads(block.body)


# -- the runner itself, tripped --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "```python\nraise SystemError\n```\n",
        "```console\n$ exit 3\n```\n",
        "```console\n$ true\n$ exit 3\nsome output\n```\n",
        "<!-- exits with 1 -->\n```console\n$ true\n```\n",
        "```python\nprint(1)\n```\n\n<!-- compared -->\n```text\n2\n```\n",
        "<!-- compared -->\n```console\n$ echo one\ntwo\n```\n",
        "```console\n$ medmap no-such-command\n```\n",
    ],
)
def test_a_page_that_shows_what_does_not_run_fails(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises((AssertionError, SystemError)):
        run_page(tmp_path / "page.md", tmp_path)


def test_a_page_that_runs_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(
        "```python\nfrom pathlib import Path\na = 1\n```\n"
        "```python\nPath('x').write_text(str(a + 1))\nprint(a)\n```\n\n<!-- compared -->\n```text\n1\n```\n"
        "<!-- exits with 4 -->\n<!-- compared -->\n```console\n$ cat x; echo; exit 4\n2\n```\n"
        "```console\n$ test \\\n  -f x\n```\n"
        "<!-- not run: it would end the world -->\n```console\n$ make bang\n```\n"
    )
    run_page(tmp_path / "page.md", tmp_path)
    assert (tmp_path / "x").read_text() == "2"
