"""Every row of every comparison we ship makes a model and takes its data's arguments."""

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from app.comparison.grid import build_grid
from app.comparison.spec import load_comparison

CONFIGS = Path(__file__).resolve().parents[2] / "app/configs/comparisons"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_rows_make_models_and_clips_are_long_enough(path):
    import datamodules

    comparison = load_comparison(path)
    for name in comparison.row_names:
        config = build_grid(comparison, rows=[name])[0].config
        data = config["data"]
        # Leaves hand options on to their base: what a class takes is what the command line finds.
        arguments = ArgumentParser().add_class_arguments(getattr(datamodules, data["class_path"]), "data")
        assert {f"data.{key}" for key in data["init_args"]} <= set(arguments), name
        model = made(config["model"])
        assert model.min_frames <= data["init_args"]["frames"], name


def made(section):
    """The model of a configuration, with what it is told by the data."""
    from lightning_modules.action_recognition import ActionRecognition
    from lightning_modules.future_frames import FutureFrames

    if section["class_path"] == "FutureFrames":
        return FutureFrames(in_channels=1, **section["init_args"])
    return ActionRecognition(num_classes=4, in_channels=1, **section["init_args"])
