"""A small record of an audit with every verdict, kind and oddity, for tests of its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.net_tables import net_table

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>document.title='broken'</script>\"'&"
CURVE = {
    "title": "Loss of full and sampled training",
    "x": "iterations",
    "y": "loss a pixel",
    "lines": {
        "full": [[0, 3.0], [10, 2.1], [20, 1.4], [30, 1.1]],
        "50%": [[0, 3.0], [10, 2.2], [20, 1.6], [30, 1.2]],
        "25%": [[0, 3.0], [10, 2.4], [20, 1.9], [30, 1.5]],
    },
}


def claim(id: str, source: str, where: str, verdict: str, kind: str, **more: Any) -> dict[str, Any]:
    """A claim of a record; more: what is not as usual."""
    made: dict[str, Any] = {
        **{"id": id, "source": source, "where": where, "quantity": f"quantity of {id}", "value": "32 / 32 / 32"},
        **{"unit": "px", "status": "seen", "kind": kind, "verdict": verdict, "found": verdict, "reason": ""},
        "rows": [{"what": "stride of the map", "value": 32.0, "wanted": "32", "holds": verdict != "differs"}],
        **{"remarks": ["counted on the deploy form"], "missing": [], "curves": [], "seconds": 0.25},
        "realised": [
            {
                **{"path": "nets/voc-fcn32s.prototxt", "line": 4, "what": "layer 'conv1_1'"},
                "excerpt": [[3, "# before"], [4, 'layer { name: "conv1_1"'], [5, "}"]],
            }
        ],
    }
    if verdict == "differs":
        made["reason"] = "CVPR 2015 says 32. Found stride of the map: 16."
    if verdict == "not run":
        made |= {"missing": ["weights/voc-fcn8s.caffemodel: get it with tools/get_data.py"], "rows": []}
        made["reason"] = made["missing"][0]
    return {**made, **more}


def small_record(nets: tuple[str, ...] = ("voc-fcn8s", "nyud-fcn16s-rgb-hha")) -> dict[str, Any]:
    """Seven claims of three sources, two nets and a broken one, a difference."""
    gone: dict[str, Any] = {"path": "solvers/gone.prototxt", "line": None, "what": "not there", "excerpt": []}
    claims = [
        claim("T1.stride", "CVPR 2015", "Table 1", "holds", "static"),
        claim("T1.params", "CVPR 2015", "Table 1", "differs", "static", unit="parameters"),
        claim("T2.32s", "CVPR 2015", "Table 2", "not run", "data"),
        claim("S3.4.sampling", "CVPR 2015", "3.4, Fig. 5", "holds", "behavioural", curves=[CURVE]),
        claim("R.8s", "released model", "README", "not run", "data", realised=[gone]),
        claim("P.pool", "PAMI 2016", "skip table", "unverified source", "behavioural", found="holds"),
        claim(f"X.{HOSTILE}", "PAMI 2016", HOSTILE, "differs", "static", quantity=HOSTILE, remarks=[HOSTILE]),
    ]
    tables = [net_table(AuditedFiles(ROOT), name) for name in nets]
    broken = {"name": "bad", "file": "nets/bad.prototxt", "title": HOSTILE, "size": [], "layers": [], "totals": {}}
    machine = {"python": "3.11.2", "torch": "2.13.0", "threads": 2, "processor": f"a machine {HOSTILE}"}
    return {
        **{"version": "0.5", "made": "2026-11-21T12:00:00+00:00", "machine": machine, "root": str(ROOT)},
        **{"quick": True, "seed": 0, "seconds": 65.2, "counts": {}, "claims": claims},
        "nets": [*tables, {**broken, "error": HOSTILE}],
        "differences": [
            {
                **{"what": "loss", "release": "summed over pixels", "cvpr": "normalised"},
                "where_release": {"path": "nets/voc-fcn32s.prototxt", "line": 560},
                "where_cvpr": {"path": "nets/cvpr-fcn32s.prototxt", "line": 561},
            }
        ],
    }
