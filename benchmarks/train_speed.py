"""medmap's training step against a plain PyTorch float32 loop: the same network, batch and data, in one run.

    python benchmarks/train_speed.py             the step, 2-D and 3-D, and the final metric over three seeds
    python benchmarks/train_speed.py --quick     the step only

Each comparison is one JSON line: {name, peer, ours, theirs, unit, ratio, same_answer}; ``ratio`` is theirs / ours.
Both sides are timed in turn, step by step, and medians are compared, so a drifting machine meets both alike. The peer
has a process of its own: what medmap asks of the allocator does not help it, nor does anything of it hinder medmap.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medmap import metrics, phantom
from medmap.fit import FitSection, batch_to, keep_heap, start, step
from medmap.results import Label
from medmap.runtime import available_cores
from medmap.tasks import Batch
from medmap.tasks.classify import Classify, ClassifySection

ROUNDS = 12
TASK = Classify(ClassifySection(), (Label("absent"), Label("present")), "binary")
# name, network, width, shape, batch
STEPS = (
    ("2-D small_resnet 28×28, batch 64", "small_resnet", 1.0, (28, 28), 64),
    ("2-D resnet18 28×28, batch 64", "resnet18", 1.0, (28, 28), 64),
    ("2-D resnet18 224×224, batch 16", "resnet18", 1.0, (224, 224), 16),
    ("3-D small_resnet 28×28×28, batch 16", "small_resnet", 0.5, (28, 28, 28), 16),
    ("3-D resnet18 32×32×32, batch 4", "resnet18", 1.0, (32, 32, 32), 4),
)


def network(name: str, width: float, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    options = {"dimensions": len(shape), "in_channels": 1, "input_shape": shape, "width": width}
    return TASK.network(name, seed=seed, **options)


def section(batch: int, fast: bool) -> FitSection:
    low = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    precision = "bfloat16" if fast and low else "float32"
    return FitSection(
        batch_size=batch, precision=precision, channels_last=fast, learning_rate=1e-3, clip_norm=None, ema_epochs=None
    )


class Plain:
    """The loop everyone writes: float32, AdamW, zero_grad, forward, backward, step."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net.train()
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)

    def __call__(self, images: torch.Tensor, truth: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.net(images), truth)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def peer_process(pipe: Connection, net_name: str, width: float, shape: tuple[int, ...], size: int) -> None:
    """The plain loop as anybody runs it, in a process of its own; each word down the pipe is one timed step."""
    torch.set_num_threads(available_cores())
    images, truth = example(shape, size)
    plain = Plain(network(net_name, width, shape))
    while pipe.recv():
        begin = time.perf_counter()
        loss = plain(images, truth)
        pipe.send((time.perf_counter() - begin, loss))


def example(shape: tuple[int, ...], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((size, 1, *shape), generator=generator), torch.arange(size) % 2


def compare_steps(name: str, net_name: str, width: float, shape: tuple[int, ...], size: int) -> dict[str, object]:
    context = multiprocessing.get_context("spawn")
    pipe, theirs_end = context.Pipe()
    peer = context.Process(target=peer_process, args=(theirs_end, net_name, width, shape, size), daemon=True)
    peer.start()
    images, truth = example(shape, size)
    chosen = section(size, fast=True)
    state = start(network(net_name, width, shape), chosen, torch.device("cpu"))
    state.net.train()
    batch = Batch(images, truth, tuple(map(str, range(size))))
    ours, theirs = [], []
    for _ in range(ROUNDS + 2):
        pipe.send(True)
        theirs.append(pipe.recv())
        time.sleep(0.05)  # threads of the one side have stopped spinning before the other begins
        begin = time.perf_counter()
        here = batch_to(batch, torch.device("cpu"), chosen.channels_last)
        loss = float(step(TASK, here, chosen, state, 10))
        ours.append((time.perf_counter() - begin, loss))
        time.sleep(0.05)
    pipe.send(False)
    peer.join(30)
    medians = [statistics.median(seconds for seconds, _ in side[2:]) * 1000 for side in (ours, theirs)]
    same = abs(ours[0][1] - theirs[0][1]) < 0.02
    return row(f"training step, {name}", medians[0], medians[1], "ms", same)


def compare_metric(seeds: int = 3, epochs: int = 12) -> dict[str, object]:
    """The same short training both ways: does the faster step learn as well?"""
    cases = phantom.classification(480, 7, shape=(32, 32))
    images = torch.from_numpy(np.stack([c.image.array for c in cases])[:, None].astype(np.float32))
    images = (images - images.mean()) / images.std()
    truth = torch.tensor([c.label for c in cases])
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    for seed in range(seeds):
        for kind, values in found.items():
            values.append(_train(kind == "ours", images, truth, seed, epochs))
    ours, theirs = (statistics.mean(found[k]) for k in ("ours", "theirs"))
    noise = 2 * max(statistics.stdev(found["ours"]), statistics.stdev(found["theirs"]), 0.01)
    out = row(f"final AUROC over {seeds} seeds", ours, theirs, "AUROC", bool(abs(ours - theirs) <= noise))
    return {**out, "ratio": round(ours / theirs, 3), "each": found}


def _train(fast: bool, images: torch.Tensor, truth: torch.Tensor, seed: int, epochs: int) -> float:
    learn, judge = slice(0, 320), slice(320, None)
    net = network("small_resnet", 0.5, tuple(images.shape[2:]), seed)
    chosen = section(32, fast)
    state = start(net, chosen, torch.device("cpu")) if fast else None
    plain = None if fast else Plain(net)
    net.train()
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(320), 10):
            if state is not None:
                batch = Batch(images[learn][rows], truth[learn][rows], tuple(map(str, rows)))
                step(TASK, batch_to(batch, torch.device("cpu"), chosen.channels_last), chosen, state, 10)
            elif plain is not None:
                plain(images[learn][rows], truth[learn][rows])
    judged = network("small_resnet", 0.5, tuple(images.shape[2:]))
    judged.load_state_dict(net.state_dict())
    judged.eval()
    with torch.no_grad():
        scores = judged(images[judge]).float().softmax(1)[:, 1].numpy()
    return float(metrics.auroc(scores, truth[judge].numpy() == 1).value or 0.5)


def row(name: str, ours: float, theirs: float, unit: str, same: bool) -> dict[str, object]:
    numbers = {"ours": round(ours, 4), "theirs": round(theirs, 4), "unit": unit, "ratio": round(theirs / ours, 2)}
    return {"name": name, "peer": "plain PyTorch float32 loop", **numbers, "same_answer": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the step only")
    quick = parser.parse_args().quick
    keep_heap()
    torch.set_num_threads(available_cores())
    for case in STEPS:
        print(json.dumps(compare_steps(*case), ensure_ascii=False), flush=True)
    if not quick:
        print(json.dumps(compare_metric(), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
