"""Fixtures of the data tests. Importing datamodules first also mends torchvision before lightning is imported."""

import os
from pathlib import Path

import pytest
from sample_videos import write_video

import datamodules  # noqa: F401


@pytest.fixture
def video_folder(tmp_path):
    """Two classes with four videos each, of the groups a to d."""
    for label in ("left", "right"):
        for number, group in enumerate("abcd"):
            write_video(tmp_path / "videos" / label / f"{group}_{label}.avi", frames=14 + number)
    return tmp_path / "videos"


@pytest.fixture
def real_data():
    """The folder of real clips: SKIP_SIDEWAYS_DATA, else ../shared/data beside the repository."""
    named = os.environ.get("SKIP_SIDEWAYS_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / ".." / "shared" / "data"
    if not (folder / "weizmann").is_dir():
        pytest.skip("no real clips: set SKIP_SIDEWAYS_DATA to the folder that contains weizmann/ and clips/")
    return folder
