"""Choices and the address: restored from it, written to it, carried to the next page, dropped where they are gone."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import links


def script():
    import streamlit as st

    from dashboard import links

    with links.written():
        data = links.choose("Data", {"a": "Set A", "b": "Set B"}, "data", resets=["rows"])
        rows = links.choose_many("Rows", [f"{data}1", f"{data}2"], "rows")
        step = links.slide("Step", [1, 2, 3], "step", default=2)
        on = links.switch("Difference", "difference")
        st.text(f"{data} {rows} {step} {on}")


@pytest.fixture
def open_with():
    def run(**parameters):
        page = AppTest.from_function(script)
        for name, value in parameters.items():
            page.query_params[name] = value
        page.run()
        assert not page.exception
        return page

    return run


def shown(page):
    assert not page.exception
    return page.text[0].value


def test_the_address_is_written_in_full_and_opens_the_same_view(open_with):
    page = open_with()
    assert shown(page) == "a [] 2 False"
    assert page.query_params == {"data": "a", "step": "2", "difference": "off"}
    page.multiselect[0].set_value(["a2", "a1"])
    page.toggle[0].set_value(True)
    page.select_slider[0].set_value(3).run()
    assert page.query_params == {"data": "a", "step": "3", "difference": "on", "rows": ["a2", "a1"]}
    assert shown(open_with(**page.query_params)) == shown(page) == "a ['a2', 'a1'] 3 True"


def test_what_no_longer_exists_is_dropped(open_with):
    page = open_with(data="gone", rows=["a1", "gone"], step="9", difference="<b>", other="kept")
    assert shown(page) == "a ['a1'] 2 False"
    assert page.query_params == {"data": "a", "rows": "a1", "step": "2", "difference": "off", "other": "kept"}


def test_another_choice_resets_what_it_makes_meaningless(open_with):
    page = open_with(data="a", rows=["a1"])
    page.selectbox[0].set_value("b").run()
    assert shown(page) == "b [] 2 False"
    assert "rows" not in page.query_params


def test_an_address_that_changes_under_the_page_is_followed(open_with):
    """The browser's Back."""
    page = open_with(data="a", rows=["a1"])
    page.query_params["data"] = "b"
    page.query_params["rows"] = ["b2"]
    page.query_params["step"] = "1"
    page.run()
    assert shown(page) == "b ['b2'] 1 False"


def test_an_emptied_choice_leaves_the_address(open_with):
    page = open_with(rows=["a1"])
    page.multiselect[0].set_value([]).run()
    assert shown(page) == "a [] 2 False"
    assert "rows" not in page.query_params


def pages():
    import streamlit as st

    from dashboard import links

    here = st.session_state.get("here", "one")
    links.get_script_run_ctx = lambda: type("Context", (), {"page_script_hash": here})
    with links.written():
        if here == "one":
            st.text(links.choose("Horizon", ["mean", "1", "2"], "horizon"))
        else:
            st.text(links.slide("Ahead", [1, 2], "horizon"))
            links.absent("frame")


@pytest.fixture
def context(monkeypatch):
    """Keep what tells pages apart, which `pages` replaces."""
    monkeypatch.setattr(links, "get_script_run_ctx", links.get_script_run_ctx)


@pytest.mark.usefixtures("context")
def test_a_choice_that_a_page_does_not_offer_survives_it():
    page = AppTest.from_function(pages)

    def go(here):
        page.session_state["here"] = here
        page.query_params.clear()  # as the browser does
        page.run()
        return shown(page), page.query_params["horizon"]

    assert go("one") == ("mean", "mean")
    assert go("two") == ("1", "1")
    assert go("one") == ("mean", "mean")
    page.selectbox[0].set_value("2").run()
    assert go("two") == ("2", "2")
    page.select_slider[0].set_value(1).run()
    assert go("one") == ("1", "1")


@pytest.mark.usefixtures("context")
def test_what_a_page_draws_no_choice_of_leaves_the_address():
    page = AppTest.from_function(pages)
    page.session_state["here"] = "two"
    page.query_params["frame"] = "abc"
    page.run()
    assert "frame" not in page.query_params
