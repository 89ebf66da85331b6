"""The card says what a person must know, and nothing from the data can write on it."""

from bundle.conftest import make_spec
from medmap.bundle import model_card

ROWS = [
    {
        "name": "auroc",
        "group": "all",
        "split": "test",
        "value": 0.9123,
        "low": 0.861,
        "high": 0.95,
        "n": 156,
        "method": "DeLong",
    },
    {"name": "ppv", "group": "site=B", "value": None, "reason": "no positive prediction", "n": 12},
    {"name": "brier", "value": 0.1, "stage": "calibrated"},
]


def test_every_part_of_the_card_is_there():
    spec = make_spec(
        warnings=["a patient stands in two splits"],
        engines={"onnx": {"passed": True, "max_abs": 2e-6, "cases": 8}, "openvino": {"passed": False, "max_abs": None}},
    )
    card = model_card(spec, ROWS)
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == [
        "# breast",
        "## Read this first",
        "## Intended use",
        "## How good it is",
        "## Limits",
        "## Data",
        "## How it was made",
        "## Licence",
    ]
    for text in (
        "a patient stands in two splits",
        "| auroc | all | test | 0.912 | 0.861 to 0.950 | 156 | DeLong |",
        "| ppv | site=B | — | not defined: no positive prediction | — | 12 | — |",
        "| brier (calibrated) | all | — | 0.100 | — | — | — |",
        "malignant (SCT:363346000) (positive)",
        "no more than 12 cases",
        "not a medical device",
        "Engine onnx gives the same answer as torch, largest difference 2e-06, on 8 prepared cases.",
        "The engine openvino does not give the same answer and is not used.",
        "dataset name: BreastMNIST",
        "trained without fold 1",
        "CC-BY-4.0",
    ):
        assert text in card, text


def test_a_bundle_without_evaluation_says_so():
    assert "Not measured" in model_card(make_spec(provenance={}), [])
    assert "Nothing is recorded" in model_card(make_spec(provenance={}), [])


def test_names_from_data_cannot_write_html_links_or_rows():
    evil = "x | y\n## Fake\n<script>alert(1)</script> [a](http://b)"
    spec = make_spec(labels=[{"name": evil}, {"name": "b"}], name=evil, provenance={"k": evil}, licence=evil)
    card = model_card(spec, [{"name": evil, "group": evil, "value": 1.0}])
    assert "<script>" not in card.replace("\\<", "")
    assert "\n## Fake" not in card
    assert "](" not in card.replace("\\]", "")
    (row,) = [line for line in card.splitlines() if line.startswith("| x")]
    assert row.replace("\\|", "").count("|") == 8
