"""Run: one run, in full."""

from __future__ import annotations

import streamlit as st


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    st.title("Run", anchor=False)
