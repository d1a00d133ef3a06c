"""Builds a release into dist/: source archive, wheel, a list of what the package needs, SHA256SUMS.

The two archives depend on the commit and on constraints.txt alone: times are the commit's (SOURCE_DATE_EPOCH),
permissions and owners are set, the tools are pinned. Both are built twice, and a byte that differs is an error.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
EXTRAS = "all"  # what the list of needs holds besides the package's own


def main() -> int:
    """Build, compare, list and sum up; return the exit status."""
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, check=True).stdout:
        print("release: the checkout has changes. Commit or remove them: a release is what a commit holds.")
        return 1
    shown = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", shown.stdout))
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as folder:
        first, second = (build(Path(folder, name), epoch) for name in ("first", "second"))
        for one, other in zip(first, second, strict=True):
            if one.name != other.name or one.read_bytes() != other.read_bytes():
                print(f"release: {one.name} is another one when it is built again. Nothing was written.")
                return 1
        sbom = Path(folder, f"{first[1].name.split('-py3')[0]}.cdx.json")
        list_needs(first[1], sbom, Path(folder))
        DIST.mkdir(exist_ok=True)
        files = [Path(shutil.copy(path, DIST)) for path in (*first, sbom)]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (DIST / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print("".join(sums), end="")
    return 0


def build(folder: Path, epoch: int) -> tuple[Path, Path]:
    """Build the source archive and, from it alone, the wheel.

    Args:
        folder: where they go.
        epoch: the time that all files get, in seconds since 1970.
    """
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(epoch),
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PYTHONHASHSEED": "0",
    }
    clone = folder / "clone"  # a build leaves folders beside what it reads
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    command = [sys.executable, "-m", "build", "--outdir", folder]
    subprocess.run([*command, "--sdist", clone], env=environment, check=True, stdout=subprocess.DEVNULL)
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder / "source", filter="data")
    (unpacked,) = (folder / "source").iterdir()
    pack(unpacked, source, epoch)
    subprocess.run([*command, "--wheel", unpacked], env=environment, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def pack(folder: Path, path: Path, epoch: int) -> None:
    """Pack a folder as .tar.gz: sorted, of nobody, all files of one time and one of two permissions."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = epoch, 0, 0, "", ""
        info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        return info

    with (
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", 9, file, epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in sorted([folder, *folder.rglob("*")]):
            archive.add(member, member.relative_to(folder.parent), recursive=False, filter=plain)


def list_needs(wheel: Path, sbom: Path, folder: Path) -> None:
    """Write what the wheel needs, in the versions of constraints.txt, as CycloneDX JSON with the index's hashes."""
    report, pins = folder / "report.json", folder / "pins.txt"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
    options = [f"--constraint={ROOT / 'constraints.txt'}", f"--report={report}"]
    subprocess.run([*pip, *options, f"fcn-caffe[{EXTRAS}] @ {wheel.as_uri()}"], check=True)
    lines, own = [], ""
    for package in json.loads(report.read_text(encoding="utf-8"))["install"]:
        name, version = package["metadata"]["name"], package["metadata"]["version"]
        if name == "fcn-caffe":
            own = version
            continue
        hashes = package["download_info"]["archive_info"].get("hashes", {})
        sums = "".join(f" --hash={kind}:{value}" for kind, value in sorted(hashes.items()))
        lines.append(f"{name}=={version.split('+')[0]}{sums}\n")
    pins.write_text("".join(sorted(lines)), encoding="utf-8")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "cyclonedx_py",
        "requirements",
        "--output-reproducible",
        "--of=JSON",
    ]
    about = [f"--pyproject={ROOT / 'pyproject.toml'}", "--mc-type=library", f"--output-file={sbom}"]
    subprocess.run([*command, *about, pins], check=True)
    bill = json.loads(sbom.read_text(encoding="utf-8"))
    bill["metadata"]["component"]["version"] = own  # pyproject.toml has it from the package
    sbom.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
