"""Callbacks that measure a run: step time, memory, tick latency, skipped videos, the confusion matrix of its test."""

from lightning_modules.callbacks.confusion import ConfusionArtifact
from lightning_modules.callbacks.skipped_clips import SkippedClips
from lightning_modules.callbacks.step_memory import StepMemory
from lightning_modules.callbacks.step_time import StepTime
from lightning_modules.callbacks.tick_latency import TickLatency

__all__ = ["ConfusionArtifact", "SkippedClips", "StepMemory", "StepTime", "TickLatency"]
