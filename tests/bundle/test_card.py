"""The card says what a person must know, and nothing from the data can write on it."""

from bundle.conftest import make_spec
from medmap.bundle import model_card
from medmap.bundle.detector import detector_facts

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


def test_metrics_are_explained_once():
    rows = [{"name": name, "value": 0.5, "group": group} for name in ("ap50", "nsd") for group in ("all", "a")]
    card = model_card(make_spec(), rows)
    assert card.count("- ap50: How pure boxes stay") == card.count("- nsd: The share of both surfaces") == 1


def test_patients_who_are_not_known_are_not_counted():
    words = "patients: not known; every case counts as a patient of its own"
    for count, said in ((None, True), (41, False)):
        card = model_card(make_spec(provenance={"cases": 41, "patients": count}), ROWS)
        assert (words in card) is said
        assert ("patients: 41" in card) is not said
    assert words not in model_card(make_spec(provenance={"cases": 41}), ROWS)  # older bundles


DETECTOR = {
    "task": "detect",
    "kind": None,
    "positive": None,
    "labels": [{"name": "nodule"}, {"name": "<b>cyst"}],
    "run": {"prepare": {"shape": [32, 32, 16], "grid": "spacing", "spacing_mm": [0.8, 0.8, 2.0]}},
    "decision": {
        "temperature": [0.7, 1.0],
        "prior_shift": [0.2, 0.0],
        "thresholds": [0.3, 0.5],
        "target": "f1",
        "accepts": {"image": {"ndim": 3, "spacing_mm": [[0.7, 0.9]]}},
        "fitted_on": {"cases": 40, "how": "out of fold"},
    },
}


def test_a_detector_says_from_which_score_it_calls_and_how_it_was_judged():
    card = model_card(make_spec(**DETECTOR), ROWS)
    assert "| nodule | 0.300 | a probability |" in card
    assert "| \\<b\\>cyst | 0.500 | not calibrated |" in card
    assert "patches of 32 × 32 × 16 voxels, each 0.8 × 0.8 × 2 mm" in card
    assert "40 cases, by networks that did not learn from them (out of fold)" in card
    assert "its centre lies within the finding's radius" in card
    assert "How it calls findings" not in model_card(make_spec(), ROWS)


def test_a_detector_of_pictures_and_one_that_was_not_judged():
    flat = {**DETECTOR["decision"], "accepts": {"image": {"ndim": 2, "spacing_mm": None}}}
    facts = detector_facts(make_spec(**{**DETECTOR, "decision": flat, "run": {"prepare": {"shape": [256, 320]}}}))
    assert facts.input_grid == "the whole image at 256 × 320"
    assert facts.judged is not None
    assert facts.judged.endswith("intersection over union of 0.5")
    bare = make_spec(**{**DETECTOR, "decision": {}, "run": {}})
    facts = detector_facts(bare)
    assert (facts.operating_points, facts.calibrated, facts.judged) == ({}, (), None)
    card = model_card(bare, [])
    assert "No operating point is fitted: every box is called." in card
    assert "Nothing was judged." in card


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


def test_the_card_says_what_its_digest_is_of():
    card = model_card(make_spec(provenance={"dataset_digest": "sha256:abc", "cases": 3}), [])
    assert "- dataset digest: sha256:abc (of the whole dataset, with all its splits)" in card
