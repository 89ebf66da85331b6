"""How good a classification, a predicted number, a mask or boxes are, with 95 % intervals over patients.

Arrays in, ``Estimate`` and ``Comparison`` out: a value that cannot be defined is None with a reason, never NaN. Where a
patient has several cases, ``patients`` makes every interval a clustered one. A mask is judged case by case
(``mask_scores``); ``medmap.evaluate`` puts the cases together.
"""

from medmap.metrics.aggregation import Aggregated, PredictiveValues, aggregate, prevalence_adjusted_ppv_npv
from medmap.metrics.agreement import bland_altman
from medmap.metrics.average_precision import AveragePrecisions, average_precisions
from medmap.metrics.boxes import BoxList, BoxMatches, box_iou, match_boxes
from medmap.metrics.classification import (
    accuracy,
    balanced_accuracy,
    brier,
    ece,
    f1,
    npv,
    ppv,
    sensitivity,
    specificity,
)
from medmap.metrics.compare import compare_auroc, mcnemar, paired_bootstrap
from medmap.metrics.continuous import mae, ordinal_table, quadratic_kappa, r2, regression_table, rmse
from medmap.metrics.curves import (
    ConfusionMatrix,
    DecisionCurve,
    PrecisionRecallCurve,
    ReliabilityCurve,
    RocCurve,
    confusion_matrix,
    decision_curve,
    precision_recall_curve,
    reliability_curve,
    roc_curve,
)
from medmap.metrics.estimate import Comparison, Estimate
from medmap.metrics.froc import FrocCurve, HitRule, Hits, find_hits, froc_curve
from medmap.metrics.inputs import Classes
from medmap.metrics.intervals import Bootstrap, wilson
from medmap.metrics.lesions import LesionCounts, lesion_counts
from medmap.metrics.masks import MaskRules, MaskScores, as_regions, confusion, mask_scores
from medmap.metrics.means import mean_differences, mean_estimates
from medmap.metrics.ranking import auprc, auroc, auroc_value
from medmap.metrics.surfaces import SurfaceDistances, surface_distances
from medmap.metrics.table import classification_table

__all__ = [
    "Aggregated",
    "AveragePrecisions",
    "Bootstrap",
    "BoxList",
    "BoxMatches",
    "Classes",
    "Comparison",
    "ConfusionMatrix",
    "DecisionCurve",
    "Estimate",
    "FrocCurve",
    "HitRule",
    "Hits",
    "LesionCounts",
    "MaskRules",
    "MaskScores",
    "PrecisionRecallCurve",
    "PredictiveValues",
    "ReliabilityCurve",
    "RocCurve",
    "SurfaceDistances",
    "accuracy",
    "aggregate",
    "as_regions",
    "auprc",
    "auroc",
    "auroc_value",
    "average_precisions",
    "balanced_accuracy",
    "bland_altman",
    "box_iou",
    "brier",
    "classification_table",
    "compare_auroc",
    "confusion",
    "confusion_matrix",
    "decision_curve",
    "ece",
    "f1",
    "find_hits",
    "froc_curve",
    "lesion_counts",
    "mae",
    "mask_scores",
    "match_boxes",
    "mcnemar",
    "mean_differences",
    "mean_estimates",
    "npv",
    "ordinal_table",
    "paired_bootstrap",
    "ppv",
    "precision_recall_curve",
    "prevalence_adjusted_ppv_npv",
    "quadratic_kappa",
    "r2",
    "regression_table",
    "reliability_curve",
    "rmse",
    "roc_curve",
    "sensitivity",
    "specificity",
    "surface_distances",
    "wilson",
]
