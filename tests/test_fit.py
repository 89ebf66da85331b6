"""The loop and its fast step."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medmap.augment import OFF
from medmap.dataset import Case, Truth
from medmap.errors import NotFiniteError
from medmap.feed import Feed, Store
from medmap.fit import FitSection, FitState, FlatWeights, fit, keep_heap, logits, start, step
from medmap.fit.loop import average_decay, batch_to, rate
from medmap.fit.thin import keep_safe
from medmap.results import Label
from medmap.tasks import Batch
from medmap.tasks.classify import Classify, ClassifySection

CPU = torch.device("cpu")
TASK = Classify(ClassifySection(), (Label("no"), Label("yes")), "binary")


def store(n: int = 24, side: int = 12) -> Store:
    rng = np.random.default_rng(0)
    truth = np.arange(n) % 2
    rows = rng.normal(0, 1, (n, 1, side, side)).astype(np.float16)
    rows[truth == 1, :, 3:8, 3:8] += 2.5
    cases = tuple(Case(str(i), str(i), {}, Truth(True, label=int(t))) for i, t in enumerate(truth))
    return Store(cases, rows, tuple(map(str, range(n))), "r")


def net(width: float = 0.25, dims: int = 2, seed: int = 0) -> nn.Module:
    return TASK.network(
        "small_resnet", seed=seed, dimensions=dims, in_channels=1, input_shape=(12,) * dims, width=width
    )


def feed(held: Store, rows: int = 16) -> Feed:
    return Feed(held, np.arange(rows), TASK, 8, 0, OFF)


def section(**changes: Any) -> FitSection:
    return FitSection(**{"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "warmup_epochs": 1, **changes})


def never(_: FitState) -> bool:
    return False


def test_it_learns() -> None:
    held = store(48)
    state = fit(TASK, feed(held, 32), range(32, 48), section(epochs=12), start(net(), section(epochs=12), CPU), never)
    assert state.rows[-1]["train_loss"] < 0.3
    assert state.rows[-1]["val_auroc"] > 0.9
    assert [r["epoch"] for r in state.rows] == list(range(1, 13))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_a_restored_fit_ends_with_the_same_bits(precision: str, optimizer: str) -> None:
    held = store()
    chosen = section(epochs=4, precision=precision, channels_last=precision == "bfloat16", optimizer=optimizer)
    whole = fit(TASK, feed(held), range(16, 24), chosen, start(net(), chosen, CPU), never)
    saved: list[tuple[dict[str, torch.Tensor], dict[str, Any]]] = []

    def stop_at_two(state: FitState) -> bool:
        saved.append((state.tensors(), copy.deepcopy(state.facts())))
        return state.epoch == 2

    fit(TASK, feed(held), range(16, 24), chosen, start(net(), chosen, CPU), stop_at_two)
    again = start(net(seed=5), chosen, CPU)
    again.restore(*saved[-1])
    fit(TASK, feed(held), range(16, 24), chosen, again, never)
    for name, value in whole.judged.state_dict().items():
        assert torch.equal(value, again.judged.state_dict()[name]), name
    assert again.rows == whole.rows


def test_not_a_number_names_the_cases() -> None:
    held = store()
    rows = np.array(held.rows)
    rows[5] = np.nan
    broken = replace(held, rows=rows)
    chosen = section()
    with pytest.raises(NotFiniteError, match=r"cases .*\b5\b"):
        fit(TASK, feed(broken), (), chosen, start(net(), chosen, CPU), never)


def test_best_epoch_is_kept_and_patience_ends() -> None:
    held = store()
    chosen = section(epochs=50, select="best", patience_epochs=3, learning_rate=1e-2, ema_epochs=None)
    state = fit(TASK, feed(held), range(16, 24), chosen, start(net(), chosen, CPU), never)
    assert state.epoch < 50
    assert state.epoch - 1 - state.best_epoch == 3
    assert state.best_weights.keys() == state.net.state_dict().keys()


def test_frozen_stages_do_not_move_until_they_thaw() -> None:
    held = store()
    chosen = section(epochs=2, frozen_stages=2, thaw_epoch=1, ema_epochs=None)
    network = net()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    first = next(iter(before))
    seen: list[bool] = []

    def look(state: FitState) -> bool:
        seen.append(torch.equal(state.net.state_dict()[first], before[first]))
        return False

    fit(TASK, feed(held), (), chosen, start(network, chosen, CPU), look)
    assert seen == [True, False]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("width", [0.25, 4.0])
def test_the_fast_step_has_the_gradient_of_the_plain_one(dims: int, width: float) -> None:
    """Width 4 on these few positions takes the matrix product for the weight gradient."""
    images = torch.randn((4, 1, *(12,) * dims), generator=torch.Generator().manual_seed(0))
    truth = torch.arange(4) % 2
    plain, fast = net(width, dims), net(width, dims)
    form = torch.channels_last if dims == 2 else torch.channels_last_3d
    fast.to(memory_format=form)
    flat = FlatWeights(fast, [{"params": list(fast.parameters())}], low_precision=True)
    for one, x in ((plain, images), (fast, images.contiguous(memory_format=form))):
        one.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=one is fast):
            loss = TASK.loss(one, Batch(x, truth, tuple("abcd")))
        loss.backward()
    for (name, a), b in zip(plain.named_parameters(), fast.parameters(), strict=True):
        one, other = (p.grad.double().flatten() for p in (a, b))  # type: ignore[union-attr]
        if float(one.norm()) > 1e-6:
            assert float(torch.dot(one, other) / (one.norm() * other.norm())) > 0.93, name
            assert 0.8 < float(one.norm() / other.norm()) < 1.25, name
    flat.zero_grad()
    assert all(float(p.grad.abs().max()) == 0 for p in fast.parameters())  # type: ignore[union-attr]


def test_convolution_bias_takes_part_in_the_fast_step() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(3 * 16, 2))
    fast = copy.deepcopy(plain)
    FlatWeights(fast, [{"params": list(fast.parameters())}], low_precision=True)
    with torch.no_grad():
        plain[0].bias.add_(3.0)
        fast[0].bias.add_(3.0)
    x = torch.randn(5, 2, 4, 4)
    out = [m(x.clone()) if m is plain else m[2](m[1](m[0](x)).float()) for m in (plain, fast)]
    torch.testing.assert_close(out[0], out[1], atol=0.05, rtol=0.05)


def test_grouped_and_dilated_convolutions_are_left_as_they_are() -> None:
    odd = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding="same")
    )
    FlatWeights(odd, [{"params": list(odd.parameters())}], low_precision=True)
    assert all(type(m) is nn.Conv2d for m in odd)


def test_float32_and_bfloat16_steps_walk_together() -> None:
    held = store()
    losses = []
    for precision in ("float32", "bfloat16"):
        chosen = section(precision=precision, channels_last=precision == "bfloat16")
        state = start(net(), chosen, CPU)
        state.net.train()
        batch = feed(held).batch(np.arange(8), 0, 0)
        losses.append(
            [float(step(TASK, batch_to(batch, CPU, chosen.channels_last), chosen, state, 4)) for _ in range(5)]
        )
    np.testing.assert_allclose(losses[0], losses[1], atol=0.03)


def test_logits_do_not_depend_on_the_batch_and_views_are_mirrored() -> None:
    held = store()
    chosen = section()
    state = start(net(), chosen, CPU)
    state.judged.train()
    out = logits(state.fabric, state.judged, held, range(6), chosen, ((), (1,)))
    assert out.shape == (6, 2, 2)
    assert state.judged.training
    one = logits(state.fabric, state.judged, held, [3], chosen)
    np.testing.assert_allclose(one[0, 0], out[3, 0], atol=1e-5)
    mirrored = replace(held, rows=held.rows[..., ::-1].copy())
    np.testing.assert_allclose(logits(state.fabric, state.judged, mirrored, [3], chosen)[0, 0], out[3, 1], atol=1e-4)


def test_schedule_climbs_then_falls_to_nothing() -> None:
    chosen = section(epochs=10, warmup_epochs=2)
    rates = [rate(chosen, s, 5) for s in range(50)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == pytest.approx(1.0, abs=0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01
    assert rate(section(schedule="constant", warmup_epochs=0), 40, 5) == 1.0


def test_young_averages_follow_faster() -> None:
    assert average_decay(5, 8, 1) < 0.2
    assert average_decay(5, 8, 10_000) == pytest.approx(1 - 1 / 40)


def test_keep_heap_may_be_called_again() -> None:
    keep_heap()
    keep_heap()


def test_average_is_a_network_of_its_own() -> None:
    chosen = section()
    state = start(net(), chosen, CPU)
    assert state.average is not None
    theirs = {p.data_ptr() for p in state.net.parameters()}
    assert not theirs & {p.data_ptr() for p in state.average.parameters()}
    assert math.isinf(state.best)


def test_the_best_weights_are_what_judges_even_in_bfloat16() -> None:
    """Convolutions multiply a low copy of the weights: taking the best epoch back must refresh it."""
    held = store(32)
    chosen = section(
        epochs=6, precision="bfloat16", channels_last=True, ema_epochs=None, select="best", learning_rate=2e-2
    )
    state = fit(TASK, feed(held), range(16, 32), chosen, start(net(), chosen, CPU), never)
    state.best_weights = {k: v.clone() for k, v in net(seed=9).state_dict().items()}
    judged = logits(state.fabric, state.take_best(), held, range(8), chosen)[:, 0]
    fresh = start(net(seed=9), section(), CPU)
    wanted = logits(fresh.fabric, fresh.net, held, range(8), section())[:, 0]
    np.testing.assert_allclose(judged, wanted, atol=0.05)


def test_float32_on_a_cpu_keeps_the_plain_layout() -> None:
    """torch's float32 channels-last kernels crash the process for eight channels: never entered."""
    chosen = section(channels_last=True)
    assert not chosen.lays_last("cpu")
    assert chosen.lays_last("cuda")
    assert section(channels_last=True, precision="bfloat16").lays_last("cpu")
    state = start(net(), chosen, CPU)
    weights = [p for p in state.net.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert all(p.is_contiguous() for p in weights)


def test_a_frozen_fit_in_channels_last_is_restored_to_the_bit() -> None:
    held = store()
    chosen = section(epochs=4, channels_last=True, precision="bfloat16", frozen_stages=1, thaw_epoch=1)
    whole = fit(TASK, feed(held), (), chosen, start(net(), chosen, CPU), never)
    saved: list[Any] = []

    def stop(state: FitState) -> bool:
        saved.append((state.tensors(), copy.deepcopy(state.facts())))
        return state.epoch == 2

    fit(TASK, feed(held), (), chosen, start(net(), chosen, CPU), stop)
    again = start(net(seed=5), chosen, CPU)
    again.restore(*saved[-1])
    fit(TASK, feed(held), (), chosen, again, never)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name]), name


