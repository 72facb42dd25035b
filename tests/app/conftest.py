"""Lets the tests of this folder import `launch`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

# Lightning's log handler keeps the stderr of the moment it is imported, which must not be one test's captured one.
import app.trainer_cli  # noqa: F401
