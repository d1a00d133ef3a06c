"""Builds the wheel with the nets in it; pyproject.toml holds the metadata."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ("nets/*.prototxt", "solvers/*.prototxt", "weights/MANIFEST.toml")


class BuildWithNets(build_py):
    """Copies nets, solvers and the manifest into the package: `fcn-caffe solve` then needs no checkout."""

    def run(self) -> None:
        """Build the package. An editable one reads the folders of the checkout, so it gets no copies."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "fcn_caffe" / "models" / "shipped"
        shutil.rmtree(target, ignore_errors=True)
        for pattern in SHIPPED:
            for path in sorted(ROOT.glob(pattern)):
                place = target / path.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)


setup(cmdclass={"build_py": BuildWithNets})
