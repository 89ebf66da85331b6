"""The page: well formed, closed to the network, every word escaped, everything on it that is asked for."""

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image as Pillow
from prediction_tables import binary

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.errors import DataError
from medmap.evaluate import read_predictions, report_from_table
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.report import (
    every_table,
    figures,
    images_of,
    methods,
    picture_of,
    png_uri,
    read_log,
    render_html,
    save_evaluation,
    summary,
)
from medmap.report.page import held_together
from medmap.report.svg import Plot, plain, ticks
from medmap.results import Label

HOSTILE = "<script>alert('x')</script>&amp;\"onload=\"x"
VOID = {"meta", "br", "img", "link", "hr", "input"}


def parsed(svg):
    return ET.fromstring(svg)  # noqa: S314  (medmap's own)


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what was seen."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.links, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        self.links += [v for k, v in attributes if k in ("href", "src", "action", "data", "srcset", "xlink:href") and v]
        assert not [k for k, _ in attributes if k.startswith("on")], (tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def ids(self):
        return [a["id"] for _, a in self.seen if a.get("id")]


def test_every_kind_is_well_formed_and_closed_to_the_network(report, log, picture):
    html = render_html(report, images=picture, training_log=log)
    page = Page(html)
    assert all(link.startswith(("#", "data:")) for link in page.links), page.links
    assert not [tag for tag, _ in page.seen if tag in ("script", "link", "iframe", "object", "form")]
    assert "url(" not in html.replace("url(data:", "")
    assert "@import" not in html
    outside = set(re.findall(r"https?://[^\s\"'<>]+", html)) - {"http://www.w3.org/2000/svg"}
    assert not outside
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets <= set(page.ids())
    assert len(page.ids()) == len(set(page.ids()))
    for tag, attributes in page.seen:
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or (attributes["role"] == "img" and attributes["aria-label"])
    assert page.text.index("Read this first") < page.text.index(summary(report)[:30]), "warnings first"
    assert "This is look number 3 at this test set." in page.text
    for words in ("Who was evaluated", "Beside simple models", "Single cases", "Training", "Methods", "c900"):
        assert words in page.text


def test_hostile_names_stay_words(log, picture):
    table = binary(60)
    table = replace(
        table,
        cases=(f"{HOSTILE}0", *table.cases[1:]),
        labels=(HOSTILE, "benign"),
        decided=(),
        columns={HOSTILE: (HOSTILE, "b") * 30, "none": ("\x00\x1b", "\ud800") * 30},
        sites=(HOSTILE, "B") * 30,
    )
    report = replace(report_from_table(table, split="test", warnings=[HOSTILE]), dataset_name=HOSTILE)
    html = render_html(report, images=picture, training_log=[{**row, "val_<b>": "1"} for row in log])
    page = Page(html)
    assert "<script" not in html
    assert not [tag for tag, _ in page.seen if tag == "script"]
    assert HOSTILE in page.text, "it is there to be read"
    for figure in figures(report).values():
        parsed(figure.svg)
        assert "<script" not in figure.svg


def test_figures_are_well_formed_and_the_same_again(report, log):
    first, second = figures(report, log), figures(report, log)
    assert {n: f.svg for n, f in first.items()} == {n: f.svg for n, f in second.items()}
    for figure in first.values():
        tree = parsed(figure.svg)
        assert tree.tag == "{http://www.w3.org/2000/svg}svg"
        assert not re.search(r"[\"',> ](nan|inf)\b", figure.svg)
        width, height = map(float, tree.get("viewBox").split()[2:])
        for node in tree.iter():
            for name, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                if node.get(name) and not node.get(name).endswith("%") and "rotate" not in str(node.attrib):
                    assert -30 <= float(node.get(name)) <= limit + 30, (figure.name, node.tag, node.attrib)


def test_a_figure_of_subgroups_has_room_for_names_and_reasons():
    table = binary()
    names = ("Northern District General Hospital", "a site of few cases")
    sites = tuple(names[int(row < 4)] for row in range(len(table)))
    report = report_from_table(replace(table, sites=sites, columns={}), split="test")
    drawn = figures(report)["subgroups_auroc"].svg
    assert f"site: {names[0]} (" in drawn
    assert "only 4 cases: fewer than 10 say nothing" in drawn
    assert "…" not in drawn
    width = float(parsed(drawn).get("viewBox").split()[2])
    for node in parsed(drawn).iter("{http://www.w3.org/2000/svg}text"):
        long, at = len(node.text) * 6.0, float(node.get("x"))  # px a letter that Liberation Sans needs
        left = {"end": at - long, "middle": at - long / 2}.get(node.get("text-anchor"), at)
        assert 0 <= left < left + long <= width, node.text


def test_no_line_breaks_between_a_number_and_its_unit(reports):
    html = render_html(reports["binary"])
    assert "95 %" not in html
    assert "95\u00a0%\u00a0CI\u00a00." in html
    assert held_together("1.7 mm and 0.2 ml, 3 mmol") == "1.7\u00a0mm and 0.2\u00a0ml, 3 mmol"


def test_each_kind_has_its_figures(reports, log):
    have = {kind: set(figures(report, log)) for kind, report in reports.items()}
    common = {"flow", "training_loss", "training_validation"}
    curves = {"roc", "precision_recall", "reliability", "scores"}
    assert have["binary"] >= common | curves | {
        "confusion", "decision_curve", "coverage", "subgroups_auroc", "subgroups_sensitivity", "subgroups_specificity"
    }  # fmt: skip
    assert have["multiclass"] >= common | curves | {"confusion", "coverage"}
    assert have["multilabel"] >= common | curves | {"decision_curve"}
    assert "confusion" not in have["multilabel"]
    assert have["regression"] >= common | {"predicted_true", "difference"}
    assert have["two targets"] >= common | {"predicted_true_1", "difference_2"}


def test_the_summary_is_in_plain_words(reports):
    report = reports["binary"]
    found, spared = report.row("sensitivity"), report.row("specificity")
    text = summary(report)
    assert text.startswith(f"Of 100 malignant cases like these, about {100 * found.value:.0f} (95 % CI ")
    assert f"about {100 * spared.value:.0f} (95 % CI" in text
    assert summary(reports["multiclass"]).startswith("Of 100 cases like these")
    assert summary(reports["multilabel"]).startswith("Given a case")
    assert "is off by" in summary(reports["regression"])
    assert summary(reports["two targets"]).count("is off by") == 2


def test_without_both_classes_the_page_still_stands():
    table = binary()
    report = report_from_table(table.at(np.flatnonzero(~table.is_positive)[:12]), split="all")
    page = Page(render_html(report))
    assert "no positive case" in page.text
    assert "roc" not in figures(report)


def test_a_threshold_is_called_fixed_before_only_on_a_test_set(reports):
    report = reports["binary"]
    assert "fixed before these cases were seen" in " ".join(methods(report))
    for split in ("val", "oof"):
        told = " ".join(methods(replace(report, split=split)))
        assert "chosen on these cases" in told
        assert "fixed before" not in told
    assert "as the bundle has it" in " ".join(methods(replace(report, split="all")))


def test_save_writes_everything(reports, log, picture, tmp_path):
    report = reports["binary"]
    save_evaluation(report, tmp_path / "out", images=picture, training_log=log)
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {"metrics.json", "predictions.csv", "report.html"} <= files
    assert {f"figures/{name}.svg" for name in figures(report, log)} <= files
    tables = {t.name for t in every_table(report)}
    assert tables == {"metrics", "characteristics", "subgroups", "baselines", "aggregated"}
    for name in tables:
        rows = list(csv.reader(io.StringIO((tmp_path / "out" / "tables" / f"{name}.csv").read_text())))
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}
    assert len(read_predictions(tmp_path / "out")) == report.cases
    assert not [name for name in files if name.rpartition("/")[2].startswith(".")], "nothing half-written is left"


