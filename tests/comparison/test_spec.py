import pytest

from app.comparison.grid import build_grid
from app.comparison.overrides import apply_overrides, config_hash, differences, expand, given
from app.comparison.spec import load_comparison, read_comparison
from app.comparison.yaml_file import read_yaml


def test_dotted_and_nested_overrides_are_the_same(content):
    base = content["experiment"]
    dotted = apply_overrides(base, {"model.init_args.rule": "sideways", "model.init_args.lr": 0.1})
    nested = apply_overrides(base, {"model": {"init_args": {"rule": "sideways"}, "init_args.lr": 0.1}})
    assert dotted == nested
    assert dotted["model"]["init_args"] == {"rule": "sideways", "wiring": "dense", "lr": 0.1}
    assert base["model"]["init_args"]["rule"] == "good", "the base must stay as it was"


def test_another_class_drops_the_old_class_arguments(content):
    changed = apply_overrides(content["experiment"], {"data.class_path": "Weizmann", "data.init_args.size": 64})
    assert changed["data"] == {"class_path": "Weizmann", "init_args": {"size": 64}}


def test_expand_refuses_nothing_and_merges_siblings():
    assert expand({"a.b": 1, "a.c": 2, "a": {"d": 3}}) == {"a": {"b": 1, "c": 2, "d": 3}}


def test_hash_ignores_order_and_sees_values():
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 1.5})


def test_differences_name_what_changed():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}}) == [
        "a.c: was 2, is 3",
        "a.d: was (absent), is 4",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": "exakt"}, "control: no row 'exakt'; did you mean 'exact'"),
        ({"frozen": "skp"}, "did you mean 'skip'"),
        ({"control": None}, "missing control"),
        ({"rows": []}, "missing rows"),
        ({"contrl": "exact"}, "unknown key 'contrl'; did you mean 'control'"),
        ({"seeds": [0, 0]}, "holds a number twice"),
        ({"seeds": 3}, "expected a list"),
        ({"folds": [-1]}, "whole numbers"),
        ({"folds": None}, "has no folds; add folds"),
        ({"bounds": [{"row": "skipp", "at_least": 1}]}, "did you mean 'skip'"),
        ({"bounds": [{"row": "skip"}]}, "exactly one of at_least and at_most"),
        ({"bounds": [{"row": "skip", "atleast": 1}]}, "unknown key 'atleast'"),
        ({"experiment": "nowhere.yaml"}, "found neither"),
    ],
)
def test_what_is_wrong_is_said(content, change, message):
    with pytest.raises(ValueError, match=message):
        read_comparison(content | change)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "skip"}, "given twice: skip"),
        ({"name": "new", "overides": {}}, "did you mean 'overrides'"),
        ({"overrides": {}}, "mapping with a name"),
        ({"name": "new", "folds": [7]}, r"folds \[7\] are not among"),
        ({"name": "new", "overrides": {"modle.init_args.rule": "x"}}, "unknown key 'modle'; did you mean 'model'"),
        ({"name": "new", "overrides": {"model.init_arg.rule": "x"}}, "unknown key 'model.init_arg'; did you mean"),
    ],
)
def test_what_is_wrong_in_a_row_is_said(content, row, message):
    content["rows"].append(row)
    with pytest.raises(ValueError, match=message):
        read_comparison(content)


def test_experiment_may_be_a_file_beside_the_comparison(content, tmp_path):
    import yaml

    (tmp_path / "base.yaml").write_text(yaml.safe_dump(content.pop("experiment")))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content | {"experiment": "base.yaml"}))
    assert load_comparison(tmp_path / "c.yaml").experiment["trainer"] == {"max_steps": 4}


def test_errors_name_the_file(content, tmp_path):
    import yaml

    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content | {"control": "none"}))
    with pytest.raises(ValueError, match=r"c\.yaml: control: no row 'none'"):
        load_comparison(tmp_path / "c.yaml")
    with pytest.raises(ValueError, match=r"no such file; .* holds c\.yaml"):
        load_comparison(tmp_path / "d.yaml")


def test_yaml_reads_numbers_as_people_mean_them(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1e-3\nb: 2.5E+2\nc: 7\nd: 1.\ne: 12e3\nf: v1e3\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 0.001, "b": 250.0, "c": 7, "d": 1.0, "e": 12000.0, "f": "v1e3"}


def test_yaml_refuses_a_key_given_twice(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(ValueError, match="given twice"):
        read_yaml(tmp_path / "a.yaml")


def test_variants_multiply_rows_and_scale_what_each_row_has(content):
    content["experiment"]["model"]["init_args"]["lr"] = 0.01
    content["rows"][1]["overrides"]["model"]["init_args"]["lr"] = 0.1
    content["variants"] = [{"name": "third", "scale": {"model.init_args.lr": 0.3}}, {"name": "one"}]
    comparison = read_comparison(content)
    assert comparison.row_names[:5] == ["frozen@third", "sideways@third", "skip@third", "exact@third", "frozen@one"]
    rates = {row.name: comparison.row_config(row)["model"]["init_args"]["lr"] for row in comparison.rows}
    assert rates["sideways@third"] == pytest.approx(0.03)
    assert rates["skip@third"] == pytest.approx(0.003)
    assert rates["sideways@one"] == 0.1


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], "given twice"),
        ([{"overrides": {}}], "mapping with a name"),
        ([{"name": "a", "scal": {}}], "did you mean 'scale'"),
        ([{"name": "a", "scale": {"model.init_args.lr": 2}}], "model.init_args.lr is None, no number"),
    ],
)
def test_what_is_wrong_in_variants_is_said(content, variants, message):
    with pytest.raises(ValueError, match=message):
        read_comparison(content | {"variants": variants})


def test_settings_from_the_command_line_reach_every_row_but_not_over_its_own():
    comparison = load_comparison("app/configs/comparisons/ucf101.yaml")
    changed = comparison.with_settings(given(["data.init_args.root=/data/UCF-101", "trainer.max_epochs=2"]))
    for row in changed.rows:
        config = changed.row_config(row)
        assert config["data"]["init_args"]["root"] == "/data/UCF-101"
        assert config["trainer"]["max_epochs"] == 2
        assert config["model"]["init_args"]["rule"] == row.overrides["model"]["init_args"]["rule"]
    with pytest.raises(ValueError, match="KEY=VALUE"):
        given(["trainer.max_epochs"])
    with pytest.raises(ValueError, match="did you mean 'trainer'"):
        comparison.with_settings({"trainr.max_epochs": 2})


def test_where_the_data_lies_does_not_change_a_cell():
    comparison = load_comparison("app/configs/comparisons/ucf101.yaml")

    def hashes(*words):
        return [cell.config_hash for cell in build_grid(comparison.with_settings(given(words)))]

    assert hashes("data.init_args.root=/elsewhere", "data.init_args.num_workers=0") == hashes()
    assert set(hashes("data.init_args.size=64")).isdisjoint(hashes())
