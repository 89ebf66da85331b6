"""``dataset.yaml`` with ``cases.csv``, manifests of others, and every damage a table can have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.errors import ConfigError, DatasetError, LayoutError, LimitError, MedmapError, ReadError, UsageError
from medmap.layouts import Description, dataset_schema, import_dataset, open_dataset, write_dataset
from medmap.results import Label

YAML = """
medmap_dataset: 1
name: Breast
task: classify
inputs: {image: {modality: US}}
labels: {0: malignant, 1: benign}
positive: malignant
"""
CSV = """case,patient,site,split,image,label,age,sex
c1,p1,A,train,a.png,malignant,63,f
c2,p1,A,train,b.png,1,,m
c3,p2,B,test,f.npz#rows/3,,41.5,
"""


def folder(tmp_path: Path, yaml: str | None = YAML, csv: str | bytes = CSV) -> Path:
    if yaml is not None:
        (tmp_path / "dataset.yaml").write_text(yaml)
    if isinstance(csv, bytes):
        (tmp_path / "cases.csv").write_bytes(csv)
    else:
        (tmp_path / "cases.csv").write_text(csv)
    return tmp_path


def test_a_described_dataset(tmp_path: Path) -> None:
    data = open_dataset(folder(tmp_path))
    assert (data.name, data.kind, data.positive, data.label_names) == ("Breast", "binary", 0, ("malignant", "benign"))
    assert data.inputs == {"image": InputSpec("US")}
    first, second, third = data.cases
    assert first.columns == {"age": 63.0, "sex": "f"}
    assert second.columns == {"age": None, "sex": "m"}
    assert (first.patient, first.site, first.split, first.truth) == ("p1", "A", "train", Truth(True, 0))
    assert second.truth.label == 1
    assert third.truth == Truth()
    assert third.inputs == {"image": Ref("f.npz", "rows/3")}
    assert data.patients_known
    assert data.digest == open_dataset(tmp_path / "dataset.yaml").digest


def test_everything_a_description_can_say(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "study").mkdir()
    yaml = """
