"""Detectors trained from scratch within a budget, beside each other, with intervals.

    python benchmarks/detection.py bccd PATH_OF_BCCD --budget 60m       blood cells: learned from the official train
                                                                       list, judged once on the official val list
    python benchmarks/detection.py nodules --budget 60m                 40 phantom CTs: judged out of fold
    … --networks fcos retinanet faster_rcnn                             one after the other, the budget for each

Each network is one ``medmap train`` (and, for bccd, one ``medmap evaluate --split test``); what is there already is
only judged. Every choice is the plan's, made on training cases: the official val list stands as the test split. One
line of JSON a network, then a table.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

# AP50 of others on the official val list, pre-trained on COCO.
PUBLISHED = {"bccd": {"YOLOv5 and v8, pre-trained": "0.89–0.93"}}
BCCD = """medmap_dataset: 1
name: BCCD
task: detect
inputs: {{image: {{modality: SM}}}}
labels: {{0: Platelets, 1: RBC, 2: WBC}}
root: {root}
licence: MIT, Shenggan/BCCD_Dataset
"""
SHOWN = {
    "bccd": ("ap50", "ap50_95", "sensitivity", "ppv"),
    "nodules": ("froc_cpm", "sensitivity_at_fppi_1", "ap10", "ap50", "sensitivity"),
}


def bccd(source: Path, folder: Path) -> Path:
    """The blood cells with the official val list as the test split, and microscopy as the modality."""
    from medmap.layouts import open_dataset

    data = open_dataset(source)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case", "patient", "split", "image", "boxes"])
        for case in data:
            boxes = [{"corners": list(box), "label": data.labels[i].name} for box, i in case.truth.boxes or ()]
            (image,) = case.inputs.values()
            split = "test" if case.split == "val" else "train"
            rows.writerow([case.id, case.patient, split, str(image), json.dumps(boxes)])
    (folder / "dataset.yaml").write_text(BCCD.format(root=data.root.resolve()))
    return folder


def nodules(folder: Path, cases: int) -> Path:
    """Phantom CTs with nodules of 4 to 12 mm among branching vessels."""
    from medmap.phantom import write_chest_dataset

    if not (folder / "dataset.yaml").exists():
        write_chest_dataset(folder, cases=cases, seed=0)
    return folder


def medmap(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "medmap", *words], check=True, stdout=sys.stderr)


def judged(data: Path, run: Path, network: str, words: argparse.Namespace) -> dict[str, object]:
    test = words.what == "bccd"
    if not (run / "bundle" / "spec.json").exists():
        asked = [f"network.name={network}", *([] if test else ["splits.train=0.8", "splits.val=0.2", "splits.test=0"])]
        sets = [word for text in [*asked, *words.set] for word in ("--set", text)]
        resume = ["--resume"] if (run / "run.yaml").exists() else []
        medmap("train", str(data), "-o", str(run), "--budget", words.budget, "--seed", str(words.seed), *sets, *resume)
    folder = run / "test" if test else run / "evaluation"
    if test:
        medmap("evaluate", str(run), str(data), "--split", "test", "-o", str(folder), "--quiet")
    found = json.loads((folder / "metrics.json").read_text())
    spec = json.loads((run / "bundle" / "spec.json").read_text())
    out: dict[str, object] = {"network": network, "cases": found["cases"], "split": found["split"]}
    out |= {"members": len(spec["members"]), "minutes": round(spec["provenance"]["seconds"] / 60, 1)}
    for row in found["metrics"]:
        named = row["name"] in SHOWN[words.what] and row["average"] is None
        if named and (row["group"] == "all" or row["group"].startswith("size") or words.what == "bccd"):
            numbers = [None if row[k] is None else round(row[k], 4) for k in ("value", "low", "high")]
            out[f"{row['name']} {row['group']}"] = numbers
    return out


def table(rows: list[dict[str, object]]) -> str:
    names = [name for name in rows[0] if isinstance(rows[0][name], list)]
    lines = ["| | " + " | ".join(str(row["network"]) for row in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for name in names:
        cells = [row.get(name) for row in rows]
        shown = [f"{c[0]} ({c[1]}–{c[2]})" if isinstance(c, list) and c[0] is not None else "–" for c in cells]
        lines.append(f"| {name.removesuffix(' all')} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bccd", "nodules"])
    parser.add_argument("data", type=Path, nargs="?", help="bccd: the folder of the Pascal VOC layout")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--networks", nargs="+", default=["fcos"])
    parser.add_argument("--budget", default="60m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], metavar="BLOCK.KEY=VALUE")
    words = parser.parse_args()
    place = words.runs / words.what
    if words.what == "bccd" and words.data is None:
        parser.error("bccd needs the folder of its images")
    data = bccd(words.data, place / "data") if words.what == "bccd" else nodules(place / "data", words.cases)
    rows = []
    for network in words.networks:
        rows.append(judged(data, place / f"{network.replace(':', '_')}-{words.seed}", network, words))
        print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    print(json.dumps({"published": PUBLISHED.get(words.what, {})}))


if __name__ == "__main__":
    main()
