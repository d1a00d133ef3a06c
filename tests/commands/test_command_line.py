"""What the command line does before any work: help, a wrong flag, the version, completion. None of it loads PyTorch."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

import fcn_caffe
from fcn_caffe import commands
from fcn_caffe.commands import _completion, draw_net, extract_features, get_data, infer, new_task, port_weights
from fcn_caffe.commands import compute_image_mean as mean_command
from fcn_caffe.errors import DataError
from fcn_caffe.host.program import tool_call, tool_words

HEAVY = ("torch", "numpy", "scipy", "h5py", "matplotlib", "PIL", "google.protobuf", "rich", "jinja2")


CODE = f"""
import contextlib, io, json, sys
from fcn_caffe.commands import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
    print(json.dumps([words, status, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def run_all(*lines: list[str]) -> list[tuple[list[str], int, list[str]]]:
    """Run `fcn-caffe LINE` for each line in one fresh process: line, exit status, heavy modules loaded by then."""
    call = [sys.executable, "-c", CODE, json.dumps(lines)]
    run = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    return [tuple(json.loads(line)) for line in run.stdout.splitlines()]


def parser_of(name: str):
    return importlib.import_module(f"fcn_caffe.commands.{name}").parser()


# -- nothing heavy before the work -------------------------------------------------------------------------------------


def test_the_front_door_is_light():
    lines = [["--help"], ["--version"], ["--completion", "zsh"]]
    assert run_all(*lines, ["slove"]) == [*((line, 0, []) for line in lines), (["slove"], 2, [])]


def test_help_is_light():
    lines = [[name, "--help"] for name in commands.names()]
    assert run_all(*lines) == [(line, 0, []) for line in lines]


def test_a_wrong_command_line_is_light():
    lines = [[name, "--no-such-flag", "x"] for name in commands.names()]
    lines += [
        ["experiment", "no-such-experiment"],
        ["experiment", "cost", "--until", "conv1"],
        ["get_data"],
        ["audit", "--root", "nowhere"],
        ["draw_net", "a.prototxt", "a.svg", "--shapes"],
        ["time_net"],
        ["convolutionalize", "a.prototxt"],
        ["plot_training_log", "train.log"],
        ["doctor", "net.prototxt", "--size", "big"],
    ]
    assert run_all(*lines) == [(line, 2, []) for line in lines]


def test_work_does_load_pytorch():
    """The measure above can tell."""
    ((_, status, modules),) = run_all(["device_query"])
    assert status == 0 and "torch" in modules


def test_ctrl_c_while_pytorch_is_loaded_is_no_traceback():
    code = """
import sys
from fcn_caffe.commands import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.exit(main(["device_query"]))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (commands.INTERRUPTED, "", "interrupted\n")


# -- help --------------------------------------------------------------------------------------------------------------


def test_every_command_has_its_line_and_its_tool(capsys):
    modules = {path.stem for path in Path(commands.__file__).parent.glob("[!_]*.py")}
    assert set(commands.names()) == modules == {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert commands.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for group, members in commands.COMMANDS.items():
        place = lines.index(f"{group}:")
        assert [line.split()[0] for line in lines[place + 1 : place + 1 + len(members)]] == list(members)
    assert max(map(len, lines)) <= 80


def test_no_command_shows_help_and_fails(capsys):
    assert commands.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: fcn-caffe COMMAND")


def test_the_version(capsys):
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fcn-caffe {fcn_caffe.__version__}\n"


def test_python_m_is_the_same_program(tmp_path):
    call = [sys.executable, "-m", "fcn_caffe", "--version"]
    run = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == f"fcn-caffe {fcn_caffe.__version__}\n"


# -- what a person is told to type -------------------------------------------------------------------------------------


def test_hints_name_the_command_that_was_typed(monkeypatch):
    monkeypatch.chdir(ROOT)
    for program, words in (
        ("tools/train.py", ["tools/solve.py"]),
        (str(ROOT / "tools/train.py"), [str(ROOT / "tools/solve.py")]),
        (str(ROOT / "fcn_caffe/__main__.py"), ["-m", "fcn_caffe", "solve"]),
    ):
        monkeypatch.setattr(sys, "argv", [program])
        python, *rest = tool_words("solve")
        assert rest == words and shutil.which(python)
        assert tool_words("solve", from_elsewhere=True)[-1] in ("solve", str(ROOT / "tools/solve.py"))
    for program in ("/usr/local/bin/fcn-caffe", "-c", "", "/elsewhere/tools/train.py"):
        monkeypatch.setattr(sys, "argv", [program])
        assert tool_call("solve") == "fcn-caffe solve"


@pytest.mark.parametrize("how", ["tools/score.py", "-m"])
def test_usage_names_the_command_that_was_typed(how):
    words = [how] if how != "-m" else ["-m", "fcn_caffe", "score"]
    run = subprocess.run([sys.executable, *words, "-h"], cwd=ROOT, capture_output=True, text=True, check=True)
    usage = " ".join(run.stdout.split())  # a long program name is folded into more lines
    assert usage.startswith(f"usage: {sys.executable} {' '.join(words)} [-h]") or re.match(
        rf"usage: python3? {' '.join(words)} \[-h\]", usage
    )


# -- what the parsers say without asking the library -------------------------------------------------------------------


def test_the_parsers_know_the_library():
    from fcn_caffe.data.prepare import DATA_SETS
    from fcn_caffe.data.readers.databases import BACKENDS
    from fcn_caffe.doctor import IMAGES
    from fcn_caffe.evaluation import features, predictions
    from fcn_caffe.models import own_task
    from fcn_caffe.net import draw
    from fcn_caffe.weights import record

    assert set(mean_command.BACKENDS) == set(BACKENDS)
    assert tuple(DATA_SETS) == get_data.DATA_SETS
    assert parser_of("doctor").get_default("images") == IMAGES
    assert extract_features.FORMATS == features.FORMATS
    assert infer.VOC_LAYOUT == predictions.VOC_LAYOUT
    assert draw_net.RANKDIRS == draw.RANKDIRS
    assert port_weights.ORDERS == record.ORDERS
    assert set(new_task.TRUNKS) == set(own_task.TRUNKS)
    assert tuple(new_task.STAGES) == own_task.STAGES
    plain = new_task.parser().parse_args(["--images", "a", "--labels", "b"])
    assert new_task.training_settings(plain) == own_task.Training()


def test_data_sets_are_explained(capsys):
    assert get_data.main(["--list"]) == 0
    out = capsys.readouterr().out
    for name in get_data.DATA_SETS:
        assert f"{name}: " in out
    assert "needs    SiftFlowDataset.zip" in out


# -- completion --------------------------------------------------------------------------------------------------------


def complete(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    script = f"""{_completion.bash_script()}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_fcn_caffe
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    run = subprocess.run(["bash", "-c", script, "bash", *words], cwd=folder, capture_output=True, text=True, check=True)
    assert not run.stderr
    return run.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ex"], ["explain_lr", "extract_features", "export", "experiment"]),
        (["--v"], ["--version"]),
        (["--completion", ""], ["bash", "zsh", "a net.prototxt", "nets"]),
        (["solve", "--dr"], ["--dry-run"]),
        (["draw_net", "--rankdir", ""], ["LR", "TB", "BT", "RL"]),
        (["train", "-sigint_effect", "s"], ["stop", "snapshot"]),
        (["get_data", "pas"], ["pascal-context"]),
        (["solve", "--from", "a"], ["a net.prototxt"]),
        (["score", "n"], ["nets"]),
    ],
    ids=" ".join,
)
def test_bash_completes(tmp_path, words, wanted):
    (tmp_path / "a net.prototxt").touch()
    (tmp_path / "nets").mkdir()
    assert sorted(complete(tmp_path, "fcn-caffe", *words)) == sorted(wanted)


def test_completion_has_every_flag_of_every_command():
    for script in (_completion.bash_script(), _completion.zsh_script()):
        for name in commands.names():
            (line,) = re.findall(rf"^ *\(?{name}\) (.*)$", script, re.MULTILINE)
            for flag in re.findall(r"(?<=[ \[,])--?[a-z][\w-]*", parser_of(name).format_usage()):
                assert flag in line


def test_completion_is_printed(capsys):
    for shell in ("bash", "zsh"):
        assert commands.main(["--completion", shell]) == 0
        assert f"# {shell} completion of fcn-caffe" in capsys.readouterr().out
    assert commands.main(["--completion", "fish"]) == 2
    assert capsys.readouterr().err == "error: --completion takes the name of a shell: bash or zsh.\n"


@pytest.mark.needs_program("zsh")
def test_zsh_reads_its_script(tmp_path):
    path = tmp_path / "_fcn-caffe"
    path.write_text(_completion.zsh_script())
    run = subprocess.run(["zsh", "-n", path], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_stdout_that_cannot_take_a_name_or_is_closed(tmp_path):
    """A name may be no UTF-8, or not in the terminal's character set."""
    net = os.fsencode(tmp_path) + b"/\xe9\xc3\xa9.prototxt"
    with open(net, "w") as file:
        file.write('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }')
    code = "import sys; from fcn_caffe.commands import main; sys.exit(main(['upgrade_net', sys.argv[1], sys.argv[1]]))"
    run = [sys.executable, "-c", code, net]
    for environment in ({"PYTHONIOENCODING": "utf-8"}, {"PYTHONIOENCODING": "ascii"}):
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})
        assert done.returncode == 0 and r"\udce9" in done.stdout, done.stderr
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *run], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 48.0 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_has_a_cure(error, capsys):
    @commands.command
    def main(argv):
        raise error

    assert main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: too little memory: {error or 'no more is given'}")
    assert said.endswith(". Take smaller images, batches or nets.\n")


