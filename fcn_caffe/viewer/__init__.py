"""A net as one HTML page that one can look at: its graph, what each layer is, and what it would be for other sizes.

`facts` knows all that the page says; `shape_rules` gives each layer's rule for shapes to `shapes.js`, which computes
them for any size; `filters` makes pictures of weights; `page` writes the page.

>>> from fcn_caffe.host.paths import shipped
>>> from fcn_caffe.viewer import write_view
>>> page = write_view(shipped("nets/shapes-fcn8s.prototxt"))
>>> "http" in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
False
"""

from fcn_caffe.viewer.page import write_view

__all__ = ["write_view"]
