"""The audit as one HTML page, made by Jinja2 with autoescape from the record alone; and an experiment's curves.

>>> from fcn_caffe.paper.report import write_curves
>>> curve = {"title": "Loss", "x": "iteration", "y": "loss a pixel", "lines": {"full": [(1, 3.0), (2, 2.5)]}}
>>> page = write_curves({"name": "sampling", "says": "no faster an iteration", "curves": [curve]})
>>> "<figcaption>Loss</figcaption>" in page
True
"""

from fcn_caffe.paper.report.page import write_curves, write_page

__all__ = ["write_curves", "write_page"]
