"""The loop: batches in, weights out. It knows no task, no folder and no clock; it is handed all three."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medmap.config import Section
from medmap.errors import NotFiniteError
from medmap.feed import Feed, Store, plain_batches
from medmap.fit.fast import FlatWeights
from medmap.fit.thin import keep_safe
from medmap.networks import parameter_groups, set_frozen
from medmap.tasks import Batch, Examples, Forward, Selection, Task

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

# On an accelerator a look at the loss waits for the device; every so many steps is enough to stop in time.
FINITE_CHECK_STEPS_GPU = 20
JUDGED_AT_ONCE = 256


class FitSection(Section):
    """How weights are found; ``fit:`` of run.yaml.

    Args:
        epochs: Passes over the training cases.
        batch_size: Images a step.
        optimizer: ``adamw``, ``adam`` or ``sgd`` (Nesterov momentum 0.9).
        learning_rate: At the top of the schedule.
        weight_decay: Of matrices and kernels; biases and normalisation have none.
        warmup_epochs: The learning rate climbs linearly for so long.
        schedule: ``cosine`` to zero after the warm-up (Loshchilov and Hutter 2017), or ``constant``.
        clip_norm: Largest norm of the gradient, or None.
        ema_epochs: Memory, in epochs, of the running average of the weights that is judged and kept; None: the
            weights themselves.
        select: ``best`` epoch by validation, or ``last``.
        validate_every: Epochs between looks at the validation cases.
        patience_epochs: Stop after so many epochs without a better one, or None.
        precision: ``float32`` or ``bfloat16`` for convolutions and matrix products (weights stay float32).
        channels_last: Memory layout; changes speed, not results' meaning. On a CPU it is taken with bfloat16 only.
        layer_decay: Each stage before the head learns so much slower than the next.
        frozen_stages: Stages from the input that stay as they are …
        thaw_epoch: … until this epoch.
        threads: Threads of the processor; part of what makes a run repeatable to the last bit.
    """

    epochs: int = Field(default=50, ge=1, le=100_000)
    batch_size: int = Field(default=32, ge=2, le=8192)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=0.05, ge=0, le=1)
    warmup_epochs: float = Field(default=3, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: float | None = Field(default=1.0, gt=0)
    ema_epochs: float | None = Field(default=5, gt=0)
    select: Literal["best", "last"] = "best"
    validate_every: int = Field(default=1, ge=1)
    patience_epochs: int | None = Field(default=None, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    frozen_stages: int = Field(default=0, ge=0)
    thaw_epoch: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1, le=1024)

    def lays_last(self, device: str) -> bool:
        """Whether channels come last on a device: torch's float32 kernels of a CPU crash there for narrow networks."""
        return self.channels_last and (device != "cpu" or self.precision == "bfloat16")


@dataclass
class FitState:
    """Where a fit stands after an epoch; all of it is numbers, so it can be written down and taken up again."""

    fabric: Fabric
    net: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: torch.nn.Module | None
    flat: FlatWeights | None = None
    epoch: int = 0
    steps: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    followed: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    @property
    def judged(self) -> torch.nn.Module:
        """The network that is validated: the average where there is one."""
        return self.net if self.average is None else self.average

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every number of the state by name."""
        out = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        if self.average is not None:
            out |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        out |= {f"best.{k}": v for k, v in self.best_weights.items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            out |= {f"optimizer.{number}.{k}": v for k, v in values.items() if v is not None}
        return {k: v.detach().clone().contiguous() for k, v in out.items()}

    def facts(self) -> dict[str, Any]:
        """The rest of the state, as plain values."""
        best = None if math.isinf(self.best) else self.best
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "best": best,
            "best_epoch": self.best_epoch,
            "rows": self.rows,
        }

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Take up a state written by ``tensors`` and ``facts``."""
        import torch

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.net.load_state_dict(part("net."))
        if self.average is not None:
            self.average.load_state_dict(part("average."))
        self.best_weights = part("best.")
        held = self.optimizer.state_dict()
        held["state"] = {}
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, value in part("optimizer.").items():
            number, _, key = name.partition(".")
            like = params[int(number)]  # fused kernels walk memory: moments lie as their parameter does
            laid = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            held["state"].setdefault(int(number), {})[key] = laid
        self.optimizer.load_state_dict(held)
        self.epoch, self.steps = int(facts["epoch"]), int(facts["steps"])
        self.best_epoch = int(facts["best_epoch"])
        self.best = -math.inf if facts["best"] is None else float(facts["best"])
        self.rows = list(facts["rows"])
        if self.flat is not None:
            self.flat.refresh()

    def take_best(self) -> torch.nn.Module:
        """The judged network with the weights that are kept: the best epoch's, or as they stand before any judging."""
        if self.best_weights:
            self.judged.load_state_dict(self.best_weights)
            if self.flat is not None:
                self.flat.refresh()
        return self.judged


