"""check.html: whole, safe and self-contained."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image as Pillow

from medmap.check import Issue, check, write_check_report
from medmap.check.page import displayed, png_bytes
from medmap.errors import UsageError
from medmap.geometry import Geometry
from medmap.image import Image


class _Page(HTMLParser):
    """Every tag with its attributes; unclosed ones are found."""

    VOID = ("meta", "img", "br", "!doctype")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _parsed(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def test_the_page_shows_issues_pictures_and_the_data_set(plan, tmp_path):
    plan.images[3] = plan.picture(0)
    dataset = plan.write()
    plan.path(7).write_bytes(b"")
    issues = check(dataset)
    path = write_check_report(issues, dataset, tmp_path / "out" / "check.html")
    text = path.read_text(encoding="utf-8")
    page = _parsed(text)
    for issue in issues:
        assert issue.code in text
    assert text.index("duplicate_across_splits") < text.index("What it does")
    assert "cannot be shown" not in text  # an unreadable image alone has no strip of pictures
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) >= 2 + 12
    for uri in pictures:
        assert uri.startswith("data:image/png;base64,")
        shown = Pillow.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        shown.load()
        assert shown.size == (28, 28)
    assert "28 × 28, uint8" in text
    assert "tumour" in text


def test_nothing_on_the_page_reaches_outside_or_runs(plan, tmp_path):
    plan.names = ("normal", "<script>alert(1)</script>")
    plan.sites = ['"><img src=http://evil.example/x>'] * 90
    plan.columns["note"] = ["<b onload=alert(2)>"] * 90
    plan.absent = {1}
    dataset = plan.write()
    issues = [*check(dataset), Issue("x", "error", "<i>m</i>", "e & f", "r", ("c000", "not a case"))]
    text = write_check_report(issues, dataset, tmp_path / "check.html").read_text(encoding="utf-8")
    page = _parsed(text)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "link", "object", "form", "i", "a"}
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, attrs)
    assert "&lt;script&gt;" in text
    assert "default-src" in text
    assert re.search(r"url\(|@import", text) is None


def test_a_clean_data_set_has_a_page_too(plan, tmp_path):
    text = write_check_report([], plan.write(), tmp_path / "check.html").read_text(encoding="utf-8")
    _parsed(text)
    assert "Nothing was found." in text


def test_the_same_data_gives_the_same_page_and_replaces_the_old_one(plan, tmp_path):
    dataset = plan.write()
    path = write_check_report(check(dataset), dataset, tmp_path / "check.html")
    first = path.read_bytes()
    assert write_check_report(check(dataset), dataset, path).read_bytes() == first


def test_a_page_that_cannot_be_written(plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_check_report([], plan.write(), tmp_path / "file" / "check.html")


def test_pictures_are_png_as_another_library_reads_it():
    rng = np.random.default_rng(0)
    for shape in ((5, 9), (7, 4, 3)):
        array = rng.integers(0, 256, shape, dtype=np.uint8)
        np.testing.assert_array_equal(np.asarray(Pillow.open(io.BytesIO(png_bytes(array)))), array)


def test_what_is_displayed_of_volumes_colour_and_large_images():
    volume = np.zeros((6, 8, 5), np.int16)
    volume[1, 7, 2] = 1000
    shown = displayed(Image(volume, Geometry.from_spacing((6, 8, 5), (1, 1, 2))))
    assert shown.shape == (8, 6)  # x runs to the right, y downward
    assert shown[7, 1] == 255
    colour = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image(colour, Geometry.without_size((9, 7)), "colour", ("red", "green", "blue"))
    np.testing.assert_array_equal(displayed(image), colour)
    large = displayed(Image(np.random.default_rng(0).normal(size=(1000, 700)), Geometry.without_size((1000, 700))))
    assert max(large.shape) <= 256
    blank = displayed(Image(np.full((4, 4), np.nan), Geometry.without_size((4, 4))))
    assert not blank.any()
