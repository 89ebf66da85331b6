"""A trained detector on its engines: images a second against the same weights in eager torch, and whether boxes stay.

    python benchmarks/detection_speed.py RUN DATASET                    a bundle and the cases that judge it
    … --images 40 --rounds 3 --int8                                     with a network in 8-bit integers, made here

The network alone (one prepared window a call, as a reader waits for one image) and the whole way from prepared image
to boxes; both sides use all cores, in turns, the fastest of ``--rounds`` counts. Boxes are compared on the
images of the dataset: those reported by eager float32, how many come back at an IoU of 0.95, and AP50 against the
truth on both sides. One line of JSON a comparison.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SETTLED_S = 0.5  # the other side's threads wait busily for more work at first, on the cores that are timed
GOALS = {"bfloat16": 2.0, "int8": 3.0}


def timed(rounds: int, images: list[Any], *calls: Any) -> tuple[list[float], list[list[Any]]]:
    """Images a second of each call at best, in turns, and the answers of each."""
    best, answers = [0.0] * len(calls), [[call(images[0])] for call in calls]
    for _ in range(rounds):
        for side, call in enumerate(calls):
            time.sleep(SETTLED_S)
            call(images[0])
            start = time.perf_counter()
            answers[side] = [call(image) for image in images]
            best[side] = max(best[side], len(images) / (time.perf_counter() - start))
    return best, answers


def quantised(source: Path, folder: Path, dataset: Path) -> Path:
    from medmap.cli import run

    if run(["export", str(source), "-o", str(folder), "--to", "openvino", "--int8", "--dataset", str(dataset)]) > 1:
        raise SystemExit("the bundle cannot be quantised")
    return folder


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default=None)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--int8", action="store_true")
    return parser.parse_args()


def main() -> None:
    words = asked()

    from medmap.bundle import Bundle
    from medmap.bundle.boxes import task_of
    from medmap.bundle.graphs import open_graphs
    from medmap.feed import build_box_store
    from medmap.layouts import open_dataset
    from medmap.metrics import box_iou
    from medmap.prepare import Recipe
    from medmap.runtime import open_engine
    from medmap.tasks.box_reading import decided

    data = open_dataset(words.dataset)
    chosen = data.split(words.split) if words.split else data
    some = chosen.with_cases([case for case in chosen if case.truth.boxes][: words.images])
    work = Path(tempfile.mkdtemp(prefix="medmap-speed-"))
    bundle = Bundle.load(quantised(words.run, work / "int8", words.dataset) if words.int8 else words.run)
    task = task_of(bundle)
    store = build_box_store(some, Recipe.from_json(bundle.spec.members[0].recipe), memory_bytes=2**33, folder=work)
    images = [np.asarray(store[row]["image"], dtype=np.float32) for row in range(len(store))]
    truths = [store[row]["boxes"] for row in range(len(store))]
    eager = open_engine("torch", module=bundle.ensemble(), device="cpu")
    window = [image[(slice(None), *(slice(0, side) for side in task.patch))][None] for image in images]
    window = [one for one in window if one.shape[2:] == task.patch][:10] or [np.zeros((1, 1, *task.patch), np.float32)]

    def boxes(engine: Any) -> Any:
        return lambda image: task.reading.found(engine, image)

    _, (found,) = timed(1, images, boxes(eager))
    grids = [row.trace.target for row in store.prepared]
    theirs = [decided(task.boxes(one, grid), bundle.decision) for one, grid in zip(found, grids, strict=True)]
    reference = task.score(list(zip(found, truths, strict=True)), store.cases).value
    head = {"name": "detection", "peer": "eager torch float32", "images": len(images), "patch": list(task.patch)}
    head |= {"network": bundle.spec.members[0].network["name"], "members": len(bundle.spec.members)}
    for precision in ("float32", "bfloat16", *(["int8"] if words.int8 else [])):
        engine = open_graphs("openvino", bundle.path, bundle.spec, precision=precision)  # type: ignore[arg-type]
        (alone, ours_alone), _ = timed(words.rounds, window, eager, engine)
        (whole, ours), (_, answers) = timed(words.rounds, images, boxes(eager), boxes(engine))
        same, reported = 0, 0
        for them, one in zip(theirs, answers, strict=True):
            kept = them.taken(them.called)
            shared = np.where(kept.label_ids[:, None] == one.labels[None], box_iou(kept.corners, one.corners), 0)
            same, reported = same + int((shared.max(1, initial=0) >= 0.95).sum()), reported + len(kept.scores)
        mine = task.score(list(zip(answers, truths, strict=True)), store.cases).value
        row = {"ours": round(ours, 3), "theirs": round(whole, 3), "unit": "images/s", "ratio": round(ours / whole, 2)}
        row |= {"network_alone_ratio": round(ours_alone / alone, 2), "goal": GOALS.get(precision)}
        row |= {"boxes": reported, "boxes_same": round(same / max(1, reported), 4)}
        row |= {"ap50": round(mine, 4), "ap50_eager": round(reference, 4)}
        row["same_answer"] = abs(mine - reference) <= 0.002 and same >= 0.99 * reported
        print(json.dumps({**head, "precision": precision, **row}), flush=True)
        engine.close()
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