def start(net: torch.nn.Module, section: FitSection, device: torch.device) -> FitState:
    """The state before the first epoch."""
    fabric = open_fabric(section, device)
    net = net.to(device)
    if section.lays_last(device.type):
        net = net.to(memory_format=memory_format(net))
    groups = parameter_groups(
        net, lr=section.learning_rate, weight_decay=section.weight_decay, layer_decay=section.layer_decay
    )
    average = None
    if section.ema_epochs is not None:
        average = copy.deepcopy(net)
        average.requires_grad_(False)
        average.eval()
    flat = None
    if device.type == "cpu" and not section.frozen_stages:
        flat = FlatWeights(net, groups, low_precision=section.precision == "bfloat16")
        groups = flat.groups
    if device.type == "cpu":
        keep_safe(net)
    for group in groups:
        group["top"] = group["lr"]
    return FitState(fabric, net, _optimizer(section, groups), average, flat)


def _optimizer(section: FitSection, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    import torch

    if section.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=section.learning_rate, momentum=0.9, nesterov=True, fused=True)
    kind = torch.optim.AdamW if section.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=section.learning_rate, fused=True)


def memory_format(net: torch.nn.Module) -> torch.memory_format:
    """Channels-last for pictures or for volumes, whichever the network's kernels are."""
    import torch

    dims = max((p.ndim for p in net.parameters()), default=4)
    return torch.channels_last_3d if dims == 5 else torch.channels_last


def rate(section: FitSection, step: int, steps_per_epoch: int) -> float:
    """Part of the top learning rate at a step (counted from 0 over the whole fit)."""
    warm = section.warmup_epochs * steps_per_epoch
    total = section.epochs * steps_per_epoch
    if step < warm:
        return (step + 1) / (warm + 1)
    if section.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, total - warm))))


def fit(
    task: Task,
    feed: Feed,
    validation: Sequence[int] | NDArray[np.intp],
    section: FitSection,
    state: FitState,
    on_epoch: Callable[[FitState], bool],
    on_step: Callable[[int, int, float], bool] | None = None,
) -> FitState:
    """Train until the last epoch, until patience ends, or until ``on_epoch`` says stop.

    Args:
        task: What is learned.
        feed: Batches of the training cases.
        validation: Rows of the feed's store that choose the best epoch; may be empty (then the last one is kept).
        section: Numbers of the fit.
        state: From ``start``, or restored: the fit goes on where the state stands.
        on_epoch: Called with the state after each epoch (write it down there); True stops.
        on_step: Called with (epoch, step, loss); True ends the epoch there (it is judged as it stands).

    Raises:
        NotFiniteError: The loss became NaN or infinite; the message names the batch's cases.
    """
    import torch

    while state.epoch < section.epochs and not tired(section, state):
        torch.manual_seed(feed.seed * 1_000_003 + state.epoch)
        loss = _epoch(task, feed, section, state, on_step)
        state.epoch += 1
        _judge(task, feed.store, validation, section, state, loss)
        if on_epoch(state):
            break
    return state


def tired(section: FitSection, state: FitState) -> bool:
    """Whether patience has ended: so many epochs without a better one."""
    patience = section.patience_epochs
    return patience is not None and state.best_epoch >= 0 and state.epoch - 1 - state.best_epoch >= patience


def _epoch(
    task: Task, feed: Feed, section: FitSection, state: FitState, on_step: Callable[[int, int, float], bool] | None
) -> float:
    device = next(state.net.parameters()).device
    every = 1 if device.type == "cpu" else FINITE_CHECK_STEPS_GPU
    pending: list[tuple[torch.Tensor, tuple[str, ...]]] = []
    total, seen = 0.0, 0
    frozen = section.frozen_stages if state.epoch < section.thaw_epoch else 0
    state.net.train()
    set_frozen(state.net, frozen)
    for number, batch in enumerate(feed.epoch(state.epoch)):
        factor = rate(section, state.epoch * feed.steps + number, feed.steps)
        for group in state.optimizer.param_groups:
            group["lr"] = group["top"] * factor
        loss = step(task, batch_to(batch, device, section.lays_last(device.type)), section, state, feed.steps)
        pending.append((loss, batch.cases))
        if len(pending) >= every or number + 1 == feed.steps:
            for value, cases in pending:
                number_now = float(value)
                if not math.isfinite(number_now):
                    raise NotFiniteError(
                        f"the loss is {number_now} at epoch {state.epoch + 1}",
                        got="the batch of cases " + ", ".join(cases),
                        remedy="look at these cases with `medmap check`, or lower fit.learning_rate",
                    )
                total, seen = total + number_now * len(cases), seen + len(cases)
            pending.clear()
            if on_step is not None and on_step(state.epoch, number, total / seen):
                break
    return total / max(1, seen)


