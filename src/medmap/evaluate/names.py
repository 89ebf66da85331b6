"""Metrics and numbers as a reader expects them in a sentence."""

from __future__ import annotations

NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "f1": "F1 score",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "mae": "Mean absolute error",
    "rmse": "Root mean squared error",
    "r2": "R²",
    "quadratic_kappa": "Quadratic kappa",
    "coverage": "Cases decided on",
    "accuracy_when_decided": "Accuracy when decided",
    "dice": "Dice",
    "iou": "Intersection over union",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "Mean surface distance, ASSD (mm)",
    "nsd": "Normalised surface Dice, NSD",
    "volume_error_ml": "Volume error (ml)",
    "lesion_sensitivity": "Lesion sensitivity",
    "lesion_precision": "Lesion precision",
    "lesion_f1": "Lesion F1",
    "ap50": "Average precision at IoU 0.5 (AP50)",
    "ap50_95": "Average precision at IoU 0.5–0.95",
    "ap10": "Average precision at IoU 0.1",
    "froc_cpm": "FROC score (CPM)",
    "sensitivity_at_fppi_0.125": "Sensitivity at ⅛ false alarm an image",
    "sensitivity_at_fppi_0.25": "Sensitivity at ¼ false alarm an image",
    "sensitivity_at_fppi_0.5": "Sensitivity at ½ false alarm an image",
    "sensitivity_at_fppi_1": "Sensitivity at 1 false alarm an image",
    "sensitivity_at_fppi_2": "Sensitivity at 2 false alarms an image",
    "sensitivity_at_fppi_4": "Sensitivity at 4 false alarms an image",
    "sensitivity_at_fppi_8": "Sensitivity at 8 false alarms an image",
    "false_positives_per_image": "False alarms an image",
    "volume_bias_ml": "Volume: bias (ml)",
    "volume_limit_low_ml": "Volume: lower limit of agreement (ml)",
    "volume_limit_high_ml": "Volume: upper limit of agreement (ml)",
}

LOWER_IS_BETTER = frozenset(
    {"brier", "ece", "mae", "rmse", "hd95_mm", "assd_mm", "false_positives_per_image"}
)  # of every other metric more is better
SIGNED = frozenset({"volume_error_ml"})  # means of errors that may cancel: neither more nor less is better


def metric_name(name: str) -> str:
    """The metric as a reader expects it."""
    return NAMES.get(name, name.replace("_", " "))


def decimals(value: float) -> str:
    """A number with three decimals, large ones with fewer.

    Example:
        >>> decimals(0.8641), decimals(12.345), decimals(-0.5)
        ('0.864', '12.3', '−0.500')
    """
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"
    return text.replace("-", "−")


def group_name(group: str) -> str:
    """``site=Ghent`` as ``site: Ghent``."""
    return group.replace("=", ": ", 1)
