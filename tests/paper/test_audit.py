"""The audit: every claim gets its entry, whatever its check does; the command prints, writes, and gives its status."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from places import ROOT

from fcn_caffe import GraphError
from fcn_caffe.commands import audit as command_module
from fcn_caffe.commands.audit import main
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import Paths
from fcn_caffe.paper.audit import run as audit_module
from fcn_caffe.paper.audit.claims import BEHAVIOURAL, CHECKS, STATIC, Check, read_claims
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.run import UNVERIFIED_SOURCE, VERDICTS, audit, choose_claims
from fcn_caffe.paper.result import DIFFERS, HOLDS, NOT_RUN, Curve, Result

ENTRY = {
    *("id", "source", "where", "quantity", "value", "unit", "status", "kind", "verdict", "found", "reason", "rows"),
    *("remarks", "missing", "curves", "seconds", "realised"),
}


def measured(*holds, missing=(), value=1.0, remarks=("Because.",)):
    def run(audited):
        result = Result("x", "1", "says", missing=list(missing), remarks=list(remarks))
        for number, one in enumerate(holds):
            result.measure(f"row {number}", value, "2", one)
        return result

    return run


def raising(error):
    def run(audited):
        raise error

    return run


@pytest.fixture
def checks(monkeypatch):
    """Put checks in the place of all others; the nets' tables, which take their time, are left out."""

    def put(**runs):
        monkeypatch.setattr(audit_module, "net_tables", lambda audited: [])
        for name in CHECKS.copy():
            monkeypatch.delitem(CHECKS, name)
        for name, run in runs.items():
            kind, trains = (BEHAVIOURAL, "sampling") if name.startswith("slow_") else (STATIC, "")
            name = name.removeprefix("slow_").replace("_", ".")
            monkeypatch.setitem(CHECKS, name, Check(kind, run, ("solvers/voc-fcn32s.prototxt:base_lr",), trains))

    return put


@pytest.fixture
def quickly(checks):
    checks(T1_rf=measured(True), T1_stride=measured(True, None), P_pool=measured(True), slow_S4_3_aug=measured(True))


def by_id(record):
    return {entry["id"]: entry for entry in record["claims"]}


def test_verdicts(checks):
    checks(
        T1_rf=measured(True, None),
        T1_params=measured(True, False),
        T1_stride=measured(missing=["a file"]),
        T1_time=measured(None),
        P_pool=measured(False),
        P_mask=measured(True),
    )
    record = audit(AuditedFiles(ROOT))
    found = by_id(record)
    assert {name: found[name]["verdict"] for name in ("T1.rf", "T1.params", "T1.stride", "T1.time", "P.pool")} == {
        "T1.rf": HOLDS,
        "T1.params": DIFFERS,
        "T1.stride": NOT_RUN,
        "T1.time": DIFFERS,  # nothing was asked of what it measured
        "P.pool": UNVERIFIED_SOURCE,
    }
    assert found["P.pool"]["found"] == DIFFERS and found["P.mask"]["found"] == HOLDS
    expected = "CVPR 2015 says 57M / 134M / 6M. Found row 1: 1, wanted 2. Because."
    assert found["T1.params"]["reason"] == expected and found["T1.rf"]["reason"] == ""
    assert found["T1.stride"]["reason"] == "a file"
    assert found["T2.32s"]["reason"] == "no check answers this claim"
    realised = found["T1.rf"]["realised"][0]
    assert realised["path"] == "solvers/voc-fcn32s.prototxt" and realised["excerpt"]
    assert sum(record["counts"].values()) == len(record["claims"]) == len(read_claims())
    assert set(record["counts"]) == set(VERDICTS)


def test_a_failing_check_loses_no_other(checks):
    checks(
        T1_rf=raising(GraphError("n.prototxt:3: no such blob.")),
        T1_params=raising(KeyError("x")),
        S4_3_sgd=measured(True),
    )
    found = by_id(audit(AuditedFiles(ROOT)))
    assert found["T1.rf"]["verdict"] == DIFFERS and found["T1.rf"]["reason"] == "n.prototxt:3: no such blob."
    assert found["T1.params"]["verdict"] == DIFFERS
    assert found["T1.params"]["reason"] == "the check itself failed: KeyError: 'x'"
    assert found["S4.3.sgd"]["verdict"] == HOLDS


def test_a_check_of_several_claims_runs_once(checks):
    calls = []

    def counted(audited):
        calls.append(audited)
        return measured(True)(audited)

    checks(T1_rf=counted, T1_params=counted)
    found = by_id(audit(AuditedFiles(ROOT)))
    assert len(calls) == 1 and found["T1.rf"]["verdict"] == found["T1.params"]["verdict"] == HOLDS


