"""The house: imports run one way only, and every file is in a room."""

import ast
import shutil
from pathlib import Path

import pytest

import fcn_caffe

PACKAGE = Path(fcn_caffe.__file__).parent

# A room may import the rooms of the rows above its own, and itself. Two rooms in a row do not know each other.
ORDER = (
    ("errors",),
    ("host",),
    ("proto",),
    ("layers",),
    ("weights", "data"),
    ("net",),
    ("models",),
    ("evaluation",),
    ("export",),
    ("training",),
    ("doctor",),
    ("pycaffe", "paper", "viewer"),
    ("commands",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}
IN_THE_ROOT = {"__init__.py", "__main__.py", "errors.py", "py.typed"}
MOST_FILES = 35
MOST_LINES = 50


def imported(path: Path, package: Path) -> list[tuple[int, str]]:
    """The room of every import of this package's own in a file, with its line; those in functions too."""
    rooms = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.ImportFrom):
            inside = path.relative_to(package.parent).parent.parts
            base = inside[: len(inside) - node.level + 1] if node.level else ()
            start = (*base, *(node.module.split(".") if node.module else ()))
            names = [(*start, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        rooms += [(node.lineno, name[1]) for name in names if name[0] == package.name and len(name) > 1]
    return rooms


def upward(package: Path) -> list[str]:
    """Every import that does not run downwards."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        room = place.parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue  # the package's face is above all rooms
        for line, other in imported(path, package):
            if other in FLOOR and other != room and FLOOR[other] >= FLOOR[room]:
                wrong.append(f"{place}:{line}: {room} imports {other}")
            elif other not in FLOOR:
                wrong.append(f"{place}:{line}: imports {other} of the package's face")
    return wrong


def test_imports_run_downwards():
    assert upward(PACKAGE) == []


@pytest.mark.parametrize(
    "line",
    [
        "from fcn_caffe.net import Net",
        "import fcn_caffe.net.graph",
        "def later():\n    from fcn_caffe import net",
        "from ..net.graph import Graph",
    ],
)
def test_an_upward_import_is_found(tmp_path, line):
    copy = tmp_path / "fcn_caffe"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    place = copy / "layers" / "planted.py"
    place.write_text(line + "\n")
    assert [found.split(":")[0] for found in upward(copy)] == ["layers/planted.py"]


CHANGES = ("chdir", "fchdir", "putenv", "unsetenv")  # of the process; and what changes os.environ:
CHANGES_OF_ENVIRON = ("pop", "popitem", "clear", "update", "setdefault")


def changes_of_the_process(package: Path) -> list[str]:
    """Every line that changes the working directory or the environment, which belong to the user's program."""
    lines = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Subscript):
                is_change = isinstance(node.ctx, (ast.Store, ast.Del)) and ast.unparse(node.value) == "os.environ"
            elif isinstance(node, (ast.Attribute, ast.Name)):
                name = ast.unparse(node)
                owner, _, last = name.rpartition(".")
                is_change = last in CHANGES or (owner.endswith("environ") and last in CHANGES_OF_ENVIRON)
            else:
                continue
            if is_change:
                lines.append(f"{path.relative_to(package)}:{node.lineno}")
    return lines


def test_no_code_changes_the_working_directory_or_the_environment():
    # ONNX Runtime notes down its use from its import on, unless the environment says not to.
    telemetry = [line.partition(":")[0] for line in changes_of_the_process(PACKAGE)]
    assert telemetry == ["export/engines.py"]


@pytest.mark.parametrize(
    "line",
    [
        "os.chdir(folder)",
        "with contextlib.chdir(folder): pass",
        "from os import chdir as go\ngo(folder)\nchdir(folder)",
        "os.environ['A'] = 'b'",
        "del os.environ['A']",
        "os.environ.setdefault('A', 'b')",
        "environ.pop('A')",
    ],
)
def test_a_change_of_the_process_is_found(tmp_path, line):
    (tmp_path / "planted.py").write_text(line + "\n")
    assert [found.split(":")[0] for found in changes_of_the_process(tmp_path)] == ["planted.py"]


def test_the_root_has_the_rooms_and_nothing_else():
    names = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert names == IN_THE_ROOT | (FLOOR.keys() - {"errors"})


def test_no_room_is_crowded():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert {
        str(folder): len(list(folder.glob("*.py"))) for folder in folders if len(list(folder.glob("*.py"))) > MOST_FILES
    } == {}


def test_no_function_is_over_fifty_lines():
    long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MOST_LINES:
                long.append(f"{path.relative_to(PACKAGE)}: {node.name}, {node.end_lineno - node.lineno + 1} lines")
    assert long == []
