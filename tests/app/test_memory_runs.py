"""A run with a long memory: what it is called, what it logs and stores, what `predict` writes, what is refused."""

import csv
import json

import mlflow
import numpy as np
import pytest
import torch
import yaml
from launch import QUIET, checkpoint, runs
from test_long_memory_cli import DATA, argv

from app.checkpoint_io import check_identity, identity
from app.cli import main
from app.comparison.grid import build_grid
from app.comparison.measures import heading
from app.comparison.spec import read_comparison
from app.predictions import StepTable
from app.run_layout import memory_names
from app.sweep import default_objective
from dashboard import memory_streams, run_facts
from datamodules.cued_video import CuedVideo

TRUNCATED = {"model.init_args.rule": "truncated_backprop"}
FRAMES = {"gap": 30, "symbols": None, "train_streams": 16, "test_streams": 12}
SMALL = {"context": 1, "width": 0.25, "projections": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mlflow_template):
    """The folder, store and result of a run on frames that was trained and tested."""
    folder = tmp_path_factory.mktemp("memory")
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    store = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store)
        line = argv(name="CuedVideo", data=FRAMES, model=SMALL, trainer={"max_steps": 12, "max_epochs": 20})
        assert main(line) == 0
        (path,) = folder.glob("runs/*/last.ckpt")
        assert main(["test", "--ckpt_path", str(path)]) == 0
    return folder, store, path


def run_of(store):
    (run,) = [run for run in runs(store, "cued_video") if run.data.tags["kind"] == "run"]
    return run


def test_a_run_says_what_it_remembers_with_and_over_which_gap(trained):
    folder, store, path = trained
    run, name = run_of(store), path.parent.name
    tags = {
        "task": "long_memory", "gap": "30", "network": "lstm", "wiring": "chain", "rule": "memup", "lmin": "",
        "detector": "entropy", "encoder": "detached", "dataset": "cued_video",
        "row": "lstm chain memup entropy", "views": "12 streams of 35 steps, scored at 1 step",
    }  # fmt: skip
    assert {key: run.data.tags[key] for key in tags} == tags
    assert run.data.params["gap"] == "30"
    said = run_facts.settings(run.data.tags)
    assert {"Network": "lstm", "Detector": "entropy", "Encoder": "detached"}.items() <= said.items()
    assert name.startswith("cued_video-gap30-fold0-lstm-chain-memup-seed0-")
    assert checkpoint(folder)["skip_sideways"]["identity"]["memory"] == "lstm"


def test_a_run_logs_chance_and_what_its_detector_found_and_how_long_a_step_takes(trained):
    metrics = run_of(trained[1]).data.metrics
    lanes = CuedVideo(gap=30).source("test").lanes([(0, index) for index in range(12)])
    commonest = lanes.read(lanes.answers_BA)[1].flatten().bincount().max().item() / 12
    assert metrics["test/chance"] == pytest.approx(commonest)
    assert 0 <= metrics["test/detector_precision"] <= 1
    assert metrics["latency/tick_ms"] > 0
    assert metrics["train/frames_per_second"] > 0
    assert metrics["memory/saved_tensors_mib"] > 0


@pytest.mark.parametrize("gap", [60, 0])
def test_a_trained_memory_is_tested_at_other_gaps(trained, gap, monkeypatch):
    """A gap of 0 makes streams of five frames, shorter than the rollouts of six that it was trained with."""
    folder, store, path = trained
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert main(["test", f"--ckpt_path={path}", f"--data.gap={gap}", "--trainer.enable_progress_bar=false"]) == 0
    found = [run.data for run in runs(store, "cued_video") if run.data.tags["gap"] == str(gap)]
    assert [data.tags["kind"] for data in found] == ["evaluation"]
    assert 0 <= found[0].metrics["test/top1"] <= 1
    assert run_of(store).data.tags["gap"] == "30"


