"""In what order the work is done, and what is held meanwhile: the vectorised and the pipelined executor."""

from lightning_modules.execution.arguments import EXECUTORS, check_combination, check_stream
from lightning_modules.execution.clip_gradients import (
    ClipAnswers,
    ClipGradients,
    clip_answers,
    clip_gradients,
    clip_logits,
)
from lightning_modules.execution.pipeline_state import PipelineState
from lightning_modules.execution.pipelined import Pipeline, make_pipeline
from lightning_modules.execution.replayed import ReplayMemory

__all__ = [
    "EXECUTORS",
    "ClipAnswers",
    "ClipGradients",
    "Pipeline",
    "PipelineState",
    "ReplayMemory",
    "check_combination",
    "check_stream",
    "clip_answers",
    "clip_gradients",
    "clip_logits",
    "make_pipeline",
]
