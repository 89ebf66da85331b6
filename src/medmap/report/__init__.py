"""An evaluation on paper: one HTML page with figures and tables, and the same as SVG and CSV beside it."""

from medmap.report.content import every_table, figures, methods, summary
from medmap.report.detection_pictures import ImageOf, boxes_drawn, picture_rows, volumes_of
from medmap.report.figures import Figure
from medmap.report.page import read_log, render_html, save_evaluation
from medmap.report.pictures import images_of, picture_of, png_uri
from medmap.report.structure_figures import bland_altman_figure, dice_distribution, structure_figures
from medmap.report.structure_pictures import WorstMask, contours, drawn_of, worst_masks
from medmap.report.tables import Table

__all__ = [
    "Figure",
    "ImageOf",
    "Table",
    "WorstMask",
    "bland_altman_figure",
    "boxes_drawn",
    "contours",
    "dice_distribution",
    "drawn_of",
    "every_table",
    "figures",
    "images_of",
    "methods",
    "picture_of",
    "picture_rows",
    "png_uri",
    "read_log",
    "render_html",
    "save_evaluation",
    "structure_figures",
    "summary",
    "volumes_of",
    "worst_masks",
]
