"""From scores to an answer: temperature, thresholds and abstention, fitted once and applied ever after.

Everything here is a pure function of arrays. What ``fit_temperature`` and ``fit_thresholds`` find on validation
predictions, and ``fit_rule`` on the parts of masks, is written into a ``Decision``, which a bundle stores;
``calibrated``, ``decide`` and ``kept_parts`` apply it, and ``recalibrate`` takes it to another site.
"""

from medmap.decision.answer import Decided, calibrated, decide
from medmap.decision.boxes import BoxCalibration, box_chances, fit_box_calibration, fit_box_threshold
from medmap.decision.calibration import Calibration, fit_calibration
from medmap.decision.components import ComponentRule, Parts, fit_rule, kept_parts, parts_of
from medmap.decision.expected import ExpectedDice, fit_expected_dice
from medmap.decision.site import Recalibrated, recalibrate
from medmap.decision.temperature import Temperature, apply_temperature, fit_temperature
from medmap.decision.thresholds import Thresholds, fit_thresholds
from medmap.decision.value import Decision, Target, parse_target

__all__ = [
    "BoxCalibration",
    "Calibration",
    "ComponentRule",
    "Decided",
    "Decision",
    "ExpectedDice",
    "Parts",
    "Recalibrated",
    "Target",
    "Temperature",
    "Thresholds",
    "apply_temperature",
    "box_chances",
    "calibrated",
    "decide",
    "fit_box_calibration",
    "fit_box_threshold",
    "fit_calibration",
    "fit_expected_dice",
    "fit_rule",
    "fit_temperature",
    "fit_thresholds",
    "kept_parts",
    "parse_target",
    "parts_of",
    "recalibrate",
]
