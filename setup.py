"""Package metadata. Ranges are open at the top: constraints.txt holds the versions the tests were run with."""

from setuptools import find_packages, setup

# Each names what it opens: databases of Datum, a weight format, drawn training curves.
FORMATS = {
    "lmdb": ["lmdb>=1.4"],
    "leveldb": ["plyvel>=1.5"],
    "safetensors": ["safetensors>=0.4"],
    "plot": ["matplotlib>=3.6"],
}

DATA_FILES = ["py.typed", "proto/*.proto", "proto/*.pyi", "paper/*.tsv", "paper/*.css", "paper/*.js"]

setup(
    name="fcn-caffe",
    version="0.1.0",
    description="Caffe's fully convolutional networks, read from prototxt and trained, scored and run on PyTorch.",
    packages=find_packages(include=["fcn_caffe", "fcn_caffe.*"]),
    package_data={"fcn_caffe": DATA_FILES},
    python_requires=">=3.10",
    install_requires=["torch>=2.2", "protobuf>=4.21", "numpy>=1.23", "scipy>=1.9", "pillow>=9.4", "h5py>=3.7"],
    extras_require={
        **FORMATS,
        "all": [requirement for requirements in FORMATS.values() for requirement in requirements],
        "test": ["pytest>=7.4", "hypothesis>=6.80", *(name for names in FORMATS.values() for name in names)],
        "browser": ["selenium>=4.20"],  # for tests of the audit's page, with Chromium and chromedriver of the system
        "check": ["mypy>=1.10", "ruff>=0.5", "grpcio-tools>=1.60"],
    },
    entry_points={"console_scripts": ["fcn-caffe = fcn_caffe.commands:main"]},
)
