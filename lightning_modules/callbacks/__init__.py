"""Callbacks that measure a run, or store what its figures are about: clock, confusion matrix, costs, chosen steps."""

from lightning_modules.callbacks.chosen_steps import ChosenSteps
from lightning_modules.callbacks.clock import ClockArtifact
from lightning_modules.callbacks.confusion import ConfusionArtifact
from lightning_modules.callbacks.frame_protocol import FrameProtocol
from lightning_modules.callbacks.module_costs import ModuleCosts
from lightning_modules.callbacks.skipped_clips import SkippedClips
from lightning_modules.callbacks.step_memory import StepMemory
from lightning_modules.callbacks.step_time import StepTime
from lightning_modules.callbacks.tick_latency import TickLatency

__all__ = [
    "ChosenSteps",
    "ClockArtifact",
    "ConfusionArtifact",
    "FrameProtocol",
    "ModuleCosts",
    "SkippedClips",
    "StepMemory",
    "StepTime",
    "TickLatency",
]
