"""A small real bundle with random weights."""

from medmap.bundle import Bundle, BundleSpec, MemberSpec
from medmap.decision import Decision
from medmap.networks import NetworkSpec, build
from medmap.prepare import PrepareSection
from medmap.prepare import fit as fit_recipe


def make_bundle(folder, dataset, images, seed=0, *, recipe_images=None, channels=1, **provenance):
    """A bundle with random weights: what it says is worthless, how it is judged is not."""
    learned = recipe_images or [images[c.id] for c in dataset if c.split == "train"]
    recipe = fit_recipe(PrepareSection(shape=(16, 16), channels=channels), learned)
    network = {
        "name": "small_resnet",
        "dimensions": 2,
        "in_channels": channels,
        "outputs": 2,
        "input_shape": [16, 16],
        "width": 0.125,
    }
    decision = Decision(temperature=1.5, thresholds=(0.5, 0.5), target="youden", positive=1)
    spec = BundleSpec(
        task="classify",
        name=dataset.name,
        created="2025-01-31T12:00:00Z",
        medmap_version="0.1.0",
        kind="binary",
        labels=[{"name": label} for label in dataset.label_names],
        positive=1,
        inputs={"image": {"modality": dataset.inputs["image"].modality, "channels": channels}},
        members=[MemberSpec(network=network, recipe=recipe.as_json())],
        decision=decision.to_json(),
        run={"seed": 3},
        provenance={"dataset": dataset.name, "dataset_digest": dataset.digest, **provenance},
    )
    state = build(NetworkSpec(**network), seed=seed).state_dict()
    return Bundle.write(folder / "bundle", spec, [state], card="# squares\n")
