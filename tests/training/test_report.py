"""The page of a run: what it says of whole, interrupted, untested and older runs, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from small_stages import write_stages

from fcn_caffe.commands import report, solve, train
from fcn_caffe.training.report import read_run, write_run
from fcn_caffe.training.stage import COLUMNS

COARSE, FINE = "solvers/coarse.prototxt", "solvers/fine.prototxt"
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&amp;"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A task of two stages that was run, with names for its classes."""
    folder = write_stages(tmp_path_factory.mktemp("task"))
    (folder / "nets/classes.txt").write_text("0: ground\n1: thing & <b>\n")
    assert solve.main([str(folder / FINE)]) == 0
    return folder


@pytest.fixture
def task(whole, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(whole, tmp_path / "task")


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def records(stage: Path) -> list[dict]:
    return [json.loads(line) for line in (stage / "run.jsonl").read_text().splitlines()]


def rewrite(stage: Path, events: list[dict]) -> None:
    (stage / "run.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


# -- a whole run ---------------------------------------------------------------------------------------------------


def test_a_task_has_its_stages_in_order_with_what_the_scores_say(whole):
    run = read_run(whole)
    assert [stage.name for stage in run.stages] == ["coarse", "fine"]
    fine = run.stages[1]
    assert [test.iteration for test in fine.tests] == [2, 4, 6] and fine.state == "done" and fine.last == 6
    assert [at for at, _ in fine.losses] == [*range(6)] and fine.rates[0] == (0, 0.001)
    assert fine.solver_tests == {}
    head = fine.best.heads["score"]
    assert sum(map(sum, head.confusion)) == 2 * 12 * 14 and head.names == ["ground", "thing & <b>"]
    page = Page(write_run(whole))
    assert f"{fine.best.mean_iu * 100:.1f}" in page.text and "thing & <b> taken for ground" in page.text
    assert page.text.count("Curves") == 2 and "weights/coarse.caffemodel" in page.text
    assert len(page.attributes("img")) == 3 * 2 * 2, "image, truth and answer of two images a stage"
    for text in ("solve", "fcn-caffe 0.", 'snapshot_prefix: "snapshot/fine/train"'):
        assert text in page.text


def test_the_page_is_alone_and_lets_nothing_act(whole):
    text = write_run(whole)
    page = Page(text)
    policy = page.attributes("meta")[1]["content"]
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in policy and "unsafe" not in policy
    assert not [tag for tag, attributes in page.elements if "style" in attributes or "onclick" in attributes]
    places = [attributes[name] for _, attributes in page.elements for name in ("src", "href") if name in attributes]
    assert places and all(place.startswith(("data:image/", "#stage-")) for place in places)
    assert page.attributes("script") == [{}] and re.search(r"<script></script>", text)


def test_the_command_writes_it_beside_the_run(task, monkeypatch, capsys):
    monkeypatch.chdir(task)
    assert report.main(["."]) == 0 and report.main(["snapshot/fine", "fine.html"]) == 0
    assert "wrote report.html" in capsys.readouterr().out
    assert "<h1>task</h1>" in Path("report.html").read_text() and "<h1>fine</h1>" in Path("fine.html").read_text()
    assert read_run(task / "snapshot").name == "task"


def test_what_files_say_stays_text(task):
    stage = task / "snapshot/fine"
    events = records(stage)
    for event in events:
        if event["event"] == "start":
            event |= {"stage": HOSTILE, "settings": HOSTILE, "command": [HOSTILE], "device": HOSTILE}
        if event["event"] == "test":
            event["heads"]["score"]["classes"] = [HOSTILE, "b"]
    rewrite(stage, events)
    images = json.loads((stage / "images.json").read_text())
    images["best"][0] |= {"name": HOSTILE, "image": '" onload="x'}
    (stage / "images.json").write_text(json.dumps(images))
    page = Page(write_run(task))
    assert "alert(1)" in page.text
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes or "onload" in attributes]
    assert {attributes["src"][:5] for attributes in page.attributes("img")} == {"data:"}


def test_a_stage_that_is_not_better_is_said(task):
    stage = task / "snapshot/coarse"
    events = records(stage)
    for event in events:
        if event["event"] == "test":
            event["heads"]["score"]["mean_iu"] = 0.99
    rewrite(stage, events)
    page = Page(write_run(task))
    assert "fine is not better than the stage that it started from." in page.text
    assert "not better" not in Page(write_run(task / "snapshot/fine")).text


# -- other runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "state"),
    [
        (["start"], "interrupted, or still running: iteration 5 of 6"),
        (["start", "test"], "interrupted, or still running: iteration 6 of 6"),
        (["start", "test", "end"], "stopped at iteration 6 of 6"),
    ],
)
def test_an_interrupted_run(task, kept, state):
    """As a process that was killed leaves it, and one that SIGINT stopped."""
    stage = task / "snapshot/fine"
    rewrite(stage, [{**event, "done": False} for event in records(stage) if event["event"] in kept])
    with open(stage / "run.jsonl", "a") as file:
        file.write('{"event": "te')
    (stage / "images.json").unlink()
    assert read_run(stage).stages[0].state == state
    page = Page(write_run(stage))
    assert state[1:] in page.text and not page.attributes("img")
    assert ("No test was made" in page.text) == (kept == ["start"])