def step(task: Task, batch: Batch, section: FitSection, state: FitState, steps_per_epoch: int) -> torch.Tensor:
    """One optimiser step; the loss, detached."""
    import torch

    if state.flat is None:
        state.optimizer.zero_grad(set_to_none=True)
    else:
        state.flat.zero_grad()
    with state.fabric.autocast():
        loss = task.loss(state.net, batch)
    state.fabric.backward(loss)
    if section.clip_norm is not None:
        held = [p for group in state.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(held, section.clip_norm, foreach=True)
    state.optimizer.step()
    state.steps += 1
    if state.flat is not None:
        state.flat.refresh()
    if state.average is not None and section.ema_epochs is not None:
        _follow(state, average_decay(section.ema_epochs, steps_per_epoch, state.steps))
    return loss.detach()


def average_decay(ema_epochs: float, steps_per_epoch: int, steps: int) -> float:
    """How much of the average stays at a step; young averages follow faster (Tarvainen and Valpola 2017)."""
    return min(1 - 1 / max(2.0, ema_epochs * steps_per_epoch), (1 + steps) / (10 + steps))


def open_fabric(section: FitSection, device: torch.device) -> Fabric:
    """Lightning Fabric for a device and precision: it places, casts and goes backward; the loop stays ours."""
    import torch
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces its precision at every start
    if device.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    precision: Any = "bf16-mixed" if section.precision == "bfloat16" else "32-true"
    return Fabric(accelerator="cuda" if device.type == "cuda" else "cpu", devices=1, precision=precision)


def laid_out(images: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """The images in the memory layout asked for."""
    import torch

    if not channels_last:
        return images
    return images.contiguous(memory_format=torch.channels_last_3d if images.ndim == 5 else torch.channels_last)


def batch_to(batch: Batch, device: torch.device, channels_last: bool) -> Batch:
    """The batch on a device in the layout asked for."""
    images = laid_out(batch.images.to(device), channels_last)
    share = None if batch.own_share is None else batch.own_share.to(device)
    return replace(batch, images=images, truth=batch.truth.to(device), own_share=share)


def _follow(state: FitState, decay: float) -> None:
    """Move the average towards the weights; counters are copied."""
    import torch

    if not state.followed:  # the tensors stay the same ones from step to step: found once
        ours = [] if state.average is None else list(state.average.state_dict().values())
        state.followed = list(zip(ours, state.net.state_dict().values(), strict=True))
    with torch.no_grad():
        smooth = [pair for pair in state.followed if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in smooth], [b for _, b in smooth], 1 - decay)
        for mine, other in state.followed:
            if not mine.is_floating_point():
                mine.copy_(other)


def _judge(
    task: Task, store: Examples, validation: Any, section: FitSection, state: FitState, loss: float
) -> Selection | None:
    row: dict[str, float] = {"epoch": state.epoch, "train_loss": loss}
    row["learning_rate"] = float(state.optimizer.param_groups[-1]["lr"])
    selection = None
    due = state.epoch % section.validate_every == 0 or state.epoch == section.epochs
    if len(validation) and due:
        cases = [store.cases[int(i)] for i in validation]
        with forwarding(state.fabric, state.judged, section) as forward:
            selection = task.score(task.answers(forward, store, validation), cases)
        row[f"val_{selection.name}"] = selection.shown
    value = float(state.epoch)
    if section.select == "best" and len(validation):
        value = selection.value if selection is not None else -math.inf
    if value > state.best:
        state.best, state.best_epoch = value, state.epoch - 1
        state.best_weights = {k: v.detach().clone() for k, v in state.judged.state_dict().items()}
    row["best_epoch"] = state.best_epoch + 1
    state.rows.append(row)
    return selection


@contextmanager
def forwarding(fabric: Fabric, net: torch.nn.Module, section: FitSection) -> Iterator[Forward]:
    """The network as a plain function of prepared images, for as long as it is judged.

    Args:
        fabric: Placement and precision.
        net: The network; left in the mode it was in.
        section: Layout.
    """
    import torch

    device = next(net.parameters()).device
    was_training = net.training
    net.eval()

    def forward(images: NDArray[np.float32]) -> NDArray[np.float32]:
        batch = laid_out(torch.from_numpy(np.ascontiguousarray(images)).to(device), section.lays_last(device.type))
        numbers: NDArray[np.float32] = net(batch).float().cpu().numpy()
        return numbers

    try:
        with torch.inference_mode(), fabric.autocast():
            yield forward
    finally:
        net.train(was_training)


def logits(
    fabric: Fabric,
    net: torch.nn.Module,
    store: Store,
    rows: Sequence[int] | NDArray[np.intp],
    section: FitSection,
    views: Sequence[Sequence[int]] = ((),),
) -> NDArray[np.float32]:
    """(rows, views, outputs) float32: the network's numbers for prepared cases, without augmentation.

    Args:
        fabric: Placement and precision.
        net: The network; left in the mode it was in.
        store: Prepared cases.
        rows: Which of them.
        section: Layout.
        views: For each view the spatial axes that are mirrored; ``()`` is the image as it is.
    """
    out = []
    with forwarding(fabric, net, section) as forward:
        for batch in plain_batches(store, rows, JUDGED_AT_ONCE):
            images = [batch.flip([2 + axis for axis in view]) if view else batch for view in views]
            out.append(np.stack([forward(x.numpy()) for x in images], axis=1))
    return np.concatenate(out)
