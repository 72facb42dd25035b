"""How many updates a fit makes, which schedules of learning rates are made for, and what asking leaves to mend.

configure_optimizers    updates_of: Lightning sets the loaders up, so that batches can be counted
checkpoint loaded       loaders that stand already do not hear of their place in the epoch
on_train_start          restore_loaders: they do
"""

from lightning import Trainer

from lightning_modules.optimisation import planned_updates


def updates_of(trainer: Trainer, schedule: str, accumulate: int = 1) -> int:
    """Return how many updates the fit makes; 1 where nothing limits it and the schedule is constant.

    Args:
        trainer: about to fit.
        schedule: of the learning rates, by name.
        accumulate: batches that make an update.

    Raises:
        ValueError: nothing limits the fit, and the schedule has to end.
    """
    # Asking for Lightning's own estimate, which knows nothing of our accumulation, sets the loaders up.
    trainer.estimated_stepping_batches  # noqa: B018
    updates = planned_updates(trainer.num_training_batches, accumulate, trainer.max_epochs, trainer.max_steps)
    if updates is None and schedule != "constant":
        raise ValueError(f"schedule {schedule!r} needs an end; set max_epochs or max_steps, or schedule 'constant'")
    return updates or 1


def restore_loaders(trainer: Trainer) -> None:
    """Give loaders of a resumed fit their place in the epoch: `updates_of` had them set up before it was read."""
    trainer.fit_loop._load_combined_loader_states()
