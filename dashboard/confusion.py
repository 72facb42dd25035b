"""A run's confusion matrix, from its artifact `confusion.json`: per-class table and the chart. No Streamlit, no MLflow.

Rows are the true class, columns the predicted one; a cell is the number of test videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dashboard.names import clean

MOST_CLASSES = 2000
DRAWN_CLASSES = 30
_NUMBERED_CLASSES = 16


class NoMatrix(ValueError):  # noqa: N818 - reads as a sentence
    """A confusion.json that holds no square matrix of counts."""


def read_matrix(content: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """Return class names and counts (K, K). Raises NoMatrix. Classes without a name are numbered."""
    try:
        counts = np.array(content["matrix"], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise NoMatrix(f"confusion.json holds no matrix of counts ({type(error).__name__}).") from error
    if (
        counts.ndim != 2
        or counts.shape[0] != counts.shape[1]
        or not 0 < len(counts) <= MOST_CLASSES
        or counts.min() < 0
    ):
        raise NoMatrix(
            f"confusion.json holds counts of shape {counts.shape}; expected K x K, K from 1 to {MOST_CLASSES}."
        )
    given = content.get("class_names")
    names = [clean(str(name)) for name in given] if isinstance(given, list) else []
    names += [f"class {number}" for number in range(len(names), len(counts))]
    return _different(names[: len(counts)]), counts


def _different(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    return [name if seen[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]


def per_class(names: list[str], counts: np.ndarray) -> pd.DataFrame:
    """Return a line a class: videos, accuracy (NaN without a video), what it is most often taken for, how often."""
    wrong = counts - np.diag(np.diag(counts))
    total = counts.sum(axis=1)
    accuracy = np.divide(np.diag(counts), total, out=np.full(len(names), np.nan), where=total > 0)
    most = wrong.argmax(axis=1)
    taken = [names[other] if wrong[own, other] else "" for own, other in enumerate(most)]
    return pd.DataFrame(
        {"class": names, "videos": total, "accuracy": accuracy, "taken for": taken, "times": wrong.max(axis=1)}
    )


def drawn_classes(counts: np.ndarray) -> np.ndarray:
    """Return the classes to draw, in order: all of them, or the DRAWN_CLASSES with most mistakes to or from them."""
    wrong = counts - np.diag(np.diag(counts))
    mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
    return np.sort(np.argsort(-mistakes, kind="stable")[:DRAWN_CLASSES])


def chart(names: list[str], counts: np.ndarray) -> alt.LayerChart:
    """Return the matrix of `drawn_classes`: shade is the share of the true class, the number the count."""
    chosen = drawn_classes(counts)
    drawn = [names[index] for index in chosen]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = pd.DataFrame(
        [
            {"true": names[i], "predicted": names[j], "videos": int(counts[i, j]), "share": float(share[i, j])}
            for i in chosen
            for j in chosen
        ]
    )
    base = alt.Chart(cells).encode(
        x=alt.X("predicted:N", sort=drawn, title="Predicted", axis=alt.Axis(labelAngle=-45, labelLimit=90)),
        y=alt.Y("true:N", sort=drawn, title="True", axis=alt.Axis(labelLimit=90)),
        tooltip=["true:N", "predicted:N", "videos:Q", alt.Tooltip("share:Q", format=".0%")],
    )
    shade = alt.Color("share:Q", title="Share of the true class", scale=alt.Scale(scheme="blues", domain=[0, 1]),
                      legend=alt.Legend(orient="bottom", format=".0%"))  # fmt: skip
    layers = base.mark_rect(stroke="#D5D8DD").encode(color=shade)
    if len(drawn) <= _NUMBERED_CLASSES:
        dark = alt.condition("datum.share > 0.5", alt.value("white"), alt.value("#262730"))
        layers += base.transform_filter("datum.videos > 0").mark_text().encode(text="videos:Q", color=dark)
    else:
        layers += base.transform_filter("false").mark_text()
    return layers.properties(width="container", height=240 + 26 * len(drawn))