def test_a_test_stores_what_the_memory_page_reads(trained, tmp_path):
    _, store, _ = trained
    client, run = mlflow.MlflowClient(store), run_of(store)
    folder = client.download_artifacts(run.info.run_id, "memory", str(tmp_path))
    content = json.loads((tmp_path / "memory" / "streams.json").read_text())
    index = memory_streams.parse_index(content)
    assert (index.detector, index.selector, index.k, index.rollout, index.gap) == ("entropy", "top_k", 3, 6, 30)
    assert len(index.streams) == 8
    assert index.has_frames
    for entry in index.streams.values():
        arrays = dict(np.load(f"{folder}/../{entry.file}", allow_pickle=False))
        stream = memory_streams.stream(entry, arrays)
        assert (stream.steps, stream.answers, len(stream.chosen)) == (35, (34,), 3)
        assert {0, 1, 2, 3, 34, *stream.chosen} <= {*stream.shown}
        assert len(stream.shown) <= 24
        assert stream.frames_nCHW.shape == (len(stream.shown), 1, 16, 16)
        assert np.isfinite(stream.uncertainty_T).all()
        kept = np.argsort(-stream.uncertainty_T[5:], kind="stable")[:3] + 5
        assert [*stream.chosen] == kept.tolist()
        assert 0 < stream.probability_A[0] < 1


def test_predictions_are_a_row_a_scored_step(trained, monkeypatch, capfd):
    folder, _, path = trained
    monkeypatch.chdir(folder)
    assert main(["predict", "--ckpt_path", str(path), "--top_k=2"]) == 0
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    assert list(rows[0]) == ["stream", "step", "label", "class_1", "probability_1", "class_2", "probability_2"]
    assert [(row["stream"], row["step"]) for row in rows] == [(f"test-0-{i}", "34") for i in range(12)]
    assert {row["label"][:4] for row in rows} == {"cue "}
    assert main(["predict", "--ckpt_path", str(path), "--video=x.mp4"]) == 2
    assert "--video x.mp4 with LongMemory" in capfd.readouterr().err


def test_numbers_are_predicted_beside_their_targets(tmp_path):
    table = StepTable(tmp_path / "out.csv", None)
    assert table.head() == ["stream", "step", "target", "prediction"]
    assert table.row("a@b@400", 0.5, torch.tensor([0.25])) == ["a@b", "400", "0.5", "0.25"]
    assert table.row("a@1", float("nan"), torch.tensor([0.25]))[2] == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"memory": "gru"}, "memory lstm (configured: gru). Add --model.memory lstm"),
        ({"rule": "truncated_backprop"}, "rule memup (configured: truncated_backprop)"),
        ({"detector": "surprise"}, "detector entropy (configured: surprise)"),
        ({"input_kind": "symbols"}, "input_kind frames (configured: symbols). Choose the --data"),
        ({"wiring": "concat"}, "wiring chain (configured: concat)"),
        ({"memory": "transformer", "window": None}, "window"),
    ],
)
def test_a_checkpoint_of_another_memory_is_refused(trained, change, says):
    path = trained[2]
    own = torch.load(path, weights_only=True)["skip_sideways"]["identity"]
    known = own | {"window": None, "rollout": 6}
    check_identity(path, {"identity": own}, identity(known))
    with pytest.raises(ValueError) as error:
        check_identity(path, {"identity": own}, identity(known | change))
    assert says in str(error.value)


def test_what_a_memory_does_not_read_or_use_is_no_part_of_it():
    symbols = {"memory": "lstm", "rule": "full_backprop", "detector": "entropy", "input_kind": "symbols"}
    assert identity(symbols | {"wiring": "chain", "depth": 3}) == identity(symbols | {"detector": "surprise"})
    assert identity(symbols) != identity(symbols | {"memory": "gru"})
    assert memory_names(symbols | {"wiring": "chain", "select": "top_k"}, "symbols") == {
        "network": "lstm", "wiring": "", "detector": "", "encoder": ""
    }  # fmt: skip
    frames = {"memory": "gru", "rule": "memup", "select": "top_k", "detector": "surprise", "wiring": "concat"}
    assert memory_names(frames | {"encoder": "sideways"}, "frames") == {
        "network": "gru", "wiring": "concat", "detector": "surprise", "encoder": "sideways"
    }  # fmt: skip
    assert memory_names({"rule": "sideways"}, "") == {"detector": "", "encoder": ""}