def test_quick_leaves_out_what_trains(checks):
    checks(slow_S3_4_sampling=raising(AssertionError("ran")), T1_rf=measured(True))
    found = by_id(audit(AuditedFiles(ROOT, quick=True)))
    assert found["S3.4.sampling"]["verdict"] == NOT_RUN and found["T1.rf"]["verdict"] == HOLDS
    expected = "training: left out by --quick; fcn-caffe experiment sampling runs it"
    assert found["S3.4.sampling"]["reason"] == expected


def test_interrupted(checks, tmp_path, capsys):
    checks(T1_params=raising(KeyboardInterrupt()), T1_convlayers=measured(True), T1_rf=measured(True))
    file = tmp_path / "a.json"
    assert main(["--root", str(ROOT), "--json", str(file)]) == 130
    record = json.loads(file.read_text())
    found = by_id(record)
    assert record["interrupted"] is True and set(found) == {claim.id for claim in read_claims()}
    assert found["T1.convlayers"]["verdict"] == HOLDS
    for name in ("T1.params", "T1.rf"):
        assert found[name]["verdict"] == NOT_RUN and found[name]["reason"] == "interrupted: run the audit again"
    said = capsys.readouterr()
    assert ", interrupted)" in said.out and said.err.endswith("interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_paths_start_from_the_root_and_its_data_and_nothing_of_the_process_changes(checks, tmp_path, monkeypatch):
    places = []

    def look(audited):
        places.append((Path.cwd(), audited.paths, os.environ.get("FCN_CAFFE_DATA")))
        return measured(True)(audited)

    for folder in ("nets", "solvers", "data"):
        (tmp_path / "r" / folder).mkdir(parents=True)
    monkeypatch.delenv("FCN_CAFFE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    checks(T1_rf=look)
    assert main(["--root", "r", "--data", "r/data", "--only", "T1.rf"]) == 0
    assert places == [(tmp_path, Paths(tmp_path / "r", tmp_path / "r/data"), None)]
    assert Path.cwd() == tmp_path and "FCN_CAFFE_DATA" not in os.environ


def test_json_has_no_numbers_that_are_none(checks):
    def odd(audited):
        result = measured(True, value=float("inf"))(audited)
        result.curves.append(Curve("loss", "s", "l", {"a": [(0.0, 1.0), (1.0, float("nan"))]}))
        return result

    checks(T1_rf=odd)
    entry = by_id(json.loads(json.dumps(audit(AuditedFiles(ROOT)), allow_nan=False)))["T1.rf"]
    assert entry["rows"][0]["value"] == "inf" and entry["curves"][0]["lines"] == {"a": [[0.0, 1.0]]}


def test_claims_are_chosen_by_id_and_kind():
    assert [claim.id for claim in choose_claims(["T3.2012", "T1.par"])] == ["T1.params", "T3.2012"]
    assert choose_claims([]) == list(read_claims())
    with pytest.raises(DataError, match=r"no claim is called 'T1\.param5'.* Did you mean T1\.params"):
        choose_claims(["T1.param5"])
    with pytest.raises(DataError, match="no claim is called ''"):
        choose_claims([""])


def test_kinds_choose(quickly):
    assert [claim.id for claim in choose_claims(["static"])] == ["T1.rf", "T1.stride", "P.pool"]
    assert [claim.id for claim in choose_claims(["behavioural"])] == ["S4.3.aug"]


# -- the command -------------------------------------------------------------------------------------------------------


def test_json_is_complete_and_status_0_where_nothing_differs(quickly, tmp_path, capsys):
    file = tmp_path / "a.json"
    assert main(["--root", str(ROOT), "--json", str(file), "--seed", "3", "--scale", "0.5", "--quick"]) == 0
    record = json.loads(file.read_text())
    assert [entry["id"] for entry in record["claims"]] == [claim.id for claim in read_claims()]
    assert all(set(entry) == ENTRY for entry in record["claims"])
    top = {"version", "made", "machine", "root", "quick", "seed", "scale", "seconds", "counts", "claims", "nets"}
    assert set(record) == top | {"differences"}
    assert set(record["machine"]) == {"python", "torch", "threads", "processor"} and record["root"] == str(ROOT)
    assert (record["quick"], record["seed"], record["scale"]) == (True, 3, 0.5)
    said = capsys.readouterr()
    assert f"wrote {file}" in said.out and "\033" not in said.out
    unverified = sum(claim.status == "unverified" for claim in read_claims())
    counts = f"2 holds, 0 differs, {len(read_claims()) - unverified - 2} not run, {unverified} unverified source ("
    assert f"{len(read_claims())} claims: {counts}" in said.out
    assert said.err.splitlines()[6] == f"7/{len(read_claims())} T1.rf: holds"


def test_page(quickly, tmp_path, capsys):
    file = tmp_path / "a.html"
    assert main(["--root", str(ROOT), "--html", str(file), "--only", "T1.rf"]) == 0
    assert file.read_text().lower().startswith("<!doctype html>") and "T1.rf" in file.read_text()
    assert f"wrote {file}" in capsys.readouterr().out


def test_status_1_with_both_values(checks, tmp_path, capsys):
    checks(T1_params=measured(False))
    assert main(["--root", str(ROOT), "--only", "T1.params"]) == 1
    out = capsys.readouterr().out
    assert "differs: T1.params, parameters" in out and "57M / 134M / 6M. Found row 0: 1, wanted 2. Because." in out
    assert "solvers/voc-fcn32s.prototxt:" in out


@pytest.mark.parametrize(
    ("remarks", "told"),
    [
        (("ten images", "two hours."), "ten images. two hours."),
        (("ten images", "our reason: they are few", "two hours"), "our reason: they are few."),
    ],
)
def test_reason_is_the_experiments_own_or_all_that_it_says(checks, capsys, remarks, told):
    checks(T1_params=measured(False, remarks=remarks))
    assert main(["--root", str(ROOT), "--only", "T1.params"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert f"Found row 0: 1, wanted 2. {told} see" in out


def test_only_says_what_is_missing(checks, capsys):
    checks(T1_params=measured(missing=["the file weights/x"]))
    assert main(["--root", str(ROOT), "--only", "T1.params"]) == 0
    assert "the file weights/x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "T9"], "no claim is called 'T9'"),
        (["--only", "T1.params,T9"], "no claim is called 'T9'"),
        (["--root", "nowhere"], "nowhere: no folders nets and solvers there"),
        (["--json", "nowhere/a.json"], "there is no folder"),
        (["--html", "."], "is a folder"),
        (["--json", "a", "--html", "./a"], "is named twice and would be overwritten"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
        (["--scale", "0"], "should be a number above 0"),
        (["--seed", "-1"], "should be a whole number from 0 to 4294967295, got -1"),
        (["--seed", str(10**20)], "should be a whole number from 0"),
        (["T1"], "unrecognized arguments: T1"),
    ],
)
def test_usage(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_nets_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_module, "shipped", lambda: None)
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2 and "no folders nets and solvers there. Give the folder" in capsys.readouterr().err


def test_list(quickly, capsys):
    assert main(["--list", "--only", "T1.rf", "--only", "S4.3.aug"]) == 0
    lines = [line.split(None, 2) for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["T1.rf", "static"], ["S4.3.aug", "behavioural,"]]


def test_colours_and_width_of_a_terminal(quickly, monkeypatch, capsys):
    monkeypatch.setattr(command_module.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["--root", str(ROOT), "--only", "T1"]) == 0
    coloured = capsys.readouterr().out
    assert "\033[32mholds" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["--root", str(ROOT), "--only", "T"]) == 0
    plain = capsys.readouterr().out
    table = plain.split("\n\nnot run: ", 1)[0].splitlines()
    assert "\033" not in plain and max(map(len, table)) <= 90 and "…" in plain


# -- the checks themselves, on a checkout that was broken on purpose ---------------------------------------------------


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of our nets and solvers; what nets cost to tabulate is left out."""
    monkeypatch.setattr(audit_module, "net_tables", lambda audited: [])
    for folder in ("nets", "solvers"):
        shutil.copytree(ROOT / folder, tmp_path / "copy" / folder)
    return tmp_path / "copy"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_wrong_rate_is_found_and_named(checkout, capsys):
    only = ["--only", "S4.3.sgd", "--only", "REL.rate"]
    assert main(["--root", str(checkout), *only]) == 0
    edit(checkout / "solvers" / "cvpr-fcn32s.prototxt", "base_lr: 0.0001", "base_lr: 0.001")
    edit(checkout / "solvers" / "voc-fcn16s.prototxt", "base_lr: 1e-12", "base_lr: 1e-10")
    capsys.readouterr()
    assert main(["--root", str(checkout), *only]) == 1
    out = capsys.readouterr().out
    assert "differs: S4.3.sgd" in out and "cvpr-fcn32s" in out
    assert "differs: REL.rate" in out and "voc-fcn16s" in out


def test_a_net_that_does_not_parse_does_not_stop_the_audit(checkout, capsys):
    (checkout / "nets" / "voc-fcn16s.prototxt").write_text("layer {\n  name: 3 3\n}\n")
    assert main(["--root", str(checkout), "--only", "R.16s", "--only", "R.32s", "--only", "T1.stride"]) == 1
    out = capsys.readouterr().out
    assert "differs: R.16s" in out and "voc-fcn16s.prototxt:2:" in out
    assert "  not run" in out and "1 holds, 1 differs, 1 not run" in out


def test_every_claim_has_a_check():
    assert [claim.id for claim in read_claims() if claim.id not in CHECKS] == []
