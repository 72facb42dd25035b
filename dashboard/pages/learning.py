"""Learning: any logged metric over training."""

from __future__ import annotations

import streamlit as st


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    st.title("Learning", anchor=False)
