"""Dead links in the documentation: every relative link, anchor and navigation entry leads somewhere. No network.

Run from anywhere: ``python docs/check_links.py [ROOT]``. Exit code 1 names each dead link as ``file:line``.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
INLINE = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]*)>?(?:\s+[\"'(][^)]*)?\)")
REFERENCE = re.compile(r"^ {0,3}\[(?!\^)[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)")
HTML = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
HTML_ANCHOR = re.compile(r"<[a-z]+\b[^>]*?\b(?:id|name)\s*=\s*[\"']([^\"']+)[\"']", re.IGNORECASE)
HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
OWN_ANCHOR = re.compile(r"\{[^}]*#([\w.:-]+)[^}]*\}\s*$")
FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
NAV_ENTRY = re.compile(r"^\s+-\s+(?:(?:\"[^\"]*\"|'[^']*'|[^:\"']+):\s+)?[\"']?([\w./-]+\.md)[\"']?\s*$")
ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without fenced code; code spans are blanked."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        if match and not fence:
            fence = match[1]
        elif match and match[1][0] == fence[0] and len(match[1]) >= len(fence) and not line.strip().strip(fence[0]):
            fence = ""
        elif not fence:
            yield number, line


def without_code(line: str) -> str:
    """The line with its code spans blanked."""
    return re.sub(r"(`+)(?:(?!\1).)+\1", "", line)


def slug(heading: str) -> str:
    """A heading's anchor, as Python-Markdown makes it."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = unicodedata.normalize("NFKD", re.sub(r"[`*]", "", text)).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def anchors(path: Path) -> set[str]:
    """Every anchor of a page; a heading that stands twice gets ``_1``."""
    found: set[str] = set()
    for _, line in prose(path.read_text(encoding="utf-8")):
        found.update(HTML_ANCHOR.findall(line))
        heading = HEADING.match(line)
        if heading:
            own = OWN_ANCHOR.search(heading[2])
            base = own[1] if own else slug(heading[2])
            name, count = base, 0
            while name in found:
                count += 1
                name = f"{base}_{count}"
            found.add(name)
    return found


def dead_links(page: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) for each relative link of a page that leads nowhere."""
    for number, line in prose(page.read_text(encoding="utf-8")):
        text = without_code(line)
        for target in (*INLINE.findall(text), *REFERENCE.findall(text), *HTML.findall(text)):
            if ELSEWHERE.match(target):
                continue
            name, _, anchor = target.partition("#")
            aim = (page.parent / unquote(name)).resolve() if name else page.resolve()
            if not target:
                yield number, "an empty link"
            elif name.startswith("/") or not aim.is_relative_to(root.resolve()):
                yield number, f"{target} leads out of the repository"
            elif not aim.exists():
                yield number, f"{target} does not exist"
            elif anchor and aim.suffix == ".md" and unquote(anchor) not in anchors(aim):
                yield number, f"{target}: the page has no #{anchor}"


def navigation(root: Path) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) for each entry of mkdocs.yml without a page, and each page without an entry."""
    config, docs = root / "mkdocs.yml", root / "docs"
    if not config.exists():
        return
    listed: set[Path] = set()
    inside = False
    for number, line in enumerate(config.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r"^\S", line):
            inside = line.startswith("nav:")
        match = NAV_ENTRY.match(line) if inside else None
        if match:
            listed.add(docs / match[1])
            if not (docs / match[1]).is_file():
                yield number, f"navigation: docs/{match[1]} does not exist"
    for page in sorted(docs.rglob("*.md")):
        if page not in listed:
            yield 1, f"navigation: {page.relative_to(root)} stands nowhere"


def check(root: Path) -> list[str]:
    """Everything dead, as ``file:line: what``."""
    pages = [root / name for name in PAGES if (root / name).exists()] + sorted((root / "docs").rglob("*.md"))
    found = [f"{p.relative_to(root)}:{line}: {what}" for p in pages for line, what in dead_links(p, root)]
    return found + [f"mkdocs.yml:{line}: {what}" for line, what in navigation(root)]


def main() -> int:
    """Print what is dead; 1 when something is."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    found = check(root)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
