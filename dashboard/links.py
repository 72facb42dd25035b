"""Every choice on every page is in the address, so that an address is a link to the view, and is restored from it.

    address --(first run, Back, a link)--> widget --(click)--> address
                                             |
                                             +--> kept for the session: the next page opens with the same choice

Also what is merely the default is written, since a default such as "the newest data set" is another one tomorrow; in
place of the page's bare address, so that one step back leaves the page. Values that no longer exist are dropped. A page
that does not offer what was chosen elsewhere shows its default and keeps the choice for the pages that do.
Use these in place of Streamlit's widgets; a key means the same on every page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlencode

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

Option = TypeVar("Option", str, int, float)
_KEPT = "links kept"  # in the session; key: the texts that go along to the next page
_SHOWN = "links shown"  # in the session; key: the texts that the address has, or will have at the end of this run
_SEEN = "links seen"  # in the session; key: the page that drew it last
_DRAWN = "links drawn"  # in the session: the keys of the page so far
# Streamlit writes an address as a further entry of the browser's history. A bare address that gets its choices is no
# further step of a person's.
_ONE_ENTRY = """<script>
if (!window.linksInPlace) {
  window.linksInPlace = true;
  const push = history.pushState.bind(history);
  history.pushState = (state, title, url) => {
    const bare = !location.search && new URL(url, location.href).pathname === location.pathname;
    bare ? history.replaceState(state, title, url) : push(state, title, url);
  };
}
document.currentScript?.remove();
</script>"""


def choose(
    label: str,
    options: Mapping[str, str] | Sequence[Option],
    key: str,
    *,
    default: Option | None = None,
    resets: Sequence[str] = (),
    **settings: Any,
) -> Any:
    """Draw a box of one choice and return its value.

    Args:
        label: what a person and a screen reader read above it.
        options: values, or values with the titles to show; at least one.
        key: the query parameter and the widget's key.
        default: the value without an address; the first option where not given.
        resets: keys drawn below whose choices mean nothing once this one changes.
        settings: further arguments of `st.selectbox`.
    """
    values = list(options)
    first = default if default in values else values[0]
    _seed(key, values, [first], single=True)
    if isinstance(options, Mapping):
        settings["format_func"] = lambda value: str(options.get(value, value))
    value = st.selectbox(label, values, key=key, **settings)
    _remember(key, [value], resets)
    return value


def choose_many(
    label: str,
    options: Mapping[str, str] | Sequence[Option],
    key: str,
    *,
    default: Sequence[Option] = (),
    **settings: Any,
) -> list[Any]:
    """Draw a box of any number of choices and return their values; `settings` go to `st.multiselect`."""
    values = list(options)
    _seed(key, values, [value for value in default if value in values], single=False)
    if isinstance(options, Mapping):
        settings["format_func"] = lambda value: str(options.get(value, value))
    chosen = st.multiselect(label, values, key=key, **settings)
    _remember(key, chosen)
    return chosen


def slide(label: str, options: Sequence[Option], key: str, *, default: Option | None = None, **settings: Any) -> Any:
    """Draw a slider over `options` (at least two) and return the value; `settings` go to `st.select_slider`."""
    values = list(options)
    _seed(key, values, [default if default in values else values[0]], single=True)
    value = st.select_slider(label, values, key=key, **settings)
    _remember(key, [value])
    return value


def switch(label: str, key: str, *, default: bool = False, **settings: Any) -> bool:
    """Draw a switch and return whether it is on; `settings` go to `st.toggle`."""
    _seed(key, [False, True], [default], single=True, read={"off": False, "on": True})
    value = st.toggle(label, key=key, **settings)
    _remember(key, ["on" if value else "off"])
    return value


def asked(key: str) -> list[str]:
    """Return what the address asks for under `key` (empty: nothing), before any widget has drawn it."""
    return list(st.query_params.get_all(key)) or list(_kept().get(key, []))


def address(page: str, **parameters: str | Sequence[str]) -> str:
    """Return the address of a page of the dashboard with these choices, relative to its root."""
    path = "" if page == "compare" else page
    return f"/{path}?{urlencode(parameters, doseq=True)}" if parameters else f"/{path}"


def absent(key: str) -> None:
    """Say that the page draws no choice of `key` now: what the address asks for under it is dropped."""
    st.session_state.setdefault(_DRAWN, set()).add(key)
    _shown().pop(key, None)


@contextmanager
def written() -> Iterator[None]:
    """Bring the address up to date with what a page draws inside, in one step: one entry in the browser's history."""
    st.session_state[_DRAWN] = set()
    st.html(_ONE_ENTRY, unsafe_allow_javascript=True)
    try:
        yield
    finally:  # a page that ends early by `st.stop()` is a link too
        _write({key: _shown().get(key, []) for key in st.session_state[_DRAWN]})


