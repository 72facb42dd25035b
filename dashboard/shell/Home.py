"""The dashboard's entry: the seven pages and the navigation between them. Run by `skip-sideways dashboard`.

    shell/Home.py --- st.navigation ---> pages/NAME.py: draw(uri)

A page's module is imported when the page is opened, so that each page pays only for what it shows. This script does not
stand beside pages/: until its first `st.navigation` Streamlit would run the files of such a folder as pages themselves,
and the first visit of /cost would be blank.
"""  # noqa: N999 - Streamlit shows the file name as the page name

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import streamlit as st

from dashboard import links, refresh
from dashboard.runs import tracking_uri

# Streamlit's wide layout leaves 5 to 6 rem empty around the page; the table needs the width on a small laptop.
STYLE = (
    ".stMainBlockContainer {padding: 4rem 2.5rem 3rem} "
    # Streamlit's own small print is too pale to read well: 3.5 to 1 on white.
    "[data-testid=stCaptionContainer], [data-testid=stCaptionContainer] * {color: #555; opacity: 1} "
    ".stMarkdown code {color: inherit} "
    "@media (max-width: 640px) {.stMainBlockContainer {padding: 4rem 1rem 3rem} "
    # A telephone shows the table first, then the seven boxes, then the list of runs.
    "[data-testid=stLayoutWrapper]:has(> .st-key-filters) {order: 1} "
    "[data-testid=stLayoutWrapper]:has(> .st-key-below) {order: 2}}"
)
PAGES = {  # module in dashboard/pages and address: title. No icons: a browser would fetch them from Google
    "compare": "Compare",
    "cost": "Accuracy against cost",
    "frames": "Predicted frames",
    "learning": "Learning",
    "memory": "Memory",
    "run": "Run",
    "sweep": "Sweep",
}


def main() -> None:
    """Draw the page that the address names for the store of `tracking_uri()`."""
    pages = [
        st.Page(opener(name), title=title, url_path=name, default=name == "compare") for name, title in PAGES.items()
    ]
    page = st.navigation(pages, position="top")
    st.set_page_config(page_title=f"{page.title} · skip-sideways", layout="wide")
    st.html(f"<style>{STYLE}</style>")
    with links.written():
        page.run()
    refresh.follow(tracking_uri())


def opener(name: str) -> Callable[[], None]:
    """Return the function that imports and draws one page."""
    return lambda: import_module(f"dashboard.pages.{name}").draw(tracking_uri())


main()
