"""Sliding windows with a network in them: medmap's engines against MONAI's inferer on torch, same weights and windows.

    python benchmarks/window_inference.py                      a full-width 3-D U-Net (399 GFLOP a window), untrained
    python benchmarks/window_inference.py --bundle RUN --dataset DATA
                                                               a trained bundle on images made of its own cases
    python benchmarks/window_inference.py --small              tiny, as a test of the benchmark

Speed does not depend on the weights; whether the masks are the same does, so that is told for a trained bundle alone:
an untrained network scores every voxel as a tie. With a bundle the image is a mosaic of prepared cases (mirrored, so
that it has no seams). One line of JSON a comparison: seconds for the whole image, and the ratio; then what part of this
machine's measured matrix-product speed the engines reach (int8: of bfloat16's). Both sides use all cores, one after
the other, the fastest of ``--rounds``.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
GOALS = {"float32": 1.7, "bfloat16": 3.5, "int8": 6.0}
WINDOWS = (3, 3, 2)  # of the untrained network's image, at half overlap


def fastest(rounds: int, call: Callable[[], Any], once: Callable[[], Any] | None = None) -> tuple[float, Any]:
    (once or call)()  # whatever is compiled or planned once
    best, answer = math.inf, None
    for _ in range(rounds):
        start = time.perf_counter()
        answer = call()
        best = min(best, time.perf_counter() - start)
    return best, answer


def peer(network: Any, image: Floats, patch: tuple[int, ...], rounds: int) -> tuple[float, NDArray[Any]]:
    """MONAI's inferer in its Gaussian mode, and the labels."""
    import torch
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(patch, sw_batch_size=1, overlap=0.5, mode="gaussian")
    given = torch.from_numpy(image[None])

    def call() -> NDArray[Any]:
        with torch.inference_mode():
            found = inferer(given, network)
        return np.asarray(found[0].argmax(0).to(torch.uint8).numpy())

    def once() -> None:
        with torch.inference_mode():
            inferer(given[(..., *(slice(0, side) for side in patch))], network)

    return fastest(rounds, call, once)


def ours(engine: Any, image: Floats, patch: tuple[int, ...], rounds: int) -> tuple[float, NDArray[Any]]:
    from medmap.geometry import Geometry, Trace
    from medmap.runtime import LabelSink, Windows, slide

    def over(some: Floats) -> Any:
        here = Trace(Geometry.without_size(some.shape[1:]), ())
        return slide(engine, some, Windows(patch, 0.5), LabelSink(here))

    return fastest(rounds, lambda: over(image), lambda: over(image[(..., *(slice(0, side) for side in patch))]))