medmap_dataset: 1
name: BraTS
task: segment
inputs: {t1: {modality: MR}, flair: {}}
labels: {1: core, 2: {name: oedema, code: "SCT:79654002"}}
regions: {whole: [1, 2], inner: [1]}
ignore: 255
mirror_pairs: [[core, oedema]]
root: ../images
licence: CC-BY-4.0
source: somewhere
"""
    csv = "case,t1,flair,mask,mask_2,mask_10\nc1,a.nii,,m1.nii,m2.nii,m10.nii\nc2,a.nii,b.nii,,,\n"
    data = open_dataset(folder(tmp_path / "study", yaml, csv))
    assert data.labels == (Label("background"), Label("core"), Label("oedema", "SCT:79654002"))
    assert (data.ignore, dict(data.regions)) == (255, {"whole": (1, 2), "inner": (1,)})
    assert data.mirror_pairs == (("core", "oedema"),)
    assert data.root.resolve() == tmp_path / "images"
    assert data.cases[0].truth.masks == (Ref("m1.nii"), Ref("m2.nii"), Ref("m10.nii"))
    assert data.cases[0].inputs == {"t1": Ref("a.nii"), "flair": None}
    assert not data.cases[1].truth.annotated
    assert not data.patients_known
    assert data.cases[0].patient == "c1"


def test_several_labels_and_uncertain_ones(tmp_path: Path) -> None:
    yaml = YAML.replace("labels: {0: malignant, 1: benign}\npositive: malignant\n", "labels: {0: a, 1: b, 2: c}\n")
    csv = "case,image,label\n1,x,a;c\n2,x,?b;a\n3,x,[]\n4,x,\n"
    data = open_dataset(folder(tmp_path, yaml, csv))
    assert data.kind == "multilabel"
    assert data["1"].truth.values == (1, 0, 1)
    assert data["2"].truth.values[0] == 1
    assert math.isnan(data["2"].truth.values[1])
    assert data["3"].truth == Truth(True, None, (0, 0, 0))
    assert data["4"].truth == Truth()


def test_regression_ordinal_boxes_and_targets(tmp_path: Path) -> None:
    bare = YAML.replace("labels: {0: malignant, 1: benign}\npositive: malignant\n", "")
    data = open_dataset(folder(tmp_path, bare + "kind: regression\n", "case,image,label\n1,x,3\n2,x,-1.5e2\n"))
    assert [c.truth.values for c in data] == [(3.0,), (-150.0,)]
    grades = bare + "kind: ordinal\nlabels: {0: none, 1: mild, 2: severe}\n"
    data = open_dataset(folder(tmp_path, grades, "case,image,label\n1,x,2\n2,x,none\n"))
    assert (data.kind, [c.truth.label for c in data]) == ("ordinal", [2, 0])
    boxes = '"[{""corners"": [1, 2, 3, 4.5], ""label"": ""RBC""}]"'
    detect = (
        YAML.replace("classify", "detect").replace("malignant, 1: benign", "RBC, 1: WBC").replace("malignant", "RBC")
    )
    data = open_dataset(folder(tmp_path, detect, f"case,image,boxes\n1,x,{boxes}\n2,x,[]\n3,x,\n"))
    assert data["1"].truth.boxes == (((1.0, 2.0, 3.0, 4.5), 0),)
    assert data["2"].truth.boxes == ()
    assert data["2"].truth.annotated
    assert not data["3"].truth.annotated
    enhance = bare.replace("classify", "enhance")
    data = open_dataset(folder(tmp_path, enhance, "case,image,target\n1,x,y.nii\n"))
    assert data["1"].truth.target == Ref("y.nii")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("task: classify", "task: guess", "task"),
        ("name: Breast\n", "", "name is missing"),
        ("name: Breast", "nmae: Breast", "did you mean name"),
        ("medmap_dataset: 1", "medmap_dataset: 2", "medmap_dataset"),
        ("inputs: {image: {modality: US}}", "inputs: {}", "inputs"),
        ("inputs: {image: {modality: US}}", "inputs: {image: {modlity: US}}", "did you mean modality"),
        ("{0: malignant, 1: benign}", "{0: true, 1: benign}", "write the name in quotes"),
        ("{0: malignant, 1: benign}", "{0: malignant, 2: benign}", "without gaps"),
        ("{0: malignant, 1: benign}", "{a: malignant}", "integer"),
        ("positive: malignant", "positive: cancer", "positive names no class"),
        ("positive: malignant", "mirror_pairs: [[left, right]]", "unknown class"),
        ("positive: malignant", "kind: sometimes", "kind"),
        ("positive: malignant", "root: &a [*a]", "alias|root"),
        ("positive: malignant", "positive: !!python/object/apply:os.getcwd []", "YAML"),
    ],
)
def test_descriptions_that_cannot_be_meant(tmp_path: Path, old: str, new: str, what: str) -> None:
    assert old in YAML
    with pytest.raises(ConfigError, match=what):
        open_dataset(folder(tmp_path, YAML.replace(old, new)))


def test_a_description_contradicted_by_the_call_or_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="another task"):
        open_dataset(folder(tmp_path), task="segment")
    with pytest.raises(ReadError, match="root"):
        open_dataset(folder(tmp_path, YAML + "root: absent\n"))
    (tmp_path / "dataset.yaml").write_text(YAML)
    (tmp_path / "cases.csv").unlink()
    with pytest.raises(ReadError, match=r"cases\.csv"):
        open_dataset(tmp_path)


def test_names_may_be_numbers_and_classes_counted_from_one(tmp_path: Path) -> None:
    yaml = YAML.replace("{0: malignant, 1: benign}\npositive: malignant", "{1: 10, 2: 20}\npositive: 2")
    data = open_dataset(folder(tmp_path, yaml, "case,image,label\na,x,10\nb,x,2\nc,x,1\n"))
    assert data.label_names == ("10", "20")
    assert [c.truth.label for c in data] == [0, 1, 0]
    assert data.positive == 1


@pytest.mark.parametrize(
    ("csv", "error", "what"),
    [
        ("", DatasetError, "is empty"),
        ("\n\n", DatasetError, "is empty"),
        ("case,image,label\n", DatasetError, "no rows"),
        ("case,label\nc1,benign\n", DatasetError, "no column for an input"),
        ("case,image,image\nc1,a,b\n", DatasetError, "same name"),
        ("case,,image\nc1,a,b\n", DatasetError, "no name"),
        ("case,image,label\nc1,a\n", DatasetError, "line 2: the row does not fit"),
        ("case,image,label\nc1,a,benign,x\n", DatasetError, "does not fit"),
        ("case,image,label\n,a,benign\n", DatasetError, "line 2: the case has no identifier"),
        ("case,image,label\nc1,a,benign\nc1,b,benign\n", DatasetError, "stands twice"),
        ("case,image,label\nc1,a,cancer\n", DatasetError, "line 2: unknown class: got 'cancer'"),
        ("case,image,label\nc1,a,7\n", DatasetError, "unknown class"),
        ("case,image,label\nc1,a,0.5\n", DatasetError, "unknown class"),
        ("case,image,split\nc1,a,tset\n", DatasetError, "unknown split"),
        ("case,image,label\nc1,../../etc/passwd,benign\n", DatasetError, "leads out"),
        ("case,image,label\nc1,a/../../b,benign\n", DatasetError, "leads out"),
        ("case,image,label\nc1,..\\\\b,benign\n", DatasetError, "leads out"),
        ("case,image,label\nc1,#row,benign\n", DatasetError, "member without a file"),
        ('case,image,label\nc1,"a,benign\n', DatasetError, "no valid CSV"),
        (b"case,image\nc1,\0\n", DatasetError, "NUL"),
        ("case,image\nc1,ü\n".encode("latin-1"), ReadError, "not text in UTF-8"),
        ("case,image\nc1,a\n".encode("utf-16"), ReadError, "not text in UTF-8"),
        ("case,image," + ",".join(f"c{i}" for i in range(20_000)) + "\n", LimitError, "too many columns"),
        ("case,image," + ",".join("c" for _ in range(1_000_000)) + "\n", LimitError, "line too long"),
        ("case,image\nc1," + "x" * 200_000 + "\n", DatasetError, "field larger"),
        ("case,image,boxes\nc1,a,{\n", DatasetError, "no JSON"),
        (
            'case,image,boxes\nc1,a,"[{""corners"": [1, 2], ""label"": ""benign""}]"\n',
            DatasetError,
            "written otherwise",
        ),
        ('case,image,boxes\nc1,a,"[{""corners"": [1,2,NaN,4], ""label"": ""benign""}]"\n', DatasetError, "otherwise"),
        ('case,image,boxes\nc1,a,"[{""corners"": [5,2,3,4], ""label"": ""benign""}]"\n', DatasetError, "swapped"),
        ('case,image,boxes\nc1,a,"[{""corners"": [1,2,3,4], ""label"": ""x""}]"\n', DatasetError, "unknown class"),
        ("case,image,boxes\nc1,a,[[[[[]]]]]\n", DatasetError, "otherwise"),
        ("case,image,boxes\nc1,a," + "[" * 60_000 + "\n", DatasetError, "no JSON"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path: Path, csv: str | bytes, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        open_dataset(folder(tmp_path, YAML, csv))


def test_no_number_for_a_regression(tmp_path: Path) -> None:
    yaml = YAML.replace("labels: {0: malignant, 1: benign}\npositive: malignant", "kind: regression")
    for cell in ("many", "1;2", "inf"):
        with pytest.raises(DatasetError, match="no number to predict"):
            open_dataset(folder(tmp_path, yaml, f"case,image,label\na,x,3\nb,x,{cell}\n"))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace(",", ";"),
        lambda t: t.replace(",", "\t"),
        lambda t: t.replace(",", " , "),
        lambda t: "\n" + t + "\n,,,,,,,\n",
        lambda t: t.replace("sex\n", "sex,,\n").replace(",f\n", ",f,,\n"),
    ],
    ids=["byte order mark", "windows", "semicolons", "tabs", "blanks", "empty rows", "empty columns"],
)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, change) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    plain = open_dataset(folder(tmp_path / "plain"))
    other = open_dataset(folder(tmp_path / "other", YAML, change(CSV).encode()))
    assert other.digest == plain.digest


def test_windows_paths_and_absolute_ones(tmp_path: Path) -> None:
    csv = "case,image,label\na,images\\1.png,benign\nb,/data/x.png,benign\nc,a/../b.png,benign\n"
    data = open_dataset(folder(tmp_path, YAML, csv))
    assert [str(c.inputs["image"]) for c in data] == ["images/1.png", "/data/x.png", "a/../b.png"]
    assert data.resolve(data["b"].inputs["image"]) == Path("/data/x.png")


def test_columns_are_numbers_only_when_all_of_them_are(tmp_path: Path) -> None:
    csv = "case,image,zip,stage,psa,odd\na,x,01234,2,NaN,inf\nb,x,56789,n/a,1e-3,2\n"
    data = open_dataset(folder(tmp_path, YAML, csv))
    assert data["a"].columns == {"zip": "01234", "stage": 2.0, "psa": None, "odd": "inf"}
    assert data["b"].columns == {"zip": "56789", "stage": None, "psa": 0.001, "odd": "2"}


# -- manifests -------------------------------------------------------------------------------------------------------


def test_own_columns_without_description(tmp_path: Path) -> None:
    data = open_dataset(folder(tmp_path, None, "image,label,age\na.png,cat,3\nb.png,dog,4\nc.png,eel,5\n"))
    assert (data.task, data.kind, data.label_names) == ("classify", "multiclass", ("cat", "dog", "eel"))
    assert [c.id for c in data] == ["case_1", "case_2", "case_3"]
    assert data.cases[0].columns == {"age": 3.0}
    (tmp_path / "cases.csv").rename(tmp_path / "Manifest.csv")
    assert open_dataset(tmp_path / "Manifest.csv").digest == open_dataset(tmp_path).digest
    assert open_dataset(tmp_path).name == "Manifest"


def test_other_words_for_the_columns(tmp_path: Path) -> None:
    data = open_dataset(
        folder(tmp_path, None, "Filename,Diagnosis,Patient_ID,Split\na.png,healthy,p1,Training\nb.png,ill,p2,TEST\n")
    )
    assert (data.label_names, data.positive) == (("healthy", "ill"), 1)
    assert [(c.id, c.patient, c.split) for c in data] == [("p1", "p1", "train"), ("p2", "p2", "test")]


@pytest.mark.parametrize(
    ("cells", "kind", "names"),
    [
        ("0 1 1", "binary", ("0", "1")),
        ("1.0 2.0 3.0", "multiclass", ("1.0", "2.0", "3.0")),
        ("0.5 1 2", "regression", ("value",)),
        (" ".join(map(str, range(30))), "regression", ("value",)),
        ("a;b a ?b", "multilabel", ("a", "b")),
        ("a [] b", "multilabel", ("a", "b")),
        ("10 9 x", "multiclass", ("9", "10", "x")),
        ("1;2 3;a 4", "multilabel", ("1", "2", "3", "4", "a")),
    ],
)
def test_classes_are_seen_from_the_cells(tmp_path: Path, cells: str, kind: str, names: tuple[str, ...]) -> None:
    rows = "\n".join(f"x,{cell}" for cell in cells.split())
    data = open_dataset(folder(tmp_path, None, f"image,label\n{rows}\n"))
    assert (data.kind, data.label_names) == (kind, names)


def test_a_manifest_that_does_not_say_its_task(tmp_path: Path) -> None:
    csv = "image,label,mask\na,x,m.nii\nb,y,n.nii\n"
    with pytest.raises(DatasetError, match="what is to be learnt"):
        open_dataset(folder(tmp_path, None, csv))
    data = open_dataset(tmp_path, task="segment")
    assert data.cases[0].truth.masks == (Ref("m.nii"),)
    with pytest.raises(DatasetError, match="no truth column"):
        open_dataset(folder(tmp_path, None, "image,age\na,3\n"))
    boxes = '"[{""corners"": [1, 2, 3, 4], ""label"": ""cell""}]"'
    data = open_dataset(folder(tmp_path, None, f"image,boxes\na,{boxes}\nb,[]\n"))
    assert (data.task, data.label_names) == ("detect", ("cell",))


def test_gandlf(tmp_path: Path) -> None:
    csv = "SubjectID,Channel_0,Channel_1,ValueToPredict,Age\ns1,a.nii,b.nii,0,50\ns2,a2.nii,,1,60\n"
    data = open_dataset(folder(tmp_path, None, csv))
    assert (data.task, list(data.inputs), data.kind) == ("classify", ["channel_0", "channel_1"], "binary")
    assert data["s2"].inputs == {"channel_0": Ref("a2.nii"), "channel_1": None}
    assert data["s2"].columns == {"Age": 60.0}
    assert data.patients_known
    data = open_dataset(folder(tmp_path, None, "SubjectID,Channel_0,Label\ns1,a.nii,m.nii\n"))
    assert (data.task, data["s1"].truth.masks) == ("segment", (Ref("m.nii"),))
    with pytest.raises(DatasetError, match="mean the same"):
        open_dataset(folder(tmp_path, None, "SubjectID,patient_id,Channel_0,Label\ns,s,a,b\n"))


def test_innereye(tmp_path: Path) -> None:
    csv = "subject,channel,filePath,institutionId,label\n1,image,a.nii,A,yes\n1,t2,b.nii,A,yes\n2,image,c.nii,B,no\n"
    data = open_dataset(folder(tmp_path, None, csv))
    assert (data.task, list(data.inputs), data.label_names) == ("classify", ["image", "t2"], ("no", "yes"))
    assert (data["1"].site, data["2"].site) == ("A", "B")
    assert data["2"].inputs == {"image": Ref("c.nii"), "t2": None}
    csv = "subject,channel,filePath,institutionId\n1,ct,a.nii,A\n1,segmentation,m.nii,A\n"
    data = open_dataset(folder(tmp_path, None, csv))
    assert (data.task, data["1"].truth.masks) == ("segment", (Ref("m.nii"),))
    with pytest.raises(LayoutError, match="which channel is the truth"):
        open_dataset(folder(tmp_path, None, "subject,channel,filePath\n1,ct,a.nii\n1,liver,m.nii\n"))
    with pytest.raises(DatasetError, match="two values for ct"):
        open_dataset(folder(tmp_path, None, "subject,channel,filePath,label\n1,ct,a.nii,1\n1,ct,b.nii,1\n"))
    with pytest.raises(DatasetError, match="both needed"):
        open_dataset(folder(tmp_path, None, "subject,channel,filePath,label\n,ct,a.nii,1\n"))


def test_a_table_of_something_else(tmp_path: Path, shared_data: Path) -> None:
    with pytest.raises(LayoutError, match="no known layout"):
        open_dataset(folder(tmp_path, None, "height,weight\n1,2\n"))
    for name in ("csv", "gandlf", "innereye"):
        with pytest.raises(MedmapError):
            open_dataset(shared_data / "medmnist", layout=name)


# -- writing ---------------------------------------------------------------------------------------------------------


def full_dataset(root: Path) -> Dataset:
    labels = (Label("a, b", "SCT:1"), Label("c"), Label("d"))
    truths = [Truth(True, None, (1.0, 0.0, math.nan)), Truth(True, None, (0.0, 0.0, 0.0)), Truth()]
    cases = tuple(
        Case(
            f"c{i}",
            f"p{i // 2}",
            {"image": Ref("x.npz", f"rows/{i}"), "t2": None if i else Ref("y.nii")},
            truth,
            ("train", None, "test")[i],
            ("A", None, "B")[i],
            {"age": (63.0, None, 0.1)[i], "sex": ("f", "m", None)[i]},
        )
        for i, truth in enumerate(truths)
    )
    return Dataset(
        "Everything: here",
        "classify",
        cases,
        {"image": InputSpec("US"), "t2": InputSpec()},
        labels,
        "multilabel",
        root,
        mirror_pairs=(("c", "d"),),
        licence="CC BY 4.0",
        source="a, b: #c",
    )


def same(first: Dataset, second: Dataset) -> bool:
    def plain(data: Dataset) -> list[object]:
        return [repr(c) for c in data.cases]

    names = (
        "name",
        "task",
        "labels",
        "kind",
        "positive",
        "ignore",
        "mirror_pairs",
        "licence",
        "source",
        "patients_known",
    )
    return (
        plain(first) == plain(second)
        and all(getattr(first, n) == getattr(second, n) for n in names)
        and first.inputs == second.inputs
        and first.root.resolve() == second.root.resolve()
        and dict(first.regions) == dict(second.regions)
    )


@pytest.mark.parametrize("where", ["same", "sibling", "far"])
def test_what_is_written_comes_back(tmp_path: Path, where: str) -> None:
    root = tmp_path / "images"
    root.mkdir()
    target = {"same": root, "sibling": tmp_path / "study", "far": tmp_path / "a" / "b" / "study"}[where]
    written = write_dataset(full_dataset(root), target)
    assert same(open_dataset(written), full_dataset(root))
    root_line = [x for x in written.read_text().splitlines() if x.startswith("root")]
    assert root_line == {"same": [], "sibling": ["root: ../images"], "far": [f"root: {root}"]}[where]


def test_masks_boxes_and_targets_come_back(tmp_path: Path) -> None:
    truths = [
        Truth(True, masks=(Ref("m.nii"), Ref("n.nii"))),
        Truth(True, boxes=(((0.5, 1.0, 2.0, 3.0), 1), ((0.0, 0.0, 1.0, 1.0), 0))),
        Truth(True, boxes=()),
        Truth(True, target=Ref("t.nii", "3")),
        Truth(),
    ]
    cases = tuple(Case(f"c{i}", f"c{i}", {"image": Ref("x")}, t) for i, t in enumerate(truths))
    for task in ("detect", "enhance"):
        data = Dataset(
            "d", task, cases, {"image": InputSpec()}, (Label("a"), Label("b")), root=tmp_path, patients_known=False
        )
        (tmp_path / task).mkdir()
        back = open_dataset(write_dataset(data, tmp_path / task))
        assert back.cases == data.cases
        assert not back.patients_known


ROWS = st.tuples(
    st.sampled_from([None, 0, 1]), st.sampled_from([None, "train", "val"]), st.floats(-1e9, 1e9) | st.none()
)
NAMES = st.text("aÄ;,\"'#: -?[]{}\n0", min_size=1, max_size=8).map(str.strip)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, min_size=1, max_size=5), st.lists(NAMES, min_size=2, max_size=2, unique=True))
def test_any_names_come_back(tmp_path: Path, rows: list[tuple[object, ...]], names: list[str]) -> None:
    if not all(names):
        return
    cases = tuple(
        Case(
            f"case {i}",
            f"p,{i}",
            {"image": Ref(f"a b/{i}.png")},
            Truth(label is not None, label),
            split,
            None,
            {"x y": x},
        )
        for i, (label, split, x) in enumerate(rows)
    )
    data = Dataset(
        "d", "classify", cases, {"image": InputSpec()}, tuple(Label(n) for n in names), "binary", tmp_path, positive=1
    )
    for name in ("dataset.yaml", "cases.csv"):
        (tmp_path / name).unlink(missing_ok=True)
    back = open_dataset(write_dataset(data, tmp_path))
    assert back.labels == data.labels
    assert [c.truth for c in back] == [c.truth for c in data]
    assert [(c.id, c.patient, c.split) for c in back] == [(c.id, c.patient, c.split) for c in data]
    for mine, theirs in zip(data, back, strict=True):
        assert mine.columns["x y"] == theirs.columns["x y"]


def test_what_a_table_could_not_give_back_is_refused(tmp_path: Path) -> None:
    base = full_dataset(tmp_path)
    case = base.cases[0]
    for change, what in (
        ({"inputs": {"image": Ref("a#b.png")}}, "file's name"),
        ({"columns": {"label": "x"}}, "reserves"),
    ):
        other = base.with_cases([Case(**{**{f: getattr(case, f) for f in case.__slots__}, **change})])
        with pytest.raises(DatasetError, match=what):
            write_dataset(other, tmp_path / "out")
    semicolon = Dataset("d", "classify", base.cases[2:], base.inputs, (Label("a;b"), Label("c")), "multilabel")
    with pytest.raises(DatasetError, match="cannot hold"):
        write_dataset(semicolon, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(full_dataset(tmp_path), tmp_path)
    with pytest.raises(UsageError, match="already holds"):
        write_dataset(full_dataset(tmp_path), tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write_dataset(full_dataset(tmp_path), tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_the_schema_knows_every_key() -> None:
    schema = dataset_schema()
    assert set(schema["properties"]) == set(Description.model_fields)
    assert schema["additionalProperties"] is False


def test_a_hundred_thousand_cases_open_in_seconds(tmp_path: Path) -> None:
    rows = ["case,patient,site,split,image,label,age,sex"]
    rows += [f"c{i},p{i // 2},s{i % 3},train,img/{i}.png,{i % 2},{i % 90},{'mf'[i % 2]}" for i in range(100_000)]
    data = open_dataset(folder(tmp_path, YAML, "\n".join(rows)))
    assert len(data) == 100_000
    assert not np.any([c.split != "train" for c in data.cases[::1000]])


def test_a_class_that_nobody_looked_for_is_neither_present_nor_absent(tmp_path):
    (tmp_path / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: d\ntask: classify\ninputs: {image: {}}\n"
        "kind: multilabel\nlabels: {0: a, 1: b, 2: c}\n"
    )
    (tmp_path / "cases.csv").write_text("case,image,label,annotated\n1,1.png,a,a;b\n2,2.png,a;c,\n")
    first, second = open_dataset(tmp_path)
    assert first.truth.known == (0, 1)
    assert first.truth.values[:2] == (1.0, 0.0)
    assert math.isnan(first.truth.values[2])
    assert second.truth.values == (1.0, 0.0, 1.0)
    again = import_dataset(tmp_path, tmp_path / "again")
    assert again.cases[0].truth.known == (0, 1)
    assert math.isnan(again.cases[0].truth.values[2])
