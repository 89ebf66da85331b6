"""The model card: one Markdown page for the person who decides whether to use the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medmap.bundle.detector import detector_facts
from medmap.bundle.spec import BundleSpec, MemberSpec
from medmap.decision import Decision
from medmap.metrics.meanings import meanings

# One task, one sentence of what comes out.
_ANSWERS = {
    "classify": "a score for each class",
    "detect": "boxes around findings, each with a score",
    "segment": "an outline of each structure",
    "enhance": "an improved image",
}


def model_card(spec: BundleSpec, estimates: Sequence[Mapping[str, Any]]) -> str:
    """The card of a bundle in Markdown: data, intended use, metrics with intervals, limits, licence, how made.

    Args:
        spec: The bundle's spec; ``provenance`` and ``run`` are shown as far as they are plain.
        estimates: Rows as in ``metrics.json``: name, group, value, low, high, n, method, and optionally
            split, stage, reason.

    Example:
        >>> spec = BundleSpec(task="classify", name="nodules", created="2025-01-31T12:00:00Z", medmap_version="0.1.0",
        ...     inputs={"image": {"modality": "CT"}}, members=[{"network": {"name": "resnet18"}, "recipe": {}}])
        >>> print(model_card(spec, [])[:9])
        # nodules
    """
    parts = [
        f"# {_text(spec.name)}",
        *_warnings(spec),
        *_intended_use(spec),
        *_calls(spec),
        *_metrics(estimates),
        *_limits(spec, estimates),
        *_data(spec),
        *_making(spec),
        "## Licence",
        _text(spec.licence),
    ]
    return "\n\n".join(parts) + "\n"


def _text(value: object) -> str:
    """One line without Markdown or HTML of its own: names come from data, not from the card's author."""
    line = " ".join(str(value).split())
    for sign in "\\`*_[]<>|#":
        line = line.replace(sign, "\\" + sign)
    return line


def _warnings(spec: BundleSpec) -> list[str]:
    if not spec.warnings:
        return []
    return ["## Read this first", "\n".join(f"- {_text(warning)}" for warning in spec.warnings)]


def _intended_use(spec: BundleSpec) -> list[str]:
    rows = []
    for name, given in spec.inputs.items():
        size = f", prepared to {' × '.join(map(str, given.size))}" if given.size else ""
        channels = f"{given.channels} channel{'s' if given.channels > 1 else ''}"
        rows.append(f"- Input {_text(name)}: {_text(given.modality or 'modality not stated')}, {channels}{size}.")
    answer = _ANSWERS.get(spec.task, f"the outputs of the task {_text(spec.task)}")
    labels = []
    for index, label in enumerate(spec.labels):
        code = f" ({_text(label.code)})" if label.code else ""
        labels.append(f"{_text(label.name)}{code}" + (" (positive)" if index == spec.positive else ""))
    rows.append(f"- Answer: {answer}" + (f": {', '.join(labels)}." if labels else "."))
    return [
        "## Intended use",
        "Research, on images like those it learnt from. It is not a medical device, and no person's care may rest on "
        "its answer alone.",
        "\n".join(rows),
    ]


def _calls(spec: BundleSpec) -> list[str]:
    """Of a detector: from which score on a box is called, what the network looks at, how that was judged."""
    if spec.task != "detect":
        return []
    facts = detector_facts(spec)
    called = []
    for name, threshold in facts.operating_points.items():
        meaning = "a probability" if name in facts.calibrated else "not calibrated"
        called.append(f"| {_text(name)} | {threshold:.3f} | {meaning} |")
    table = ["| class | called from a score of | the score is |", "|---|---|---|", *called]
    rows = ["\n".join(table)] if called else ["No operating point is fitted: every box is called."]
    if facts.calibrated:
        rows.append("A score that is a probability keeps its word: of boxes with 0.8, about 80 of 100 are right.")
    told = [f"- The network looks at {_text(facts.input_grid)}."]
    told.append(f"- Judged on {_text(facts.judged)}." if facts.judged else "- Nothing was judged.")
    told.append("- Boxes below the operating point stand in the tables, marked as not called; reports leave them out.")
    return ["## How it calls findings", *rows, "\n".join(told)]


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "not defined"


