"""Where the tests' files are: the checkout, the golden numbers, and what is shared beside it (absent in a clone)."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
SHARED = ROOT.parent / "shared"
