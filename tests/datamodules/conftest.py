"""Fixtures of the data tests. Importing datamodules first also mends torchvision before lightning is imported."""

import datamodules  # noqa: F401
