"""A bundle there and back again: what is written is what is read, and what it says it runs."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from bundle.conftest import images, make_spec, make_states, network
from medmap.bundle import Bundle, MemberSpec, digest_of_cases
from medmap.decision import Decision
from medmap.errors import BundleError
from medmap.networks import NetworkSpec, build
from medmap.results import Label


def test_what_is_written_is_read(plain, spec, states):
    loaded = Bundle.load(plain.path)
    assert loaded.spec == spec
    assert loaded.digest == plain.digest
    assert loaded.labels == (Label("benign"), Label("malignant", "SCT:363346000"))
    assert loaded.provenance["seed"] == 0
    for index, state in enumerate(states):
        found = loaded.state_dict(index)
        assert found.keys() == state.keys()
        for name, tensor in state.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.path = None


def test_the_files_are_those_of_the_interface(whole):
    assert sorted(entry.name for entry in whole.path.iterdir()) == [
        "CARD.md",
        "SHA256SUMS",
        "folds.csv",
        "model.onnx",
        "parity.npz",
        "spec.json",
        "weights.safetensors",
    ]
    # another library reads the weights
    tensors = load_file(whole.path / "weights.safetensors")
    assert {name.split("/")[0] for name in tensors} == {"member0", "member1"}


def test_the_same_content_has_the_same_digest(plain, spec, states, tmp_path):
    again = Bundle.write(tmp_path / "again", spec, states, card="# breast\n")
    other = Bundle.write(tmp_path / "other", spec, states, card="# other\n")
    assert again.digest == plain.digest
    assert other.digest != plain.digest


def test_a_run_folders_bundle_is_taken(plain, tmp_path):
    shutil.copytree(plain.path, tmp_path / "run" / "bundle")
    (tmp_path / "run" / "run.yaml").write_text("train: {}\n")
    assert Bundle.load(str(tmp_path / "run")).digest == plain.digest


def test_networks_and_ensemble_answer_as_the_trained_ones(plain, spec, states):
    draw = torch.random.get_rng_state()
    x = torch.from_numpy(images())
    out = plain.ensemble()(x)
    assert out.shape == (3, 2, 2)
    for index, state in enumerate(states):
        original = build(NetworkSpec(**spec.members[index].network))
        original.load_state_dict(state)
        module = plain.module(index)
        assert not module.training
        torch.testing.assert_close(original.eval()(x), module(x), rtol=0, atol=0)
        torch.testing.assert_close(out[:, index], module(x))
    torch.random.set_rng_state(draw)
    plain.module(0)
    assert torch.equal(torch.random.get_rng_state(), draw)


def test_members_with_recipes_of_their_own_see_their_own_image(tmp_path):
    spec = make_spec(members=[MemberSpec(network=network(), recipe={"mean": i}, fold=i) for i in range(2)])
    phantoms = images(4).reshape(2, 2, 1, 16, 16)
    bundle = Bundle.write(tmp_path / "b", spec, make_states(spec), card="", parity_inputs=phantoms)
    assert not bundle.shared_recipe
    x = torch.from_numpy(phantoms)
    out = bundle.ensemble()(x)
    for index in range(2):
        torch.testing.assert_close(out[:, index], bundle.module(index)(x[:, index]))


def test_weights_that_share_memory_and_odd_orders_are_kept(tmp_path):
    spec = make_spec(count=1)
    (state,) = make_states(spec)
    kernels = [name for name, tensor in state.items() if tensor.ndim == 4]
    state[kernels[0]] = state[kernels[0]].to(memory_format=torch.channels_last)
    twins = [n for n in kernels[1:] if state[n].shape == state[kernels[1]].shape]
    assert len(twins) > 1
    for name in twins:
        state[name] = state[kernels[1]]
    bundle = Bundle.write(tmp_path / "b", spec, [state], card="")
    assert all(torch.equal(tensor, state[n]) for n, tensor in bundle.state_dict().items())


def test_the_decision_comes_back(tmp_path, states):
    decision = Decision(temperature=1.5, thresholds=(0.25,), target="youden")
    bundle = Bundle.write(tmp_path / "b", make_spec(decision=decision.to_json()), states, card="")
    assert Bundle.load(bundle.path).decision == decision


def test_a_3d_bundle(tmp_path):
    member = MemberSpec(network=network(dimensions=3, input_shape=[8, 8, 8], outputs=3), recipe={}, fold=None)
    spec = make_spec(members=[member], labels=[{"name": n} for n in "abc"], positive=None, kind="multiclass")
    bundle = Bundle.write(tmp_path / "b", spec, make_states(spec), card="")
    assert bundle.ensemble()(torch.zeros(2, 1, 8, 8, 8)).shape == (2, 1, 3)


# ------------------------------------------------------------------------------------------------- refused at writing


def _write(path, spec, states, **more):
    return Bundle.write(path, spec, states, **{"card": "", **more})


def test_weights_and_members_must_match(tmp_path, spec, states):
    with pytest.raises(BundleError, match="needs its weights"):
        _write(tmp_path / "b", spec, states[:1])
    with pytest.raises(BundleError, match="has no weights"):
        _write(tmp_path / "b", spec, [states[0], {}])
    with pytest.raises(BundleError, match="is no tensor"):
        _write(tmp_path / "b", spec, [states[0], {"w": np.zeros(3)}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(tmp_path, spec, states, value):
    broken = {name: tensor.clone() for name, tensor in states[1].items()}
    next(t for t in broken.values() if t.is_floating_point()).view(-1)[0] = value
    with pytest.raises(BundleError, match="NaN or infinite"):
        _write(tmp_path / "b", spec, [states[0], broken])


@pytest.mark.parametrize(
    "name",
    ["../x.csv", "a/b.csv", "/etc/x.csv", "..", "x.pkl", "x.py", "x.pt", "x", "x.so", "sp\nace.csv", ".x.csv", "é.csv"],
)
def test_further_files_are_flat_and_data(tmp_path, spec, states, name):
    with pytest.raises(BundleError, match=r"no bundle may have|is not data"):
        _write(tmp_path / "b", spec, states, files={name: b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors", "CARD.md", "parity.npz"])
def test_further_files_do_not_take_a_bundles_own_names(tmp_path, spec, states, name):
    with pytest.raises(BundleError, match="takes the name"):
        _write(tmp_path / "b", spec, states, files={name: b""})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_only_plain_finite_values_in_the_spec(tmp_path, states, value):
    with pytest.raises(BundleError, match="cannot be written as JSON"):
        _write(tmp_path / "b", make_spec(provenance={"x": [value]}), states)


def test_what_could_not_be_read_back_is_not_written(tmp_path, states):
    deep = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(BundleError, match="nested too deeply"):
        _write(tmp_path / "b", make_spec(provenance={"x": deep}), states)
    assert list(tmp_path.iterdir()) == []


def test_members_are_counted_from_zero(plain):
    for member in (-1, 2):
        with pytest.raises(BundleError, match="no such member"):
            plain.state_dict(member)


@given(st.lists(st.text(max_size=8), max_size=6), st.randoms())
def test_the_digest_of_cases_knows_no_order(cases, rng):
    mixed = list(cases)
    rng.shuffle(mixed)
    assert digest_of_cases(mixed) == digest_of_cases(cases)
    assert digest_of_cases([*cases, "\x00new-case"]) != digest_of_cases(cases)
    assert digest_of_cases(["a,b"]) != digest_of_cases(["a", "b"])
