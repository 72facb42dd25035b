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
        if config["model"]["class_path"] == "LongMemory":
            streams_are_long_enough(config, name)
        else:
            assert made(config["model"]).min_frames <= data["init_args"]["frames"], name


def streams_are_long_enough(config, name):
    """A memory's rollouts and chosen steps fit into the data's streams, where these can be made without a download."""
    import datamodules
    from lightning_modules.long_memory import LongMemory

    data, options = config["data"], config["model"].get("init_args", {})
    if data["class_path"] == "WeizmannStreams":
        model = LongMemory(num_classes=10, in_channels=1, input_kind="frames", **options)
        settings = data["init_args"]
        assert max(model.rollout, model.selector.k) <= settings.get("cue_frames", 24) + settings["gap"] + 1, name
        return
    made_data = getattr(datamodules, data["class_path"])(**data["init_args"])
    linked = {name: getattr(made_data, name) for name in ("num_classes", "input_kind")}
    model = LongMemory(in_channels=made_data.channels, **linked, **options)
    assert max(model.rollout, model.selector.k) <= made_data.steps, name


def made(section):
    """The model of a configuration, with what it is told by the data."""
    from lightning_modules.action_recognition import ActionRecognition
    from lightning_modules.future_frames import FutureFrames

    if section["class_path"] == "FutureFrames":
        return FutureFrames(in_channels=1, **section["init_args"])
    return ActionRecognition(num_classes=4, in_channels=1, **section["init_args"])