def test_a_process_that_goes_on_replaces_what_it_does_again(task):
    stage = task / "snapshot/fine"
    start, first, *others = records(stage)
    rewrite(stage, [start, first, {**others[0], "iteration": 3}, {**start, "iteration": 2}, *others])
    run = read_run(stage).stages[0]
    assert [test.iteration for test in run.tests] == [2, 4, 6] and len(run.starts) == 2
    assert "gone on with 1 time, from iteration 2" in Page(write_run(stage)).text


def test_a_run_before_there_were_records(task):
    stage = task / "snapshot/fine"
    for name in ("run.jsonl", "images.json"):
        (stage / name).unlink()
    run = read_run(stage).stages[0]
    assert [test.iteration for test in run.tests] == [2, 4, 6] and run.best.heads["score"].class_iu == ()
    page = Page(write_run(stage))
    assert "Iteration 6." in page.text and "How to repeat it" not in page.text


def test_nothing_displayed_and_nothing_tested(tmp_path):
    """The solver has no display: there is no curve. One stage alone, whose log ends at once."""
    stage = tmp_path / "snapshot" / "bare"
    stage.mkdir(parents=True)
    (stage / "log.txt").write_text("I1129 10:00:00.000000 1 solve] bare: train from its fillers\n")
    page = Page(write_run(tmp_path))
    assert "It was not scored." in page.text and "Nothing was logged" in page.text


def test_a_log_of_train_alone(task, monkeypatch):
    monkeypatch.chdir(task)
    text = Path(COARSE).read_text().replace("test_interval: 999999999", "test_interval: 2")
    Path(COARSE).write_text(text)
    assert train.main(["--solver", COARSE, "--log", "logs/mine.log"]) == 0
    stage = read_run(Path("logs/mine.log")).stages[0]
    assert [at for at, _ in stage.losses] == [*range(7)] and [at for at, _ in stage.solver_tests["loss"]] == [2, 4, 6]
    assert report.main(["logs/mine.log"]) == 0
    assert "own tests" in Path("logs/report.html").read_text()


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder or log."),
        (["images"], "images: no run here: images has no folder with log.txt, run.jsonl or scores.csv."),
        (["train.txt"], "train.txt: not a training log"),
    ],
)
def test_what_is_no_run_is_refused(task, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(task)
    assert report.main(arguments) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(task.rglob("report.html"))


def test_a_page_has_its_ending(task, capsys):
    with pytest.raises(SystemExit):
        report.main([str(task), "page.pdf"])
    assert "page.pdf: the page is HTML" in capsys.readouterr().err


TABLE = f"{','.join(COLUMNS)}\n{{}},score,{','.join(['0.5'] * (len(COLUMNS) - 2))}\n"
IMAGES_OF = json.dumps(
    {
        "iteration": 1,
        "best": [{**dict.fromkeys(("name", "image", "truth", "answer"), ""), "mean_iu": 0.5, "size": [3, 4]}],
        "worst": [],
    }
)


def test_pixels_are_not_negative(task, capsys):
    record = task / "snapshot/fine/run.jsonl"
    record.write_text(re.sub(r'"confusion": \[\[\d+', '"confusion": [[-1', record.read_text()))
    assert report.main([str(record.parent)]) == 1
    assert "run.jsonl: not as `solve` writes it (ValueError('-1 pixels'))" in capsys.readouterr().err


def test_each_class_has_both_numbers(task, capsys):
    record = task / "snapshot/fine/run.jsonl"
    record.write_text(re.sub(r'"class_accuracy": \[[^\]]*\]', '"class_accuracy": []', record.read_text()))
    assert report.main([str(record.parent)]) == 1
    assert "run.jsonl: not as `solve` writes it (ValueError('" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.jsonl", "nonsense\n", "run.jsonl:1: no event of a run"),
        ("run.jsonl", '{"event": "test", "iteration": 2147483648}\n', "run.jsonl:1: no event of a run"),
        ("scores.csv", TABLE.format("9" * 400), "scores.csv: not a table of scores (an iteration of 1329 bits)"),
        ("scores.csv", TABLE.format(-1), "scores.csv: not a table of scores (an iteration of 1 bits)"),
        ("run.jsonl", '{"event": "start", "iteration": 0}\n', "run.jsonl: not as `solve` writes it (KeyError('time'))"),
        (
            "run.jsonl",
            '{"event": "test", "time": "2026-01-01T00:00:00+00:00", "iteration": 0, "heads": {}}\n',
            "run.jsonl: not as `solve` writes it (ValueError('a test without heads'))",
        ),
        (
            "images.json",
            IMAGES_OF.replace("0.5", "1" + "0" * 400),
            "images.json: not as `solve` writes it (OverflowErr",
        ),
        (
            "images.json",
            IMAGES_OF.replace('"iteration": 1', '"iteration": 1' + "0" * 400),
            "images.json: not as `solve` writes it (ValueError('a number of 1329 bits'))",
        ),
        ("images.json", IMAGES_OF.replace("[3", "[Infinity"), "images.json: not as `solve` writes it (OverflowError"),
        ("images.json", "{}", "images.json: not the images of a run"),
        ("images.json", '{"iteration": 1, "best": [1], "worst": []}', "images.json: not as `solve` writes it"),
        ("scores.csv", "a,b\n1,2\n", "scores.csv: not a table of scores"),
    ],
)
def test_damaged_files_are_refused_by_name(task, capsys, name, text, message):
    stage = task / "snapshot/fine"
    if name == "scores.csv":
        (stage / "run.jsonl").unlink()
    (stage / name).write_text(text)
    assert report.main([str(stage)]) == 1
    assert f"{stage}/{message}" in capsys.readouterr().err