def test_tables_and_figures_in_the_page_are_the_files(reports):
    html = render_html(reports["binary"])
    page = Page(html)
    downloads = {a["download"]: a["href"] for tag, a in page.seen if tag == "a" and "download" in a}
    assert "roc.svg" in downloads
    assert "metrics.csv" in downloads
    svg = base64.b64decode(downloads["roc.svg"].partition("base64,")[2]).decode()
    assert svg == figures(reports["binary"])["roc"].svg


def test_a_run_folder_without_a_log_has_no_training_curves(reports, tmp_path):
    assert read_log(tmp_path / "log.csv") == []
    (tmp_path / "log.csv").write_text("member,epoch,train_loss\n0,1,0.5\n0,2,oops\n0,3,nan\n0,4,0.2\n")
    rows = read_log(tmp_path / "log.csv")
    assert len(rows) == 4
    assert set(figures(reports["binary"], rows)) - set(figures(reports["binary"])) == {"training_loss"}


def test_a_single_epoch_is_a_point(reports, log):
    once = [row for row in log if row["epoch"] == "1"]
    for rows, points in ((once, 2), (log, 0)):  # two networks
        drawn = figures(reports["binary"], rows)
        assert [drawn[f"training_{what}"].svg.count("<circle") for what in ("loss", "validation")] == [points] * 2


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_another_library_reads_the_pictures(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    data = base64.b64decode(png_uri(pixels).partition("base64,")[2])
    assert np.array_equal(np.asarray(Pillow.open(io.BytesIO(data))), pixels)


def test_pictures_of_another_type_are_refused():
    with pytest.raises(DataError, match="8-bit grey or RGB"):
        png_uri(np.zeros((4, 4), np.float32))


def test_pictures_of_volumes_lie_as_radiologists_look(image):
    pixels = picture_of(image)
    oriented = image.oriented("LPS")
    assert pixels.shape == oriented.geometry.shape[1::-1]
    middle = oriented.array[:, :, oriented.geometry.shape[2] // 2].T
    assert np.unravel_index(pixels.argmax(), pixels.shape) == np.unravel_index(middle.argmax(), middle.shape)
    flat = Image(np.full((300, 400), 7, np.uint16), Geometry.without_size((300, 400)))
    assert max(picture_of(flat).shape) <= 224


def test_colours_of_a_photograph_are_kept():
    array = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    photo = Image(array, Geometry.without_size((6, 5)), "colour", ("red", "green", "blue"))
    assert np.array_equal(picture_of(photo), array)


def test_images_that_cannot_be_read_are_left_out(tmp_path):
    cases = (Case("a", "a", {"x": Ref("absent.png")}, Truth()), Case("b", "b", {"x": None}, Truth()))
    data = Dataset("d", "classify", cases, {"x": InputSpec()}, (Label("n"),), "multilabel", tmp_path)
    pictures = images_of(data)
    assert pictures("a") is None
    assert pictures("b") is None


# -- drawing ---------------------------------------------------------------------------------------------------------


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (-3.2, 7.7), (1e-6, 2e-6), (0, 1234)):
        found = ticks(low, high)
        assert 3 <= len(found) <= 11
        assert low - 1e-9 * abs(low) <= found[0]
        assert found[-1] <= high * (1 + 1e-9)
    assert ticks(3, 3) == [3]


def test_a_plot_keeps_points_near_its_frame():
    plot = Plot("t", "x", "y")
    assert plot.at(0, 0) == (plot.left, plot.top + plot.height)
    assert plot.at(1, 1) == (plot.left + plot.width, plot.top)
    assert plot.at(1e9, 0)[0] < plot.left + plot.width * 1.1


def test_text_that_no_xml_may_hold_is_replaced():
    parsed(f"<a>{plain(chr(0) + chr(27) + chr(0xD800) + '<&>')}</a>")
