"""The page Memory over a real store, by Streamlit's AppTest; broken and hostile artifacts among its runs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from dashboard_store import uri_of
from memory_store import (
    CUE,
    GAPS,
    chosen,
    entry,
    memory_artifacts,
    npz,
    stream_arrays,
    symbol_artifacts,
    write_memory_run,
)

from dashboard.runs import open_store

HOSTILE = "<img src=x onerror=alert(1)> [l](javascript:alert(1)) $x$ :red[r] ../../etc/passwd"
GAP = 40


@pytest.fixture
def client(bare_db):
    return open_store(uri_of(bare_db))


@pytest.fixture
def experiment(client, tmp_path):
    return client.create_experiment("memory", artifact_location=(tmp_path / "artifacts").as_uri())


@pytest.fixture
def opened(open_page, bare_db):
    """Return a function: draw the page with these choices in the address."""
    return lambda **choices: open_page(uri_of(bare_db), "memory", **choices)


def widget(page, key):
    return next(each for each in page.selectbox if each.key == key)


def keys_of(page):
    return [each.key for each in page.selectbox]


def texts(page):
    return " ".join(each.value for each in [*page.warning, *page.info, *page.error, *page.markdown, *page.caption])


def strip_of(page):
    """Return {step: what it is} of the frames shown."""
    (html,) = [each.proto.body for each in page.get("html") if 'class="stream"' in each.proto.body]
    return {int(step): said for step, said in re.findall(r"<b>step (\d+)</b><span>(.*?)</span>", html)}


def table(page, column):
    return next(each.value for each in page.dataframe if column in each.value)


def replaced(gap=GAP, **arrays):
    """Return a run's artifacts with other arrays in both streams; None takes one out."""
    made = {name: array for name, array in {**stream_arrays(gap, 1), **arrays}.items() if array is not None}
    return {**memory_artifacts(gap), **{f"memory/test-0-{number}.npz": npz(**made) for number in range(2)}}


def test_a_stream_shows_what_was_chosen_what_was_asked_and_what_was_answered(opened, client, experiment):
    write_memory_run(client, experiment, f"memup@gap{GAP}", GAP)
    page = opened()
    assert "**1 of 4** chosen steps are answers; **1 of 1** answers are chosen; **1 of 1** answers are right." in texts(
        page
    )
    assert "detector `entropy` · selector `top_k` · K 4 · rollout 8 steps · gap 40 steps" in texts(page)
    shown = strip_of(page)
    assert [step for step, said in shown.items() if "cue" in said] == [0, 1, CUE - 1]
    assert [step for step, said in shown.items() if "chosen" in said] == sorted(chosen(GAP))
    answers = table(page, "prediction").iloc[0]
    assert answers[["step", "target", "prediction", "chosen"]].tolist() == [CUE + GAP, "0", "0", "yes"]
    assert len(page.get("vega_lite_chart")) == 2

    widget(page, "stream").set_value("test-0-1").run()
    assert "**0 of 1** answers are right" in texts(page)
    assert page.query_params["stream"] in ("test-0-1", ["test-0-1"])


def test_the_page_opens_with_the_row_that_chooses_and_offers_only_runs_with_streams(opened, client, experiment):
    ours = write_memory_run(client, experiment, f"memup@gap{GAP}", GAP)
    write_memory_run(client, experiment, f"memup_oracle@gap{GAP}", GAP)
    write_memory_run(client, experiment, f"truncated_backprop@gap{GAP}", GAP)
    bare = write_memory_run(client, experiment, f"full_backprop@gap{GAP}", GAP, files={})
    page = opened()
    assert widget(page, "run").value == ours
    assert len(widget(page, "run").options) == 3
    assert not any("full" in option for option in widget(page, "run").options)
    assert widget(opened(run=bare), "run").value == ours


def test_a_link_opens_the_same_run_stream_and_score(opened, client, experiment):
    write_memory_run(client, experiment, "memup@gap20", 20)
    other = write_memory_run(client, experiment, "truncated_backprop@gap20", 20, comparison="another")
    write_memory_run(client, experiment, "memup@gap40", 40)
    page = opened(run=other, stream="test-0-1", gap_score="memory/peak_mib")
    assert [widget(page, key).value for key in ("comparison", "run", "stream", "gap_score")] == [
        "another", other, "test-0-1", "memory/peak_mib"
    ]  # fmt: skip
    assert set(table(page, "gap")["line"]) == {"memup", "truncated_backprop"}


def test_a_link_to_what_is_gone_still_opens(opened, client, experiment):
    write_memory_run(client, experiment, "memup@gap20", 20)
    page = opened(run="f" * 32, stream="no such", gap_score="?", dataset="?", part="?")
    assert len(strip_of(page)) > 4


def test_scores_against_the_gap_are_of_all_comparisons_of_the_data_set_a_line_a_row(opened, client, experiment):
    for gap in GAPS:
        for seed in range(2):
            write_memory_run(client, experiment, f"memup@gap{gap}", gap, seed=seed, top1=0.9 - 0.1 * seed)
    write_memory_run(client, experiment, "memup@gap20", 20, dataset="copy_sequences")
    write_memory_run(client, experiment, "truncated_backprop@gap20", 20, top1=None)
    page = opened(dataset="cued_video")
    shown = table(page, "gap")
    assert shown[["line", "gap", "runs"]].to_numpy().tolist() == [["memup", gap, 2] for gap in GAPS]
    assert shown["mean"].tolist() == pytest.approx([0.85] * 3)
    assert (shown["low"].iloc[0], shown["high"].iloc[0]) == (pytest.approx(0.8), 0.9)
    assert "chance 0.1" in str(page.get("vega_lite_chart")[1].proto)
    widget(page, "gap_score").set_value("memory/peak_mib").run()
    assert set(table(page, "gap")["line"]) == {"memup", "truncated_backprop"}
    assert "chance" not in str(page.get("vega_lite_chart")[1].proto)


