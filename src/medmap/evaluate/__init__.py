"""How good a bundle is, on whom, and whether to believe it: predictions beside the truth, judged.

``evaluate`` predicts and judges; ``report_from_table`` judges predictions that are there already; ``compare`` sets two
evaluations side by side from their ``predictions.csv`` alone; ``choose_run`` takes the best of several trained runs.
"""

from medmap.evaluate.baselines import baselines
from medmap.evaluate.choice import Choice, ChoiceFile, choice_schema, choose_run
from medmap.evaluate.compare import ComparisonReport, compare_tables
from medmap.evaluate.csvfile import csv_text, read_predictions, write_predictions
from medmap.evaluate.detected import DetectionRules, report_from_boxes
from medmap.evaluate.detections import DetectionTable, detection_table
from medmap.evaluate.detections_compare import compare_detection_folders, compare_detections
from medmap.evaluate.detections_csv import detections_text, read_detections, write_detections
from medmap.evaluate.detections_rows import detection_rows, detection_subgroup_rows, size_ranges
from medmap.evaluate.folders import compare
from medmap.evaluate.groups import groups_of
from medmap.evaluate.judge import Options, as_dealt, evaluate, operating_point, report_from_table
from medmap.evaluate.kept import MaskOf, WorstKept, badness
from medmap.evaluate.leakage import leaks, leaks_of_recalibration
from medmap.evaluate.looks import Looks, log_look
from medmap.evaluate.mapping import channel_order, in_terms_of
from medmap.evaluate.outcome import Aggregated, Baseline, Circumstances, Failure, MetricsFile, Report, metrics_schema
from medmap.evaluate.rows import taken_together
from medmap.evaluate.segmented import beside_observers, report_from_masks
from medmap.evaluate.site import recalibrated_bundle
from medmap.evaluate.structures import (
    StructureTable,
    case_scores,
    known_structures,
    structure_table,
    structures_of,
)
from medmap.evaluate.structures_compare import compare_structure_folders, compare_structures
from medmap.evaluate.structures_csv import read_structures, structures_text, write_structures
from medmap.evaluate.structures_rows import structure_rows, structure_subgroup_rows, volume_agreement
from medmap.evaluate.table import PredictionTable, table_of
from medmap.evaluate.verdict import little_use, says_little_use

__all__ = [
    "Aggregated",
    "Baseline",
    "Choice",
    "ChoiceFile",
    "Circumstances",
    "ComparisonReport",
    "DetectionRules",
    "DetectionTable",
    "Failure",
    "Looks",
    "MaskOf",
    "MetricsFile",
    "Options",
    "PredictionTable",
    "Report",
    "StructureTable",
    "WorstKept",
    "as_dealt",
    "badness",
    "baselines",
    "beside_observers",
    "case_scores",
    "channel_order",
    "choice_schema",
    "choose_run",
    "compare",
    "compare_detection_folders",
    "compare_detections",
    "compare_structure_folders",
    "compare_structures",
    "compare_tables",
    "csv_text",
    "detection_rows",
    "detection_subgroup_rows",
    "detection_table",
    "detections_text",
    "evaluate",
    "groups_of",
    "in_terms_of",
    "known_structures",
    "leaks",
    "leaks_of_recalibration",
    "little_use",
    "log_look",
    "metrics_schema",
    "operating_point",
    "read_detections",
    "read_predictions",
    "read_structures",
    "recalibrated_bundle",
    "report_from_boxes",
    "report_from_masks",
    "report_from_table",
    "says_little_use",
    "size_ranges",
    "structure_rows",
    "structure_subgroup_rows",
    "structure_table",
    "structures_of",
    "structures_text",
    "table_of",
    "taken_together",
    "volume_agreement",
    "write_detections",
    "write_predictions",
    "write_structures",
]
