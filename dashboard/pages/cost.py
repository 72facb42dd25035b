"""Accuracy against cost: what a point of accuracy costs in time and memory."""

from __future__ import annotations

import streamlit as st


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    st.title("Accuracy against cost", anchor=False)
