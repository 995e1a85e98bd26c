"""What the book needs to be read, rerun and cited: calculators, frontiers, figures and tables for its pages.

The Sphinx extension, `anatomy.site.sphinx.extension`, is loaded by Sphinx alone.
"""

from anatomy.site import figures
from anatomy.site.interactive.calculator import Curve, calculator
from anatomy.site.interactive.controls import Choice, Output, Slider
from anatomy.site.interactive.frontier import frontier
from anatomy.site.interactive.stepper import stepper
from anatomy.site.tables import table
from anatomy.site.values import glue

__all__ = ["Choice", "Curve", "Output", "Slider", "calculator", "figures", "frontier", "glue", "stepper", "table"]