def test_long_streams_need_a_memory(tmp_cwd, capfd):
    assert main(["fit", "--data=CuedVideo", *(f"--trainer.{key}={value}" for key, value in QUIET.items())]) == 2
    assert "CuedVideo gives long streams, and ActionRecognition learns from clips; add --model LongMemory" in (
        capfd.readouterr().err
    )


def test_a_comparison_over_the_gap_names_its_memory():
    comparison = read_comparison(
        {
            "name": "gaps", "intent": "x", "control": "truncated", "seeds": [0],
            "experiment": {
                "model": {"class_path": "LongMemory", "init_args": {"memory": "gru"}},
                "data": {"class_path": "CopySequences"},
            },
            "variants": [{"name": f"gap{gap}", "overrides": {"data.init_args.gap": gap}} for gap in (20, 40)],
            "rows": [{"name": "memup"}, {"name": "truncated", "overrides": TRUNCATED}],
        }
    )  # fmt: skip
    cells = build_grid(comparison)
    assert [cell.row for cell in cells] == ["memup@gap20", "truncated@gap20", "memup@gap40", "truncated@gap40"]
    assert (cells[3].facts()["network"], cells[3].facts()["wiring"]) == ("gru", "-")
    assert cells[3].config["data"]["init_args"]["gap"] == 40
    assert heading("test/mse", "lower", comparison.predicts_frames) == "MSE (lower is better)"


EXPERIMENT = {
    "trainer": QUIET | {"max_steps": 8, "max_epochs": 20, "accelerator": "cpu"},
    "model": {"class_path": "LongMemory", "init_args": {"rollout": 6, "k": 2, "hidden": 8, "detector_updates": 2}},
    "data": {
        "class_path": "CopySequences",
        "init_args": DATA | {"gap": 6, "symbols": 2, "train_streams": 16, "val_streams": 4, "test_streams": 4},
    },
}


@pytest.mark.slow
def test_a_comparison_over_the_gap_runs_and_a_sweep_searches(tmp_cwd, mlflow_store, capfd):
    rows = [{"name": rule, "overrides": {"model.init_args.rule": rule}} for rule in ("memup", "truncated_backprop")]
    variants = [{"name": f"gap{gap}", "overrides": {"data.init_args.gap": gap}} for gap in (6, 12)]
    content = {"name": "gaps", "intent": "x", "control": "truncated_backprop", "cell_seconds": 5, "seeds": [0]}
    content |= {"experiment": EXPERIMENT, "rows": rows, "variants": variants}
    (tmp_cwd / "gaps.yaml").write_text(yaml.safe_dump(content))
    assert main(["compare", "--config", "gaps.yaml", "--jobs", "1"]) == 0
    table = (tmp_cwd / "runs/comparisons/gaps/results.md").read_text()
    assert "| memup@gap6 | memup | - | default |" in table
    assert "4 streams of 10 steps, scored at 2 steps (memup@gap6, truncated_backprop@gap6)" in table
    assert "Videos" not in table
    tags = [run.data.tags for run in runs(mlflow_store, "gaps")]
    found = {(tag["row"], tag["gap"], tag["network"]) for tag in tags if "row" in tag}
    assert found == {(f"{row['name']}@gap{gap}", str(gap), "lstm") for row in rows for gap in (6, 12)}
    (tmp_cwd / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    (tmp_cwd / "space.yaml").write_text(yaml.safe_dump({"model.init_args.memory": ["lstm", "gru"]}))
    sweep = ["sweep", "--config", "tiny.yaml", "--space", "space.yaml", "--trials", "2", "--jobs", "1"]
    assert main(sweep) == 0, capfd.readouterr().err
    assert "val/top1" in capfd.readouterr().out


def test_a_sweep_maximises_the_share_of_right_answers():
    assert default_objective("LongMemory") == "val/top1:maximize"
