"""Lets the tests of this folder import `toy_clips`, and the packages rather than the test folders of the same names."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

# Before lightning: torchvision may need a repair.
import lightning_modules  # noqa: E402, F401
