"""The comparison table as files: csv with every number in full, LaTeX as it is printed. No Streamlit, no MLflow."""

from __future__ import annotations

import pandas as pd

from dashboard import display
from dashboard.names import cell, latex
from dashboard.scores import Score
from dashboard.tables import DIFFERENCE


def csv(table: pd.DataFrame, score: Score) -> str:
    """Return the table as csv: settings, counts, means, standard deviations, the difference and its interval.

    Columns without any value are left out; a text that a spreadsheet would run as a formula gets an apostrophe.
    """
    named = table.rename(columns={name: f"{score.metric} {name}" for name in DIFFERENCE})
    filled = named.replace("", None).dropna(axis="columns", how="all")
    return filled.map(cell).to_csv(index=False)


def latex_table(table: pd.DataFrame, score: Score) -> str:
    """Return the table as it stands on the page, for LaTeX with the package booktabs."""
    columns = [name for name in display.shown_columns(table, score) if name not in ("swatch", "id_hash", "videos")]
    texts = display.texts(table, columns, score)
    given = {name: texts.get(name, [str(value) for value in table[name]]) for name in columns}
    heads = [latex(display.header(name, score)[0]) for name in columns]
    wide = "".join("l" if name in ("line", *display.SETTINGS) else "r" for name in columns)
    lines = [" & ".join(latex(given[name][index]) for name in columns) for index in range(len(table))]
    body = "\n".join(f"{line} \\\\" for line in lines)
    return (
        f"\\begin{{tabular}}{{{wide}}}\n\\toprule\n{' & '.join(heads)} \\\\\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}\n"
    )
