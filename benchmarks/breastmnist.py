"""BreastMNIST, official split: what a budget on this machine gives, over seeds, beside the published results.

    python benchmarks/breastmnist.py PATH/breastmnist.npz                        three seeds of ten minutes each
    python benchmarks/breastmnist.py PATH/breastmnist.npz --recipe cnn --seeds 0

Each seed is one ``medmap train`` and one ``medmap evaluate --split test``; runs that are there already are only judged.
One JSON line a seed, one for the mean. Nothing is chosen by looking at the test split: every choice is the plan's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

# Yang et al., Scientific Data 2023, test AUROC and accuracy at 28 × 28.
PUBLISHED = {"ResNet-18 (28)": (0.901, 0.863), "Google AutoML Vision": (0.919, 0.861)}


def medmap(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "medmap", *words], check=True, stdout=sys.stderr)


def judged(data: Path, folder: Path, seed: int, budget: str, recipe: str) -> dict[str, float]:
    run = folder / f"{recipe}-{seed}"
    if not (run / "bundle" / "spec.json").exists():
        words = ["train", str(data), "-o", str(run), "--budget", budget, "--seed", str(seed), "--recipe", recipe]
        medmap(*words, *(["--init", "none"] if recipe == "vgg16" else []))
    medmap("evaluate", str(run), str(data), "--split", "test", "-o", str(run / "test"), "--quiet")
    rows = json.loads((run / "test" / "metrics.json").read_text())["metrics"]
    found = {}
    for row in rows:
        if row["group"] == "all" and row["average"] is None and row["stage"] == "calibrated":
            found[row["name"]] = row
    out = {"recipe": recipe, "seed": seed}
    for name in ("auroc", "accuracy"):
        out |= {name: round(found[name]["value"], 4), f"{name}_low": round(found[name]["low"], 4)}
        out |= {f"{name}_high": round(found[name]["high"], 4)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/breastmnist"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--recipe", default="rules")
    words = parser.parse_args()
    rows = []
    for seed in words.seeds:
        rows.append(judged(words.data, words.runs, seed, words.budget, words.recipe))
        print(json.dumps(rows[-1]), flush=True)
    mean = {name: round(statistics.mean(row[name] for row in rows), 4) for name in ("auroc", "accuracy")}
    print(json.dumps({"recipe": words.recipe, "seeds": words.seeds, "mean": mean, "published": PUBLISHED}))


if __name__ == "__main__":
    main()