def _metrics(estimates: Sequence[Mapping[str, Any]]) -> list[str]:
    if not estimates:
        return ["## How good it is", "Not measured. A bundle without an evaluation proves nothing."]
    lines = ["| metric | group | split | value | 95 % interval | n | method |", "|---|---|---|---|---|---|---|"]
    for row in estimates:
        low, high = row.get("low"), row.get("high")
        interval = "—" if low is None or high is None else f"{_number(low)} to {_number(high)}"
        value = _number(row.get("value"))
        if row.get("value") is None and row.get("reason"):
            value = f"not defined: {_text(row['reason'])}"
        details = [str(row[key]) for key in ("stage", "average") if row.get(key)]
        name = str(row.get("name", "?")) + (f" ({', '.join(details)})" if details else "")
        cells = [
            _text(name),
            _text(row.get("group") or "all"),
            _text(row.get("split") or "—"),
            value,
            interval,
            _text(row.get("n", "—")),
            _text(row.get("method") or "—"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    said = [f"- {_text(name)}: {text}" for name, text in meanings(str(row.get("name")) for row in estimates).items()]
    return ["## How good it is", "\n".join(lines), *(["\n".join(said)] if said else [])]


def _limits(spec: BundleSpec, estimates: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "- Measured on the cases named below; another hospital's scanners, protocols and patients may give other "
        "results. Evaluate it on cases of your own before you rely on it.",
        "- Groups of patients that are rare in the data are hardly tested by it.",
    ]
    counts = [row["n"] for row in estimates if isinstance(row.get("n"), int)]
    if counts and min(counts) < 100:
        lines.append(f"- At least one number above rests on no more than {min(counts)} cases: mind its interval.")
    lines += _dropped(spec)
    slow = [key for key, parity in spec.engines.items() if not parity.get("passed")]
    lines += [f"- The engine {_text(key)} does not give the same answer and is not used." for key in slow]
    return ["## Limits", "\n".join(lines)]


def _dropped(spec: BundleSpec) -> list[str]:
    """Which connected parts of a mask are not given, a line a structure."""
    shape = next(iter(spec.inputs.values())).size or ()
    unit = {2: "mm²", 3: "mm³"}.get(len(shape), "voxels")
    rules = Decision.from_json(spec.decision).component_rules if spec.decision else {}
    return [
        f"- {_text(name)}: of what is found {rule.in_words(unit)} (voxels count where an image states no size)."
        for name, rule in rules.items()
    ]


def _plain(block: Mapping[str, Any]) -> list[str]:
    shown = {k: v for k, v in block.items() if isinstance(v, (str, int, float)) and not isinstance(v, bool)}
    return [f"- {_text(key.replace('_', ' '))}: {_text(value)}" for key, value in shown.items()]


def _data(spec: BundleSpec) -> list[str]:
    given = dict(spec.provenance)
    if isinstance(digest := given.get("dataset_digest"), str):
        given["dataset_digest"] = f"{digest} (of the whole dataset, with all its splits)"
    lines = _plain(given)
    if "patients" in spec.provenance and spec.provenance["patients"] is None:
        lines.append("- patients: not known; every case counts as a patient of its own")
    dataset = spec.provenance.get("dataset")
    if isinstance(dataset, Mapping):
        lines = _plain({f"dataset {key}": value for key, value in dataset.items()}) + lines
    return ["## Data", "\n".join(lines) or "Nothing is recorded about the data."]


def _network(member: MemberSpec) -> str:
    fold = "" if member.fold is None else f", trained without fold {member.fold}"
    return f"- {_text(member.network.get('name', 'network'))}{fold}"


def _coarse(spec: BundleSpec) -> list[str]:
    """Where a cascade looks."""
    coarse, task = spec.run.get("coarse"), spec.run.get("task")
    if not isinstance(coarse, Mapping) or not isinstance(task, Mapping):
        return []
    prepare = coarse.get("prepare")
    spacing = (prepare.get("spacing_mm") if isinstance(prepare, Mapping) else None) or ()
    at = f" at {' × '.join(f'{step:g}' for step in spacing)} mm" if spacing else ""
    return [
        f"- A coarse network (the bundle in `coarse/`) looks at the whole image{at}; the networks above look where it "
        f"found something and {_text(task.get('around_mm', '?'))} mm around it, at everything where it found nothing."
    ]


def _making(spec: BundleSpec) -> list[str]:
    lines = [f"- Made {_text(spec.created)} with medmap {_text(spec.medmap_version)}."]
    count = len(spec.members)
    lines.append(f"- {count} network{'s whose outputs are averaged' if count > 1 else ''}:")
    lines += [f"  {_network(member)}" for member in spec.members]
    lines += _coarse(spec)
    for key, parity in spec.engines.items():
        verdict = "gives the same answer as torch" if parity.get("passed") else "differs from torch"
        largest = parity.get("max_abs")
        far = f", largest difference {largest:.2g}" if isinstance(largest, (int, float)) else ""
        lines.append(f"- Engine {_text(key)} {verdict}{far}, on {_text(parity.get('cases', '?'))} prepared cases.")
    lines.append("- The complete recipe stands in `spec.json` beside this card; `SHA256SUMS` holds every file's hash.")
    return ["## How it was made", "\n".join(lines)]
