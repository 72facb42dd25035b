"""What the page says when there is nothing to show: why, and the command to type. Never a stack trace."""

from __future__ import annotations

import streamlit as st

from dashboard.names import code, escaped
from dashboard.plain import sentence

FILL = "make demo"
SWEEP = "skip-sideways sweep --config EXPERIMENT.yaml --space SPACE.yaml --trials 20"
SWEEP_NOW = (
    "skip-sideways sweep --config app/configs/experiments/digits_direction.yaml "
    "--space app/configs/sweeps/small.yaml --set trainer.max_epochs=1 --trials 8"
)
FILL_COMMAND = "skip-sideways compare --config app/configs/comparisons/demo.yaml"


def nothing_yet(reason: str, uri: str) -> None:
    """Show that the store at `uri` has no runs, and the commands that fill it."""
    st.info(f"**No runs yet.** {escaped(reason)}")
    st.markdown("Train and compare on the generated data set (a few minutes, no download):")
    st.code(FILL, language="bash")
    st.markdown("or, in an environment that is already set up:")
    st.code(FILL_COMMAND, language="bash")
    _other_store(uri)


def no_study(reason: str, uri: str) -> None:
    """Show that the store at `uri` has no study, and the command that makes one."""
    st.info(f"**No study yet.** {escaped(reason)}")
    st.markdown("Let Optuna choose the settings of an experiment (`SPACE.yaml`: which keys, and their ranges):")
    st.code(SWEEP, language="bash")
    st.markdown("or, with what is here (a few minutes, no download):")
    st.code(SWEEP_NOW, language="bash", wrap_lines=True)
    _other_store(uri)


def no_answer(reason: str, uri: str) -> None:
    """Show that the store at `uri` does not answer, with MLflow's own reason."""
    st.error(f"**The tracking store does not answer.** {sentence(reason)}")
    st.markdown("Check the address, start the server, or let `doctor` look at it:")
    st.code("skip-sideways doctor", language="bash")
    _other_store(uri)


def _other_store(uri: str) -> None:
    st.markdown(f"This page reads {code(uri)}. To read another store:")
    st.code("skip-sideways dashboard --tracking-uri sqlite:////path/to/mlflow.db", language="bash")
