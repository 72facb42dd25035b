"""Greedy rules on the command line: what a run prints and logs of its modules, and that it goes on after a stop."""

import pytest
from mlflow import MlflowClient

from app.cli import main

ARGV = [
    *("fit", "--data=MovingDigits", "--data.batch_size=2", "--data.val_clips=4", "--data.frames=8", "--model.depth=4"),
    *("--model.width=0.25", "--model.rule=greedy", "--trainer.max_steps=4", "--trainer.val_check_interval=2"),
    *("--trainer.check_val_every_n_epoch=null", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"),
    "--trainer.enable_progress_bar=false",
]


def metrics_of(uri):
    client = MlflowClient(uri)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return run.data.metrics


@pytest.mark.parametrize("rule", ["greedy", "greedy_frame"])
def test_a_run_says_what_its_heads_cost_and_logs_every_module(rule, tmp_cwd, mlflow_store, caplog):
    caplog.set_level("INFO")
    assert main([*ARGV, f"--model.rule={rule}"]) == 0
    assert "modules on a frame of 32 x 32 pixels of 1 channel, and their heads:\nmodule  units" in caplog.text
    logged = metrics_of(mlflow_store)
    for j in (1, 2, 3):
        assert {f"val/top1/module_{j}", f"train/loss/module_{j}", f"cost/macs/module_{j}"} <= set(logged)
    assert logged["val/top1/module_3"] == logged["val/top1"]  # whose last unit is the network's
    assert "val/top1/ensemble" in logged
    assert "cost/head_macs/module_3" not in logged
    assert logged["cost/mac_share/module_1"] == logged["cost/head_macs/module_1"] / logged["cost/macs/module_1"]


def test_buffers_and_codebooks_of_an_asynchronous_run_are_logged(tmp_cwd, mlflow_store):
    assert main([*ARGV, "--model.replay=2", "--model.vq_groups=2", "--model.vq_codes=4"]) == 0
    logged = metrics_of(mlflow_store)
    assert {"buffer/age/module_2", "buffer/bytes/module_3", "updates/module_1", "perplexity/unit_1"} <= set(logged)
    assert logged["updates/module_1"] == 4
    assert 1 <= logged["perplexity/unit_1"] <= 4
    assert logged["bits_per_position/unit_1"] == 2 * 2
