"""Train and test one configuration from Python: what `compare` and notebooks call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def run_experiment(
    config: Mapping[str, Any],
    *,
    tags: Mapping[str, str] | None = None,
    parent_run_id: str | None = None,
    experiment_name: str | None = None,
    quiet: bool = False,
    callbacks: Sequence[Any] = (),
    should_test: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Run fit and then test, with the final weights, in this process.

    `config`: as a `fit` YAML holds it: seed_everything, trainer, model, data, checkpoint; a class by its path or short
    name. `tags`: run layout tags to set (`row`, `comparison`). `quiet`: no progress bar, no tables. `callbacks`:
    further ones of the trainer's. `should_test`: asked after the training.
    Returns {"run_id": MLflow's id, None without a logger, "metrics": every metric's last value by name, "layout": the
    run layout, "about": what figures of predicted frames are about, as in future_frames.json (None of other tasks)}.
    ValueError: the configuration makes no sense, or asks for several processes.
    """
    from app.noise import without_noise
    from app.trainer_cli import SkipSidewaysCLI

    with without_noise(quiet):
        cli = SkipSidewaysCLI(
            tags=tags,
            parent_run_id=parent_run_id,
            experiment_name=experiment_name,
            run=False,
            args=_prepared(config, quiet),
        )
        if getattr(cli.trainer.strategy, "makes_a_team", False):
            raise ValueError(
                "trainer.strategy depth_parallel starts its processes by running the command again, which only "
                "`skip-sideways fit` is made for; here every run is one process: leave trainer.strategy out"
            )
        cli.trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        metrics = dict(cli.trainer.callback_metrics)  # the test starts them anew
        if should_test():
            cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=not quiet)
    metrics |= cli.trainer.callback_metrics
    found = {name: float(value) for name, value in metrics.items()}
    about = cli.model.artifact() if getattr(cli.model, "frame_targets", False) else None
    rest = {"layout": cli.tracked.layout, "about": about}
    logger = cli.tracked.logger
    if logger is None:
        return {"run_id": None, "metrics": found, **rest}
    return {"run_id": logger.version, "metrics": found | logger.latest, **rest}


def _prepared(config: Mapping[str, Any], quiet: bool) -> dict[str, Any]:
    trainer = dict(config.get("trainer") or {})
    if quiet:
        trainer |= {"enable_progress_bar": False, "enable_model_summary": False}
    return {**config, "trainer": trainer}