def test_patience_that_has_ended_stays_ended_after_a_restart() -> None:
    held = store()
    chosen = section(epochs=50, select="best", patience_epochs=2, learning_rate=1e-2, ema_epochs=None)
    saved: list[Any] = []

    def keep(state: FitState) -> bool:
        saved.append((state.tensors(), copy.deepcopy(state.facts())))
        return False

    whole = fit(TASK, feed(held), range(16, 24), chosen, start(net(), chosen, CPU), keep)
    again = start(net(), chosen, CPU)
    again.restore(*saved[-1])
    fit(TASK, feed(held), range(16, 24), chosen, again, never)
    assert again.epoch == whole.epoch


def test_a_step_may_end_the_epoch() -> None:
    held = store()
    chosen = section(epochs=3)
    seen: list[tuple[int, int]] = []

    def one_step(epoch: int, step: int, _: float) -> bool:
        seen.append((epoch, step))
        return True

    fit(TASK, feed(held), (), chosen, start(net(), chosen, CPU), never, one_step)
    assert seen == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize(
    ("kernel", "stride", "depth", "groups"),
    [(3, 1, 2, 1), (3, 1, 2, 32), (3, 1, 3, 1), (3, 1, 8, 1), (2, 1, 1, 1), (5, 1, 4, 1), (5, 2, 3, 1), (7, 2, 7, 1)],
)
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last_3d])
def test_thin_volumes_have_the_gradient_of_their_formula(
    kernel: int, stride: int, depth: int, groups: int, form: torch.memory_format
) -> None:
    """Torch's own gradient of the weights is garbage where a volume is no deeper than the kernel."""
    layer = nn.Conv3d(32, 32, kernel, stride=stride, padding=kernel // 2, bias=False, groups=groups)
    check_gradient(layer, torch.randn(2, 32, depth, 6, 6).contiguous(memory_format=form))


@pytest.mark.parametrize(("kernel", "stride", "depth"), [(3, 1, 2), (2, 2, 1), (3, 1, 5)])
def test_transposed_convolutions_to_thin_volumes_have_the_gradient_of_their_formula(
    kernel: int, stride: int, depth: int
) -> None:
    layer = nn.ConvTranspose3d(32, 32, kernel, stride=stride, padding=(kernel - 1) // 2, bias=False)
    check_gradient(layer, torch.randn(2, 32, depth, 6, 6))


def check_gradient(layer: nn.Module, images: torch.Tensor) -> None:
    """The gradient against double precision, in a flat fit and a frozen one, with junk in the memory freed before."""
    exact = copy.deepcopy(layer).double()
    plain = exact(images.double())
    grad = torch.randn_like(plain)
    (wanted,) = torch.autograd.grad(plain, list(exact.parameters()), grad)
    for frozen, precision in itertools.product((0, 1), ("float32", "bfloat16")):
        chosen = section(precision=precision, channels_last=True, frozen_stages=frozen)
        net = start(copy.deepcopy(layer), chosen, CPU).net
        for _ in range(3):
            junk = torch.full((1 << 20,), float("nan"))
            del junk
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                out = net(images)
            (got,) = torch.autograd.grad(out, list(net.parameters()), grad.to(out.dtype))
            torch.testing.assert_close(got.double(), wanted, rtol=0.05, atol=0.03 * float(wanted.abs().max()))
            torch.testing.assert_close(out.double(), plain, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(2, 3, 3, padding="same"),
        nn.Conv3d(2, 3, 3, padding="valid"),
        nn.Conv3d(2, 3, 3, padding=1, padding_mode="replicate"),
        nn.Conv3d(2, 4, 3, padding=2, dilation=2, groups=2),
        nn.ConvTranspose3d(2, 3, 3, padding=1, dilation=2),
        nn.ConvTranspose3d(2, 3, 3, padding=1, stride=2, output_padding=1),
        nn.ConvTranspose3d(2, 3, 3, padding=1),
    ],
)
@pytest.mark.parametrize("depth", [3, 4])
def test_what_keeps_gradients_right_changes_no_answer(layer: nn.Module, depth: int) -> None:
    images = torch.randn(2, 2, depth, 6, 6)
    safe = copy.deepcopy(layer)
    keep_safe(safe)
    assert type(safe) is not type(layer)
    torch.testing.assert_close(safe(images), layer(images))
