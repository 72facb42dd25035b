"""Stand-ins for training, importable by spawned workers: they answer from the configuration in no time."""

import os
import time
from pathlib import Path


def scores(config, *, tags, parent_run_id, experiment_name):
    """A top-1 that depends on rule, fold and seed alone; `model.init_args.behaviour` makes it misbehave."""
    model, fold = config["model"]["init_args"], config["data"]["init_args"].get("fold", 0)
    seed = config["seed_everything"]
    if (trace := os.environ.get("FAKE_TRACE")) is not None:
        with Path(trace).open("a") as file:
            file.write(f"{tags['row']} {fold} {seed} {os.environ['OMP_NUM_THREADS']} {os.getpid()}\n")
    print(f"output of {tags['row']}")
    behaviour = model.get("behaviour", "good")
    if behaviour == "raise":
        raise RuntimeError("the loss is nan\nsecond line")
    if behaviour == "die":
        os._exit(7)
    if behaviour == "exit":
        raise SystemExit(1)
    if behaviour == "sleep":
        time.sleep(60)
    if behaviour == "burn":
        started = time.process_time()
        while time.process_time() - started < 0.05:
            pass
    base = {"frozen": 0.5, "exact": 0.9, "sideways": 0.6, "good": 0.8}.get(model["rule"], 0.7)
    metrics = {
        "test/top1": base + 0.02 * fold + 0.001 * seed + model.get("lr", 0.0),
        "test/loss": float("nan") if behaviour == "diverge" else 0.4,
        "train/frames_per_second": 1234.0,
        "latency/step_p50_ms": 12.5,
        "latency/step_p95_ms": 15.0,
        "latency/tick_ms": 1.25,
        "memory/saved_tensors_mib": 3.5,
        "memory/peak_mib": 300.0 + seed,
        "alignment/unit_1": 0.25,
        "alignment/unit_2": 0.75,
        "weight_change/unit_1": 0.01,
    }
    return {"run_id": f"run-{tags['row']}-{fold}-{seed}", "metrics": metrics}
