"""Sliding windows with a network in them: medmap's engines against MONAI's inferer and nnU-Net's predictor on torch.

    python benchmarks/window_inference.py                      a full-width 3-D U-Net (399 GFLOP a window), untrained
    python benchmarks/window_inference.py --bundle RUN --dataset DATA
                                                               a trained bundle on images made of its own cases
    python benchmarks/window_inference.py --nnunet PYTHON      an interpreter that has nnunetv2, and what medmap needs
    python benchmarks/window_inference.py --small              tiny, as a test of the benchmark

All sides have the same weights, image, windows and number of threads. Speed does not depend on the weights; whether the
masks are the same does, so that is told for a trained bundle alone: an untrained network scores every voxel as a tie.
With a bundle the image is a mosaic of prepared cases (mirrored, so that it has no seams), cut to where everybody's
windows fall on the same places.

nnU-Net runs in a process of its own: ``predict_sliding_window_return_logits`` in float32, which is what it computes in
on a CPU (it sums windows in half precision), step 0.5, Gaussian, no mirroring. ``windows`` ends with labels on the
network's grid; ``windows and export`` with labels on a grid that is 1.5 times as fine along every axis, nnU-Net's by
``convert_predicted_logits_to_segmentation_with_correct_shape`` with its default resampling. Its Gaussian is not MONAI's
and medmap's: the centre lies half a voxel further, and far corners count less than a thousandth. What that changes is
told apart: ``same_gaussian`` compares with the masks of a further run in which it has medmap's weights, not timed.

One line of JSON a comparison: seconds for the whole image, and the ratio; beside MONAI also what part of this machine's
measured matrix-product speed the engines reach (int8: of bfloat16's). Sides are warmed up, then take turns; the fastest
of ``--rounds`` counts. ``processor_ratio`` is of the processors' seconds, which a busy machine changes little; read it
with ``--threads 1`` (torch's waiting threads spin, and sides gain unlike from a second thread). ``same_answer``: at
most 1 voxel in 10,000 differs in float32, else Dice of at least 0.999.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[Any]
GOALS = {"float32": 1.7, "bfloat16": 3.5, "int8": 6.0}  # against MONAI
NNUNET = Path(__file__).with_name("window_inference_nnunet.py")
FINER = 1.5  # voxels of the source's grid for one of the network's, along an axis
PLAIN, EXPORTED = "windows", "windows and export"
DIFFERENT, DICE = 1e-4, 0.999


@dataclass(frozen=True)
class Found:
    """What a run took, the processors' time beside the clock's, and the labels."""

    seconds: float
    processor_s: float
    labels: Labels

    def better(self, other: Found | None) -> Found:
        if other is None:
            return self
        seconds, processor_s = min(self.seconds, other.seconds), min(self.processor_s, other.processor_s)
        return Found(seconds, processor_s, self.labels)


class Side(Protocol):
    """One way from an image to labels."""

    def warm(self) -> None:
        """Whatever is compiled or planned once."""

    def run(self) -> dict[str, Found]:
        """What each part took."""


def timed(call: Callable[[], Any]) -> Found:
    start, busy = time.perf_counter(), time.process_time()
    answer = call()
    return Found(time.perf_counter() - start, time.process_time() - busy, answer)


def in_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, dict[str, Found]]:
    """The fastest of every side and part; a busy minute of the machine meets all sides, not one."""
    for side in sides.values():
        side.warm()
    best: dict[str, dict[str, Found]] = {name: {} for name in sides}
    for count in range(rounds):
        for name in list(sides) if count % 2 == 0 else reversed(sides):
            for part, found in sides[name].run().items():
                best[name][part] = found.better(best[name].get(part))
    return best


def first_window(image: Floats, patch: tuple[int, ...]) -> Floats:
    return image[(..., *(slice(0, side) for side in patch))]


def finer(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(round(side * FINER) for side in shape)


# -- the sides ------------------------------------------------------------------------------------------------------


class Monai:
    """MONAI's inferer in its Gaussian mode, float32 on torch."""

    def __init__(self, network: Any, image: Floats, patch: tuple[int, ...]) -> None:
        from monai.inferers import SlidingWindowInferer

        self.network, self.image, self.patch = network, image, patch
        self.inferer = SlidingWindowInferer(patch, sw_batch_size=1, overlap=0.5, mode="gaussian")

    def over(self, image: Floats) -> Labels:
        import torch

        with torch.inference_mode():
            found = self.inferer(torch.from_numpy(image[None]), self.network)
            return np.asarray(found[0].argmax(0).to(torch.uint8).numpy())

    def warm(self) -> None:
        self.over(first_window(self.image, self.patch))

    def run(self) -> dict[str, Found]:
        return {PLAIN: timed(lambda: self.over(self.image))}


