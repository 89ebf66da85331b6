"""An evaluation on paper: one HTML page with figures and tables, and the same as SVG and CSV beside it."""

from medmap.report.figures import Figure
from medmap.report.page import figures, read_log, render_html, save_evaluation
from medmap.report.pictures import images_of, picture_of, png_uri
from medmap.report.structure_figures import bland_altman_figure, dice_distribution, structure_figures
from medmap.report.structure_pictures import WorstMask, contours, worst_masks
from medmap.report.tables import Table, every_table
from medmap.report.words import methods, summary

__all__ = [
    "Figure",
    "Table",
    "WorstMask",
    "bland_altman_figure",
    "contours",
    "dice_distribution",
    "every_table",
    "figures",
    "images_of",
    "methods",
    "picture_of",
    "png_uri",
    "read_log",
    "render_html",
    "save_evaluation",
    "structure_figures",
    "summary",
    "worst_masks",
]
