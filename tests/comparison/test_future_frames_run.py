"""From a YAML file of future frames to its table and its picture, with real training of two rows."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml
from test_report import columns

from app.compare import main

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "name": "tiny_future",
    "intent": "End to end in seconds",
    "experiment": {
        "trainer": {"max_steps": 2, "accelerator": "cpu", "log_every_n_steps": 1, "limit_val_batches": 0},
        "model": {
            "class_path": "FutureFrames",
            "init_args": {"wiring": "concat", "width": 0.25, "horizon": 2, "saved_clips": 2},
        },
        "data": {
            "class_path": "MovingDigits",
            "init_args": {"frames": 15, "size": 32, "batch_size": 4, "train_clips": 8, "val_clips": 4, "test_clips": 8},
        },
    },
    "metric": "test/mse",
    "better": "lower",
    "control": "exact",
    "bounds": [{"row": "sideways", "versus": "copy_last", "horizons": [1, 2], "at_most": 0}],
    "rows": [
        {"name": "sideways", "overrides": {"model.init_args": {"rule": "sideways", "wiring": "chain"}}},
        {"name": "exact", "overrides": {"model.init_args.rule": "backprop_shifted"}},
    ],
}


@pytest.mark.slow
def test_from_yaml_to_table_and_picture(tmp_cwd, mlflow_store):
    (tmp_cwd / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(["--config", "tiny.yaml", "--jobs", "1", "--output", "out"]) == 0
    text = (tmp_cwd / "out" / "results.md").read_text()
    assert [columns(text, "## Results", row)["Lmin"] for row in ("sideways", "exact", "copy_last")] == ["6", "4", "-"]
    assert columns(text, "## SSIM per horizon", "mean_last").keys() == {"row", "k = 1", "k = 2", "mean"}
    assert "SSIM: SSIM of each frame" in text
    records = json.loads((tmp_cwd / "out" / "results.json").read_text())["rows"]
    assert all(record["protocols"].keys() >= {"mse", "psnr_db", "ssim"} for record in records)
    assert "sideways - copy_last: test/mse_2 <= 0" in text
    assert "Not the same test" not in text, "a chain and its skips are scored on the same frames"
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "benchmarks/future_frames/pictures.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules["pictures"] = script
    spec.loader.exec_module(script)
    assert script.main(["out", "--rows", "sideways", "exact", "--output", "picture"]) == 0
    assert Path("picture.png").is_file()
    assert Path("picture.gif").is_file()