class Ours:
    """medmap's windows with an engine in them."""

    def __init__(self, engine: Any, image: Floats, patch: tuple[int, ...], threads: int, *, exported: bool) -> None:
        self.engine, self.image, self.patch, self.threads = engine, image, patch, threads
        self.parts = [PLAIN, EXPORTED] if exported else [PLAIN]

    def over(self, image: Floats, part: str) -> Labels:
        from medmap.geometry import Geometry, Resample, Trace
        from medmap.runtime import LabelSink, Windows, slide

        grid = image.shape[1:]
        trace = Trace(Geometry.without_size(grid), ())
        if part == EXPORTED:
            trace = Trace(Geometry.without_size(finer(grid)), (Resample(grid),))
        sink = LabelSink(trace, threads=self.threads)
        return slide(self.engine, image, Windows(self.patch, 0.5), sink, threads=self.threads)

    def warm(self) -> None:
        for part in self.parts:
            self.over(first_window(self.image, self.patch), part)

    def run(self) -> dict[str, Found]:
        return {part: timed(lambda part=part: self.over(self.image, part)) for part in self.parts}


class NnUnet:
    """nnU-Net's predictor, asked for one run after another under another interpreter."""

    def __init__(self, python: str, given: Mapping[str, Any], image: Floats, patch: tuple[int, ...]) -> None:
        import medmap

        self.folder = Path(given["folder"])
        np.save(self.folder / "image.npy", image)
        paths = [str(Path(medmap.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [python, str(NNUNET), json.dumps({**given, "patch": patch})],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> Any:
        said = self.process.stdout.readline() if self.process.stdout else ""
        if not said:
            raise SystemExit(f"nnU-Net's side ended with {self.process.wait()}")
        return json.loads(said)

    def warm(self) -> None:
        self.answer()

    def run(self) -> dict[str, Found]:
        if self.process.stdin:
            print("go", file=self.process.stdin, flush=True)
        return {part: Found(*took, np.load(self.folder / f"{part}.npy")) for part, took in self.answer().items()}

    def alike(self, part: str) -> Labels | None:
        """Its labels with medmap's weights of the voxels in a window, where they were asked for."""
        path = self.folder / f"{part}, alike.npy"
        return np.load(path) if path.exists() else None

    def close(self) -> None:
        self.process.communicate()


# -- networks and images --------------------------------------------------------------------------------------------


class Mean:
    """An ensemble's engine, its members averaged."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __call__(self, batch: Floats) -> Floats:
        return np.asarray(self.engine(batch).mean(axis=1))


def mean_of(ensemble: Any) -> Any:
    """The same in torch, its members averaged."""
    import torch

    class Members(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ensemble = ensemble

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.ensemble(x).mean(1)

    return Members().eval()


def untrained_network(patch: tuple[int, ...], width: float, norm: str) -> Any:
    from medmap.networks import NetworkSpec, build

    spec = NetworkSpec(
        name="unet", outputs=14, dimensions=3, in_channels=1, input_shape=patch, dense=True, width=width, norm=norm
    )
    return build(spec, seed=0).eval()


def noise(patch: tuple[int, ...], windows: Iterable[int]) -> Floats:
    shape = [(n + 1) * side // 2 for n, side in zip(windows, patch, strict=True)]
    return np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)


def mosaic(bundle: Any, dataset: Path, patch: tuple[int, ...]) -> Floats:
    """Eight prepared cases as one image, each mirrored against its neighbours; windows of all sides coincide on it."""
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
    steps = [max(side // 2, 1) for side in patch]
    ends = [n - max(n - p, 0) % step for n, p, step in zip(whole.shape[1:], patch, steps, strict=True)]
    return np.ascontiguousarray(whole[(slice(None), *map(slice, ends))], dtype=np.float32)


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
    took = min(timed(lambda: a @ a).seconds for _ in range(4))
    return 2 * 4096**3 / took


# -- what is printed ------------------------------------------------------------------------------------------------


def line(name: str, peer: str, ours: Found, theirs: Found, **more: Any) -> None:
    took = {"ours": round(ours.seconds, 3), "theirs": round(theirs.seconds, 3), "unit": "s"}
    took["ratio"] = round(theirs.seconds / ours.seconds, 2)
    took["processor_s"] = [round(ours.processor_s, 3), round(theirs.processor_s, 3)]
    took["processor_ratio"] = round(theirs.processor_s / ours.processor_s, 2)
    print(json.dumps({"name": name, "peer": peer, **took, **more}), flush=True)


def agreement(found: Labels, expected: Labels, precision: str, *, known: bool) -> dict[str, Any]:
    """Whether two masks are the same, and by how much they are not."""
    if not known:
        return {"same_answer": None}
    classes = [c for c in np.unique(expected) if c]
    dice = [
        float(2 * ((found == c) & (expected == c)).sum() / ((found == c).sum() + (expected == c).sum()))
        for c in classes
    ]
    different = float((found != expected).mean())
    same = different <= DIFFERENT if precision == "float32" else min(dice, default=1.0) >= DICE
    return {"same_answer": bool(same), "different": round(different, 7), "dice": [round(d, 5) for d in dice]}


def compare(
    title: str, network: Any, engines: Mapping[str, Any], image: Floats, patch: tuple[int, ...], arguments: Any
) -> None:
    """Every engine, by its precision, against the peers."""
    from medmap.runtime import Windows

    count = math.prod(len(starts) for starts in Windows(patch, 0.5).starts(image.shape[1:]))
    work = flops(network, (1, *image.shape[:1], *patch)) * count
    told = f"{title}, {count} windows of {' × '.join(map(str, patch))}, {work / count / 1e9:.0f} GFLOP each"
    peaks = {kind: peak_flops(kind) for kind in ("float32", "bfloat16")}
    known = bool(arguments.bundle)
    with tempfile.TemporaryDirectory() as folder:
        given = {"bundle": arguments.bundle and str(arguments.bundle), "width": width(arguments)}
        given |= {"norm": arguments.norm, "folder": folder, "threads": arguments.threads}
        peers: dict[str, Any] = {"MONAI": Monai(network, image, patch)}
        if exported := has_nnunet(arguments.nnunet):
            peers["nnU-Net"] = NnUnet(arguments.nnunet, given, image, patch)
        ours = {
            kind: Ours(engine, image, patch, arguments.threads, exported=exported) for kind, engine in engines.items()
        }
        best = in_turns({**peers, **ours}, arguments.rounds)
        alike = {part: peers["nnU-Net"].alike(part) for part in (PLAIN, EXPORTED)} if exported else {}
        if exported:
            peers["nnU-Net"].close()
    for peer in peers:
        theirs, more = best[peer][PLAIN], {}
        if peer != "MONAI":
            same = agreement(theirs.labels, best["MONAI"][PLAIN].labels, "float32", known=known)
            more = {f"{key}_as_monai": value for key, value in same.items()}
        took = {"theirs": round(theirs.seconds, 3), "unit": "s", "gflops": round(work / theirs.seconds / 1e9, 1)}
        print(json.dumps({"name": told, "peer": peer, **took, "threads": arguments.threads, **more}), flush=True)
    for kind in ours:
        found, theirs = best[kind][PLAIN], best["MONAI"][PLAIN]
        same = agreement(found.labels, theirs.labels, kind, known=known)
        peak = peaks["float32" if kind == "float32" else "bfloat16"]
        same["of_peak"] = round(work / found.seconds / peak, 3)
        met = {"goal": GOALS[kind], "goal_met": theirs.seconds / found.seconds >= GOALS[kind]}
        line(f"{title}, {kind}", "MONAI", found, theirs, **same, **met)
        for part in best[kind] if exported else ():
            found, theirs = best[kind][part], best["nnU-Net"][part]
            same = agreement(found.labels, theirs.labels, kind, known=known)
            if alike[part] is not None:
                same["same_gaussian"] = agreement(found.labels, alike[part], kind, known=known)
            line(f"{title}, {kind}, {part}", "nnU-Net", found, theirs, **same)


def has_nnunet(python: str) -> bool:
    found = subprocess.run([python, "-c", "import nnunetv2"], capture_output=True, check=False).returncode == 0
    if not found:
        print("nnunetv2 is not installed (--nnunet PYTHON): its predictor is left out", file=sys.stderr)
    return found


def width(arguments: Any) -> float:
    return 0.25 if arguments.small else 1.0


def full_width(arguments: Any) -> None:
    from medmap.runtime import cpu_facts, export_onnx, open_engine, quantized

    patch = (16,) * 3 if arguments.small else (96,) * 3
    network, image = untrained_network(patch, width(arguments), arguments.norm), noise(patch, arguments.windows)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        export_onnx(network, first_window(image[None], patch), path)
        some = np.random.default_rng(1).standard_normal((4, 1, *patch), dtype=np.float32)
        for file, data in zip(("model.int8.xml", "model.int8.bin"), quantized(path, some), strict=True):
            (path.parent / file).write_bytes(data)
        kinds = ["float32", *(["bfloat16"] if cpu_facts().fast_bfloat16 else []), "int8"]
        files = {"int8": path.with_name("model.int8.xml")}
        engines = {
            kind: open_engine("openvino", model_path=files.get(kind, path), precision=kind, threads=arguments.threads)  # type: ignore[arg-type]
            for kind in kinds
        }
        compare(f"full-width U-Net ({arguments.norm} norm)", network, engines, image, patch, arguments)


def trained(arguments: Any) -> None:
    from medmap.bundle import Bundle
    from medmap.prepare import Recipe

    bundle = Bundle.load(arguments.bundle)
    patch = tuple(Recipe.from_json(bundle.spec.members[0].recipe).section.shape)
    kinds = [key.partition(":")[2] or "float32" for key in bundle.spec.engines if key.startswith("openvino")]
    engines: dict[str, Any] = {}
    for kind in kinds:
        if bundle.spec.engines["openvino" if kind == "float32" else f"openvino:{kind}"]["passed"]:
            engines[kind] = Mean(bundle.engine("openvino", precision=kind, threads=arguments.threads))  # type: ignore[arg-type]
        else:
            print(json.dumps({"name": f"trained bundle, {kind}", "reason": "did not pass parity: not used"}))
    image = mosaic(bundle, arguments.dataset, patch)
    compare("trained bundle", mean_of(bundle.ensemble()), engines, image, patch, arguments)


def main() -> None:
    """Measure and print."""
    import torch

    from medmap.runtime import available_cores

    parser = argparse.ArgumentParser(description="windows with a network: seconds against peers on torch")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--norm", choices=["instance", "batch"], default="instance")
    parser.add_argument(
        "--nnunet", default=sys.executable, help="an interpreter that has nnunetv2 and what medmap needs"
    )
    parser.add_argument("--windows", type=int, nargs=3, default=[3, 3, 2], help="along each axis, without a bundle")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=available_cores(), help="of every side")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trained(arguments) if arguments.bundle else full_width(arguments)


if __name__ == "__main__":
    main()
