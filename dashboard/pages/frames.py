"""Predicted frames: what each run predicts, frame by frame."""

from __future__ import annotations

import streamlit as st


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    st.title("Predicted frames", anchor=False)
