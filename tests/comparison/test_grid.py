import pytest

from app.comparison.grid import build_grid, is_reporting
from app.comparison.spec import read_comparison


def test_every_row_on_every_fold_and_seed_paired_early(comparison):
    cells = build_grid(comparison)
    assert len(cells) == len({cell.key for cell in cells}) == 4 * 4 * 2
    assert [cell.key for cell in cells[:5]] == [
        ("frozen", 0, 0),
        ("sideways", 0, 0),
        ("skip", 0, 0),
        ("exact", 0, 0),
        ("frozen", 1, 0),
    ]


def test_fold_and_seed_reach_the_configuration(comparison):
    cell = next(cell for cell in build_grid(comparison) if cell.key == ("sideways", 2, 1))
    assert cell.config["seed_everything"] == 1
    assert cell.config["data"]["init_args"] == {"frames": 8, "seed": 1, "fold": 2}
    assert cell.facts() == {
        "row": "sideways",
        "rule": "sideways",
        "wiring": "chain",
        "network": "default",
        "dataset": "MovingDigits",
        "fold": 2,
        "seed": 1,
        "config_hash": cell.config_hash,
    }


def test_hashes_differ_between_cells(comparison):
    hashes = {cell.config_hash for cell in build_grid(comparison)}
    assert len(hashes) == 4 * 4 * 2


def test_rows_may_be_restricted(content):
    content["rows"][1] |= {"folds": [1, 2], "seeds": [0]}
    cells = build_grid(read_comparison(content), rows=["sideways", "exact"], seeds=[0])
    assert [cell.key[1] for cell in cells if cell.row == "sideways"] == [1, 2]
    assert [cell.key[1] for cell in cells if cell.row == "exact"] == [0, 1, 2, 3]


def test_data_without_folds(content):
    del content["folds"], content["tuning_folds"]
    comparison = read_comparison(content)
    cells = build_grid(comparison)
    assert len(cells) == 8
    assert "fold" not in cells[0].config["data"]["init_args"]
    with pytest.raises(ValueError, match="leave --folds out"):
        build_grid(comparison, folds=[1])


def test_unknown_row(comparison):
    with pytest.raises(ValueError, match="did you mean 'sideways'"):
        build_grid(comparison, rows=["sidewys"])


def test_tuning_folds_decide_what_is_reported(content):
    comparison = read_comparison(content | {"tuning_folds": [0, 1], "tuning_seeds": [0]})
    assert not is_reporting(comparison, 1, 5)
    assert is_reporting(comparison, 2, 0)


def test_tuning_seeds_decide_where_there_are_no_tuning_folds(content):
    comparison = read_comparison(content | {"tuning_folds": [], "tuning_seeds": [0]})
    assert not is_reporting(comparison, 2, 0)
    assert is_reporting(comparison, 2, 1)