class Mean:
    """An ensemble's engine, its members averaged."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __call__(self, batch: Floats) -> Floats:
        return np.asarray(self.engine(batch).mean(axis=1))


def untrained(patch: tuple[int, ...], width: float, norm: str) -> tuple[Any, Floats]:
    from medmap.networks import NetworkSpec, build

    spec = NetworkSpec(
        name="unet", outputs=14, dimensions=3, in_channels=1, input_shape=patch, dense=True, width=width, norm=norm
    )
    shape = [(n + 1) * side // 2 for n, side in zip(WINDOWS, patch, strict=True)]
    image = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    return build(spec, seed=0).eval(), image


def mosaic(bundle: Any, dataset: Path) -> Floats:
    """Eight prepared cases as one image, each mirrored against its neighbours."""
    from medmap.layouts import open_dataset
    from medmap.prepare import Recipe
    from medmap.read import read_ref

    recipe = Recipe.from_json(bundle.spec.members[0].recipe)
    data = open_dataset(dataset)
    name = next(iter(bundle.spec.inputs))
    images = [recipe.apply(read_ref(data, case.inputs[name])).tensors["image"] for case in data.cases[:8]]
    side = np.min([image.shape for image in images], axis=0)
    parts = [image[tuple(slice(0, n) for n in side)] for image in images]
    for axis in (3, 2, 1):
        parts = [np.concatenate([a, np.flip(b, axis)], axis) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    whole = parts[0]
    for axis in (1, 2, 3):
        whole = np.concatenate([whole, np.flip(whole, axis)], axis)
    return np.ascontiguousarray(whole, dtype=np.float32)


def flops(network: Any, shape: tuple[int, ...]) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(shape))
    return float(counter.get_total_flops())


def peak_flops(dtype: str) -> float:
    """Of a large matrix product in torch, which calls oneDNN or MKL."""
    import torch

    a = torch.randn(4096, 4096).to(getattr(torch, dtype))
    took, _ = fastest(3, lambda: a @ a)
    return 2 * 4096**3 / took


def line(name: str, theirs: float, took: float, precision: str, **more: Any) -> None:
    ratio = theirs / took
    row = {"name": name, "peer": "MONAI", "ours": round(took, 3), "theirs": round(theirs, 3), "unit": "s"}
    met = {"goal": GOALS[precision], "goal_met": ratio >= GOALS[precision]}
    print(json.dumps({**row, "ratio": round(ratio, 2), **more, **met}), flush=True)


def compare(title: str, network: Any, engines: Any, image: Floats, patch: tuple[int, ...], arguments: Any) -> None:
    """Every engine against the peer; ``engines`` gives (precision, function of a batch, whether masks are compared)."""
    theirs, expected = peer(network, image, patch, arguments.rounds)
    from medmap.runtime import Windows

    count = math.prod(len(starts) for starts in Windows(patch, 0.5).starts(image.shape[1:]))
    work = flops(network, (1, *image.shape[:1], *patch)) * count
    told = f"{title}, {count} windows of {' × '.join(map(str, patch))}, {work / count / 1e9:.0f} GFLOP each"
    print(
        json.dumps(
            {"name": told, "peer": "MONAI", "theirs": round(theirs, 3), "unit": "s", "gflops": work / theirs / 1e9}
        )
    )
    peaks = {kind: peak_flops(kind) for kind in ("float32", "bfloat16")}
    for precision, engine, trained in engines:
        took, found = ours(engine, image, patch, arguments.rounds)
        same = None
        more: dict[str, Any] = {}
        if trained:
            classes = [c for c in np.unique(expected) if c]
            dice = [
                2 * ((found == c) & (expected == c)).sum() / ((found == c).sum() + (expected == c).sum())
                for c in classes
            ]
            different = float((found != expected).mean())
            same = bool(different <= 1e-4 if precision == "float32" else min(dice) >= 0.999)
            more = {"different": round(different, 7), "dice": [round(float(d), 5) for d in dice]}
        base = peaks["float32" if precision == "float32" else "bfloat16"]
        more["of_peak"] = round(work / took / base, 3)
        line(f"{title}, {precision}", theirs, took, precision, same_answer=same, **more)


def full_width(arguments: Any) -> None:
    from medmap.runtime import cpu_facts, export_onnx, open_engine, quantized

    patch = (16,) * 3 if arguments.small else (96,) * 3
    network, image = untrained(patch, 0.25 if arguments.small else 1.0, arguments.norm)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        export_onnx(network, image[None][..., : patch[0], : patch[1], : patch[2]], path)
        some = np.random.default_rng(1).standard_normal((4, 1, *patch), dtype=np.float32)
        for file, data in zip(("model.int8.xml", "model.int8.bin"), quantized(path, some), strict=True):
            (path.parent / file).write_bytes(data)
        kinds = ["float32", *(["bfloat16"] if cpu_facts().fast_bfloat16 else []), "int8"]
        files = {"int8": path.with_name("model.int8.xml")}

        def engines() -> Any:
            for kind in kinds:
                yield kind, open_engine("openvino", model_path=files.get(kind, path), precision=kind), False  # type: ignore[arg-type]

        compare(f"full-width U-Net ({arguments.norm} norm)", network, engines(), image, patch, arguments)


def trained(arguments: Any) -> None:
    import torch

    from medmap.bundle import Bundle
    from medmap.prepare import Recipe

    bundle = Bundle.load(arguments.bundle)
    patch = Recipe.from_json(bundle.spec.members[0].recipe).section.shape
    ensemble, image = bundle.ensemble(), mosaic(bundle, arguments.dataset)

    class Members(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ensemble(x).mean(1)

    kinds = [key.partition(":")[2] or "float32" for key in bundle.spec.engines if key.startswith("openvino")]

    def engines() -> Any:
        for kind in kinds:
            if bundle.spec.engines["openvino" if kind == "float32" else f"openvino:{kind}"]["passed"]:
                yield kind, Mean(bundle.engine("openvino", precision=kind)), True  # type: ignore[arg-type]
            else:
                print(json.dumps({"name": f"trained bundle, {kind}", "reason": "did not pass parity: not used"}))

    compare("trained bundle", Members(), engines(), image, tuple(patch), arguments)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="windows with a network: seconds against MONAI on torch")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--norm", choices=["instance", "batch"], default="instance")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    trained(arguments) if arguments.bundle else full_width(arguments)


if __name__ == "__main__":
    main()
