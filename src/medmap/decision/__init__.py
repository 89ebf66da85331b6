"""From scores to an answer: temperature, thresholds and abstention, fitted once and applied ever after.

Everything here is a pure function of arrays. What ``fit_temperature`` and ``fit_thresholds`` find on validation
predictions is written into a ``Decision``, which a bundle stores; ``calibrated`` and ``decide`` apply it, and
``recalibrate`` takes it to another site.
"""

from medmap.decision.answer import Decided, calibrated, decide
from medmap.decision.calibration import Calibration, fit_calibration
from medmap.decision.site import Recalibrated, recalibrate
from medmap.decision.temperature import Temperature, apply_temperature, fit_temperature
from medmap.decision.thresholds import Thresholds, fit_thresholds
from medmap.decision.value import Decision, Target, parse_target

__all__ = [
    "Calibration",
    "Decided",
    "Decision",
    "Recalibrated",
    "Target",
    "Temperature",
    "Thresholds",
    "apply_temperature",
    "calibrated",
    "decide",
    "fit_calibration",
    "fit_temperature",
    "fit_thresholds",
    "parse_target",
    "recalibrate",
]
