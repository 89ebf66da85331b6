"""Two classical recipes by name, so that a plan can be compared with what textbooks do."""

from __future__ import annotations

from typing import Any

from medmap.errors import UsageError

# What each recipe puts in place of the rules' choices. `cnn` is the small convolutional network of introductory texts;
# `vgg16` is transfer learning as it was done in most applied papers since 2015 (Simonyan and Zisserman's network).
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "cnn": {
        "network": {"name": "cnn", "width": 1.0, "dropout": 0.5},
        "augment": {
            "probability": 1.0, "rotate_deg": 0, "shift": 0, "scale": 0.2, "shear_deg": 11.5, "flip_axes": (1,),
            "brightness": 0, "contrast": 0, "gamma": 0, "noise": 0, "cutout": 0,
        },
        "fit": {
            "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 32, "weight_decay": 0.0, "warmup_epochs": 0,
            "schedule": "constant", "clip_norm": None, "ema_epochs": None, "select": "best", "validate_every": 1,
            "epochs": 50,
        },
        "task": {"label_smoothing": 0.0},
        "ensemble": {"folds": 0, "members": 1},
    },
    "vgg16": {
        "network": {
            "name": "vgg16", "width": 1.0, "dropout": 0.5, "init": "torchvision:vgg16:IMAGENET1K_V1",
        },
        "augment": {
            "probability": 1.0, "rotate_deg": 0, "shift": 0, "scale": 0.2, "shear_deg": 11.5, "flip_axes": (1,),
            "brightness": 0, "contrast": 0, "gamma": 0, "noise": 0, "cutout": 0,
        },
        "fit": {
            "optimizer": "adam", "learning_rate": 1e-4, "batch_size": 32, "weight_decay": 0.0, "warmup_epochs": 0,
            "schedule": "constant", "clip_norm": None, "ema_epochs": None, "select": "best", "validate_every": 1,
            "epochs": 100, "patience_epochs": 20,
        },
        "task": {"label_smoothing": 0.0},
        "ensemble": {"folds": 0, "members": 1},
    },
}  # fmt: skip


def recipe(name: str) -> dict[str, dict[str, Any]]:
    """The choices of a recipe by section.

    Raises:
        UsageError: No such recipe.
    """
    if name not in RECIPES:
        raise UsageError("unknown recipe", got=repr(name), expected="rules, " + ", ".join(RECIPES))
    return RECIPES[name]