def test_what_is_no_lack_of_memory_stays_an_error_of_ours():
    @commands.command
    def main(argv):
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        main([])


def test_names_in_errors_do_nothing_to_the_terminal(capsys):
    @commands.command
    def main(argv):
        raise DataError("layer '\x1b[2Jx\r\x9b' é\n\tis wrong")

    assert main([]) == 1
    assert capsys.readouterr().err == "error: layer '\\x1b[2Jx\\r\\x9b' é\n\tis wrong\n"


def test_streams_that_were_closed_lead_to_nowhere(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)

    @commands.command
    def main(argv):
        print("said")
        print("told", file=sys.stderr)
        return int(sys.stderr.isatty() or len(sys.stdin.read()))

    assert main([]) == 0
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def test_a_working_folder_that_was_removed(tmp_path):
    """What needs none goes on without it."""
    (tmp_path / "gone").mkdir()
    line = 'cd "$0" && rmdir "$0" && exec "$@" -c "import sys; sys.argv = [\'x\']; import fcn_caffe"'
    run = ["sh", "-c", line, str(tmp_path / "gone"), sys.executable]
    done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("error", "cure"), [(errno.ENOSPC, "Make room on the disk."), (errno.EROFS, "Give a place")])
def test_what_the_system_refuses_has_a_cure(error, cure, capsys):
    @commands.command
    def main(argv):
        raise OSError(error, os.strerror(error), "there")

    assert main([]) == 1
    assert f"error: there: {os.strerror(error)}. {cure}" in capsys.readouterr().err
