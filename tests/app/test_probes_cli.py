"""`skip-sideways probes`: what it prints and writes, that its suggestion holds, and what it refuses."""

import json
from pathlib import Path

import pytest
from launch import DATA, fit

from app.cli import main
from app.probes_report import rounded_up

pytestmark = pytest.mark.timeout(120)
MODEL = {"depth": 4, "width": 0.25, "rule": "backprop_frame"}
LAYERS = ["units.1.body.0", "units.2.body.0"]


def argv(*more, data=None, **model):
    words = ["probes", "--data", "MovingDigits", "--batches", "4"]
    words += [f"--data.{key}={value}" for key, value in (DATA | {"size": 16} | (data or {})).items()]
    return [*words, *[f"--model.{key}={value}" for key, value in (MODEL | model).items()], *more]


def measured(*more, **changes) -> dict:
    assert main([*argv("--output=found.json", **changes), *more]) == 0
    return json.loads(Path("found.json").read_text())


def test_the_table_the_ages_and_the_line_to_type(capfd, tmp_cwd):
    found = measured("--shares", "0.25", "0.125")
    printed = capfd.readouterr().out
    head = next(line for line in printed.splitlines() if line.startswith("layer"))
    assert head.split("  ")[-4:] == ["error at 0.125", "error at 0.25", "noise", "probes"]
    assert [layer["name"] for layer in found["layers"]] == LAYERS
    for layer in found["layers"]:
        line = next(line for line in printed.splitlines() if line.startswith(layer["name"]))
        assert line.split()[1] == "x".join(map(str, layer["input_shape"]))
        assert f"{layer['noise']:.3f}" in line
        assert layer["errors"]["0.125"] > 0
        assert layer["probes"]["0.25"] == 2 * layer["probes"]["0.125"]
        assert 1 <= layer["suggested"] <= layer["most"]
    assert "exact: units.0.body.0 (the batch keeps it too)" in printed
    assert "4 minibatches' gradients to the mean gradient" in printed
    assert found["ages"]["0.125"] > found["exact_age"] > 0
    assert f"--model.probes {rounded_up(found['share']):g} --model.compact relu" in printed
    assert found["command"].startswith("skip-sideways probes --data MovingDigits")
    assert [path.name for path in tmp_cwd.iterdir()] == ["found.json"], "no run, no store"


def test_what_is_suggested_adds_about_what_is_there_anyway(capfd, tmp_cwd):
    """Measured again at the suggested share, and at that of one convolution, by what was the law before."""
    options = ("--batches=10", "--shares")
    found = measured(*options, "0.25", "0.5")
    again = measured(*options, str(found["share"]))
    assert sum(again["ages"].values()) / again["exact_age"] == pytest.approx(2, rel=0.25)
    assert again["exact_age"] == pytest.approx(found["exact_age"], rel=1e-4), "exact gradients are the same"
    for layer in again["layers"]:
        (error,) = layer["errors"].values()
        (probes,) = layer["probes"].values()
        wanted = probes * (error / layer["noise"]) ** 2
        before = next(other["suggested"] for other in found["layers"] if other["name"] == layer["name"])
        assert before == pytest.approx(wanted, rel=0.5, abs=1.5)


def test_a_seed_gives_the_same_figures_and_another_one_others(capfd, tmp_cwd):
    one, same, other = (measured("--shares=0.25", f"--seed={seed}") for seed in (1, 1, 2))
    assert {**one, "command": ""} == {**same, "command": ""}
    assert one["exact_age"] != other["exact_age"]


@pytest.mark.parametrize(
    ("clips", "whole", "about"), [(12, True, "the training set's gradient"), (13, False, "the mean gradient")]
)
def test_all_of_the_training_set_and_what_the_configuration_asks_for(clips, whole, about, capfd, tmp_cwd):
    """With probes of its own a configuration stays as it is, its level of compact too; the loader drops a clip."""
    changes = {"probes": 0.1, "compact": "norm", "probe_mode": "multi", "probe_layers": "all"}
    found = measured("--batches=0", "--shares=0.25", data={"train_clips": clips}, **changes)
    assert (found["whole"], found["minibatches"], found["settings"]) == (whole, 3, {})
    assert [layer["name"] for layer in found["layers"]] == ["units.0.body.0", *LAYERS]
    assert [layer["probes"]["0.25"] for layer in found["layers"]] == [64, 64, 32], "a quarter of C x H x W"
    printed = capfd.readouterr().out
    assert f"3 minibatches' gradients to {about}" in printed
    assert "--model.compact" not in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"rule": "greedy", "vq_groups": 2, "vq_codes": 8},
        {"rule": "greedy", "replay": 2},
        {"rule": "sideways", "executor": "pipelined", "update": "frame"},
        {"rule": "backprop", "network": "cnn3d", "depth": "null", "width": 1},
    ],
    ids=str,
)
def test_every_rule(model, capfd, tmp_cwd):
    assert measured("--shares=0.25", **model)["layers"]


def test_of_a_checkpoint_weights_and_configuration_are_its_own(capfd, tmp_cwd):
    model = {**MODEL, "rule": "backprop_frame", "lr": 0.05}
    fit(model=model, data={"size": 16}, trainer={"max_steps": 3, "logger": "false"})
    (path,) = Path("runs").glob("*/last.ckpt")
    assert main(["probes", f"--ckpt_path={path}", "--batches=4", "--shares=0.25", "--output=found.json"]) == 0
    trained = json.loads(Path("found.json").read_text())
    assert trained["exact_age"] != measured("--shares=0.25")["exact_age"]
    assert main(argv(f"--ckpt_path={path}", width=0.5)) == 2
    assert "holds another network: width 0.25 (configured: 0.5)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "changes", "says"),
    [
        (["--batches=1"], {}, "--batches is 1; give 2 or more, or 0"),
        (["--shares", "0.1", "2"], {}, "--shares 2; shares lie between 0 and 1"),
        (["--ckpt_path=last"], {}, "name the file here, such as --ckpt_path runs/NAME/last.ckpt"),
        (["--model.probez=1"], {}, "Did you mean probes?"),
        ([], {"probes": 0.5}, "units.1.body.0: units.0.body"),
        ([], {"probes": 0.5}, "use --model.compact relu or norm"),
        ([], {"executor": "cuda_graph", "rule": "sideways"}, "use executor 'pipelined' or 'vectorised'"),
        ([], {"train_units": "last"}, "--model.train_units all"),
        ([], {"data": {"batch_size": 40}}, "use a smaller --data.batch_size"),
    ],
)
def test_an_error_says_what_to_type(more, changes, says, capfd, tmp_cwd):
    assert main(argv(*more, **changes)) == 2
    lines = capfd.readouterr().err.split("skip-sideways: error: ")
    assert says in lines[-1]
    assert "Traceback" not in lines[-1]


def test_no_share_is_told_where_most_convolutions_have_no_gradient_yet(capfd, tmp_cwd):
    """A predictor of frames that starts at 0 sends no gradient down at its random start."""
    words = ["probes", "--model", "FutureFrames", "--data", "MovingDigits", "--batches", "2"]
    words += [f"--data.{key}={value}" for key, value in (DATA | {"size": 16, "frames": 16}).items()]
    assert main([*words, "--model.width=0.25", "--model.horizon=1", "--model.predict=change"]) == 2
    error = capfd.readouterr().err.split("skip-sideways: error: ")[-1]
    assert "have no gradient with these weights" in error
    assert "give --ckpt_path runs/NAME/last.ckpt" in error