def test_symbols_have_no_frames_and_a_long_stream_can_be_shown_from_its_answers_on(opened, client, experiment):
    write_memory_run(client, experiment, "memup@gap5000", 5000, files=symbol_artifacts(5000))
    page = opened()
    assert "**9 of 9** chosen steps are answers; **9 of 10** answers are chosen; **9 of 10** answers" in texts(page)
    assert not [each for each in page.get("html") if 'class="stream"' in each.proto.body]
    assert "Of every 9 steps the most uncertain is drawn" in texts(page)
    assert table(page, "prediction")["chosen"].tolist() == ["yes"] * 9 + ["–"]
    widget(page, "part").set_value("answers").run()
    assert "Of every" not in texts(page)
    assert '"domain": [4950, 5019]' in page.get("vega_lite_chart")[0].proto.spec


def test_answers_that_are_numbers_have_an_error(opened, client, experiment):
    target = np.full(CUE + GAP + 1, np.nan, np.float32)
    target[-1] = 1.0
    files = replaced(target=target, prediction=np.array([1.5], np.float32), probability=np.array([np.nan]))
    write_memory_run(client, experiment, "memup", GAP, files=files, top1=None)
    page = opened()
    assert "mean squared error **0.25**" in texts(page)
    assert table(page, "prediction")["prediction"].tolist() == ["1.5"]
    assert "probability" not in table(page, "prediction")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"memory/streams.json": b"{"}, "is not valid JSON"),
        (memory_artifacts(GAP, streams=[3]), "lists no stream"),
        (memory_artifacts(GAP, streams=[entry("x", 45, [44])]), "has no artifact memory/x.npz"),
        ({**memory_artifacts(GAP), "memory/test-0-0.npz": b"PK broken"}, "not a whole npz"),
        (replaced(frames=None), "holds no array `frames`"),
        (replaced(chosen=np.array([{}], object)), "no plain array"),
        (replaced(target=np.zeros(4)), "4 targets"),
    ],
)
def test_a_broken_artifact_is_named_and_the_scores_are_shown(opened, client, experiment, files, reason):
    write_memory_run(client, experiment, "memup", GAP, files=files)
    page = opened()
    assert reason in unescaped(texts(page))
    assert table(page, "gap")["line"].tolist() == ["memup"]


def unescaped(text):
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


def test_a_path_that_leaves_the_run_is_not_read(opened, client, experiment, tmp_path):
    secret = tmp_path / "secret.npz"
    secret.write_bytes(npz(**stream_arrays(GAP, 1)))
    for path in ("../../../secret.npz", str(secret), f"file://{secret}"):
        files = memory_artifacts(GAP, streams=[{**entry("a", 45, [44]), "file": path}])
        run_id = write_memory_run(client, experiment, "memup", GAP, files=files)
        page = opened(run=run_id)
        assert "is not a plain relative path" in texts(page)
        assert not [each for each in page.get("html") if 'class="stream"' in each.proto.body]


def test_hostile_texts_are_text(opened, client, experiment):
    arrays = stream_arrays(GAP, 0)
    streams = [{**entry("a", CUE + GAP + 1, [CUE + GAP]), "id": text} for text in (HOSTILE, "y" * 10_000)]
    files = memory_artifacts(GAP, streams=streams, detector=HOSTILE, selector=HOSTILE, class_names=[HOSTILE] * 3)
    files |= {"memory/a.npz": npz(**arrays)}
    write_memory_run(client, experiment, f"{HOSTILE}@{HOSTILE}", GAP, files=files, dataset=HOSTILE, comparison=HOSTILE,
                     network=HOSTILE, rule=HOSTILE)  # fmt: skip
    page = opened()
    assert len(strip_of(page)) > 4
    for html in page.get("html"):
        assert "<img src=x" not in html.proto.body
    said = re.sub(r"(`+).*?\1", "", texts(page))  # a code span is plain text
    for sign in ("](javascript", "<img", ":red[r]", "y" * 1000):
        assert sign not in said
    assert table(page, "prediction")["target"].tolist() == [HOSTILE]


def test_a_store_without_long_streams_says_what_to_type(open_page, demo_db):
    page = open_page(uri_of(demo_db), "memory")
    assert "No run here has learnt from long streams" in page.info[0].value
    assert "--data CuedVideo" in page.code[0].value


def test_runs_without_streams_or_scores_say_what_to_type(opened, client, experiment):
    run = client.create_run(experiment, tags={"kind": "run", "row": "new", "dataset": "d", "gap": "40",
                                              "schema_version": "1"})  # fmt: skip
    page = opened()
    assert "No run here has saved a stream" in texts(page)
    assert "has a test score yet" in texts(page)
    assert not {"run", "stream", "gap_score"} & {*keys_of(page)}
    client.log_metric(run.info.run_id, "test/top1", float("nan"))
    assert "has a test score yet" in texts(opened())
