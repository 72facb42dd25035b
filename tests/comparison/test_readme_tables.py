"""What of a comparison's results.md a README shows."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = """
## Results

| row | rule | wiring | Lmin | MSE per pixel (lower is better) | minus exact [95 %] | against exact in % [95 %] | peak |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| skip | sideways | concat | 4 | 0.02 | +0.01 | +5.0 % | 700 |

## SSIM per horizon (higher is better)

| row | k = 1 | mean |
| --- | ---: | ---: |
| skip | 0.9 | 0.8 |
"""


@pytest.fixture
def script(tmp_path):
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "benchmarks" / "readme_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.HERE = tmp_path
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "results.md").write_text(RESULTS)
    return module


def test_the_main_columns_of_predicted_frames(script):
    text = script.filled("<!-- table: toy -->\nold\n<!-- end of table -->")
    assert text.splitlines()[1] == (
        "| row | wiring | Lmin | MSE per pixel (lower is better) | against exact in % [95 %] |"
    )
    assert script.filled(text) == text


def test_a_whole_table_by_its_heading(script):
    text = script.filled("<!-- table: toy, SSIM per horizon -->\nold\n<!-- end of table -->")
    assert text.splitlines()[1:4] == ["| row | k = 1 | mean |", "| --- | --- | --- |", "| skip | 0.9 | 0.8 |"]
    assert script.filled(text) == text


def test_a_heading_that_is_not_there(script):
    with pytest.raises(ValueError, match="'LPIPS'; expected one of: Results; SSIM per horizon"):
        script.filled("<!-- table: toy, LPIPS -->\n<!-- end of table -->")
