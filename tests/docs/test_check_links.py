"""The guard of the links, tripped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "check_links.py"

NAV = "nav:\n  - Home: index.md\n  - Deep:\n      - 'A: page': deep/page.md\nother: x\n"


def run(root: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-I", str(SCRIPT), str(root)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "README.md").write_text("[docs](docs/index.md#what-it-is) ![x](docs/x.svg)\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n")
    (tmp_path / "docs" / "x.svg").write_text("<svg/>")
    (tmp_path / "docs" / "index.md").write_text(
        "# What *it* `is`?\n\n[page](deep/page.md#twice_1) [here](#what-it-is) [far](https://example.org/x.md)\n"
        "[own](deep/page.md#mine) <a href='deep/page.md'>x</a>\n\n[by name][n]\n\n[n]: deep/page.md#raw\n"
        "[brackets [in] text](deep/page.md 'title')\n"
    )
    (tmp_path / "docs" / "deep" / "page.md").write_text(
        "## Twice\n## Twice\n## Own {#mine}\n<a id='raw'></a>\n[up](../index.md) `[no](link.md)`\n"
        "```\n# no heading\n[no](link.md)\n```\n"
    )
    (tmp_path / "mkdocs.yml").write_text(NAV)
    return tmp_path


def test_living_links_pass(site: Path) -> None:
    assert run(site) == (0, [])


@pytest.mark.parametrize(
    ("file", "text", "finding"),
    [
        ("README.md", "a\n\n[x](docs/none.md)", "README.md:3: docs/none.md does not exist"),
        ("CHANGELOG.md", "![x](none.png)", "CHANGELOG.md:1: none.png does not exist"),
        ("docs/index.md", "[x](deep/page.md#none)", "docs/index.md:1: deep/page.md#none: the page has no #none"),
        ("docs/index.md", "[x](deep/page.md#no-heading)", "docs/index.md:1: deep/page.md#no-heading: the page has no"),
        ("docs/index.md", "[x](#none)", "docs/index.md:1: #none: the page has no #none"),
        ("docs/index.md", "[n]: gone.md", "docs/index.md:1: gone.md does not exist"),
        ("docs/index.md", "<img src='gone.png'>", "docs/index.md:1: gone.png does not exist"),
        ("docs/index.md", "[x]()", "docs/index.md:1: an empty link"),
        ("docs/index.md", "[x](/etc/hosts)", "docs/index.md:1: /etc/hosts leads out of the repository"),
        ("docs/index.md", "[x](../../../etc/hosts)", "docs/index.md:1: ../../../etc/hosts leads out of"),
        ("docs/orphan.md", "# Alone", "mkdocs.yml:1: navigation: docs/orphan.md stands nowhere"),
        ("mkdocs.yml", NAV.replace("deep/page", "deep/gone"), "mkdocs.yml:4: navigation: docs/deep/gone.md does not"),
    ],
)
def test_dead_links_are_named(file: str, text: str, finding: str, site: Path) -> None:
    (site / file).write_text(text)
    code, lines = run(site)
    assert code == 1
    assert any(line.startswith(finding) for line in lines), lines


def test_the_documentation_has_no_dead_link() -> None:
    assert run(ROOT) == (0, [])
