"""Lets the tests of this folder import `launch`, and the packages rather than the test folders of the same names."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

# Lightning's log handler keeps the stderr of the moment it is imported, which must not be one test's captured one.
import app.trainer_cli  # noqa: E402, F401