def _write(changes: Mapping[str, list[str]]) -> None:
    """Put `changes` into the address in one step; an empty list takes its key out."""
    present = {key: list(st.query_params.get_all(key)) for key in st.query_params}
    wanted = {key: texts for key, texts in {**present, **changes}.items() if texts}
    if wanted != present:
        st.query_params.from_dict(wanted)


def _kept() -> dict[str, list[str]]:
    return st.session_state.setdefault(_KEPT, {})


def _shown() -> dict[str, list[str]]:
    return st.session_state.setdefault(_SHOWN, {})


def _seed(
    key: str, values: list[Any], default: list[Any], *, single: bool, read: Mapping[str, Any] | None = None
) -> None:
    """Put the value into the session before its widget is drawn: from the address, the last page or the default."""
    by_text = dict(read) if read else {str(value): value for value in values}
    if _on_another_page(key):
        # Set anew below: the widget of the same key on the page before is another one to Streamlit, and keeps its
        # value. Only then: a value that is set goes back to the browser, where a person may be one key ahead.
        _shown().pop(key, None)
        st.session_state.pop(key, None)
    given, shown = list(st.query_params.get_all(key)), _shown().get(key)
    moved = bool(given) and given != shown  # by Back, by hand, or this is the first run
    if key in st.session_state and (not moved or _clicked(key, by_text, shown, single=single)):
        present = st.session_state[key]
        if all(value in values for value in ([present] if single else present)):
            return
    for texts in (given, _kept().get(key, [])):
        found = [by_text[text] for text in texts if text in by_text]
        if found:
            st.session_state[key] = found[0] if single else found
            if texts is given:
                _kept()[key] = texts
            break
    else:
        st.session_state[key] = default[0] if single else default
    _shown().pop(key, None)


def _clicked(key: str, by_text: Mapping[str, Any], shown: list[str] | None, *, single: bool) -> bool:
    """Return whether the widget has another value than was shown: a click, whose run may carry an older address."""
    present = st.session_state[key]
    chosen = [present] if single else present
    return shown is not None and chosen != [by_text[text] for text in shown if text in by_text]


def _on_another_page(key: str) -> bool:
    """Return whether the widget was last drawn on another page, and take note of this one."""
    context = get_script_run_ctx()
    here = context.page_script_hash if context else ""
    seen = st.session_state.setdefault(_SEEN, {})
    before = seen.get(key)
    seen[key] = here
    return before is not None and before != here


def _remember(key: str, chosen: Sequence[Any], resets: Sequence[str] = ()) -> None:
    texts = [str(value) for value in chosen]
    st.session_state.setdefault(_DRAWN, set()).add(key)
    before = _shown().get(key)
    if before == texts:
        return
    _shown()[key] = texts
    if before is None:  # drawn for the first time: `written` puts it in the address with the others
        _kept().setdefault(key, texts)
        return
    _kept()[key] = texts
    if list(st.query_params.get_all(key)) == texts:
        return  # the address moved first
    for other in resets:
        _kept().pop(other, None)
        _shown().pop(other, None)
        st.session_state.pop(other, None)
    # at once, so that a click inside a fragment reaches the address too
    _write({key: texts, **{other: [] for other in resets}})
