"""nnU-Net's side of ``window_inference.py``, which starts it under an interpreter that has nnunetv2.

Its one argument is the order as JSON; a run is made for each line of standard input, and answered with one line.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch as put

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from window_inference import EXPORTED, FINER, PLAIN, Found, finer, first_window, mean_of, timed, untrained_network

GAUSSIAN = "nnunetv2.inference.predict_from_raw_data.compute_gaussian"
HIGHEST = 10  # of its weights, which it keeps in half precision


class Peer:
    """Its predictor with our network in it, and the plans its planner would have written."""

    def __init__(self, network: Any, channels: int, patch: tuple[int, ...], threads: int) -> None:
        self.threads = threads
        with torch.inference_mode():
            classes = network(torch.zeros((1, channels, *patch))).shape[1]
        configuration = {
            "patch_size": list(patch),
            "spacing": [FINER] * len(patch),
            "architecture": {},  # the network is given
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        }
        axes = list(range(len(patch)))
        self.plans = PlansManager(
            {
                "configurations": {"windows": configuration},
                "transpose_forward": axes,
                "transpose_backward": axes,
                "label_manager": "LabelManager",
            }
        )
        self.predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_gaussian=True,
            use_mirroring=False,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        labels = {"background": 0, **{f"class {index}": index for index in range(1, classes)}}
        self.predictor.manual_initialization(
            network, self.plans, self.plans.get_configuration("windows"), None, {"labels": labels}, "none", None
        )

    def over(self, image: torch.Tensor) -> dict[str, Found]:
        predicted = timed(lambda: self.predictor.predict_sliding_window_return_logits(image))
        logits = predicted.labels
        decided = timed(lambda: self.predictor.label_manager.convert_logits_to_segmentation(logits))
        exported = timed(lambda: self.exported(logits, finer(image.shape[1:])))
        return {PLAIN: after(predicted, decided), EXPORTED: after(predicted, exported)}

    def exported(self, logits: torch.Tensor, source: tuple[int, ...]) -> Any:
        properties = {
            "spacing": [1.0] * len(source),
            "shape_after_cropping_and_before_resampling": source,
            "shape_before_cropping": source,
            "bbox_used_for_cropping": [[0, side] for side in source],
        }
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            self.plans,
            self.predictor.configuration_manager,
            self.predictor.label_manager,
            properties,
            num_threads_torch=self.threads,
        )


def after(first: Found, then: Found) -> Found:
    labels = np.asarray(then.labels, np.uint8)
    return Found(first.seconds + then.seconds, first.processor_s + then.processor_s, labels)


@contextlib.contextmanager
def our_gaussian(patch: tuple[int, ...]) -> Iterator[None]:
    from medmap.runtime import Windows

    weights = torch.from_numpy(Windows(patch).weights() * HIGHEST).half()
    with put(GAUSSIAN, lambda *_, **__: weights):
        yield


def main(order: Mapping[str, Any]) -> None:
    """Answer until nobody asks any more."""
    answers, sys.stdout = sys.stdout, sys.stderr  # it prints about itself
    torch.set_num_threads(order["threads"])
    patch, folder = tuple(order["patch"]), Path(order["folder"])
    if order["bundle"]:
        from medmap.bundle import Bundle

        network = mean_of(Bundle.load(order["bundle"]).ensemble())
    else:
        network = untrained_network(patch, order["width"], order["norm"])
    image = np.load(folder / "image.npy")
    given, peer = torch.from_numpy(image), Peer(network, len(image), patch, order["threads"])
    peer.over(torch.from_numpy(first_window(image, patch)))
    if order["bundle"]:
        with our_gaussian(patch):
            for part, found in peer.over(given).items():
                np.save(folder / f"{part}, alike.npy", found.labels)
    print(json.dumps("ready"), file=answers, flush=True)
    for _ in sys.stdin:
        took = {}
        for part, found in peer.over(given).items():
            np.save(folder / f"{part}.npy", found.labels)
            took[part] = (found.seconds, found.processor_s)
        print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
