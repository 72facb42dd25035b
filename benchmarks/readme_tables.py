"""Copy the main columns of the benchmarks' tables into README.md, so that no number there is typed by hand.

python benchmarks/readme_tables.py            writes README.md
python benchmarks/readme_tables.py --check    exit code 1 where README.md is not what the tables give

<!-- table: demo -->                          what stands between this and "end of table" is made from
                                              benchmarks/demo/results.md: the main columns of its first table
<!-- table: demo, SSIM per horizon -->        the whole table below the heading that starts with these words
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BLOCK = re.compile(r"<!-- table: ([\w/]+)(?:, ([^>\n]+))? -->\n.*?<!-- end of table -->", re.DOTALL)
COLUMNS = ("row", "wiring", "runs", "top-1", "minus", "verdict", "gap recovered", "saved tensors")
# Of predicted frames, whose differences are read as shares.
FRAME_COLUMNS = ("row", "wiring", "Lmin", "runs", "MSE", "against", "verdict", "gap recovered")


def table_below(results_md: str, heading: str = "Results") -> list[list[str]]:
    """Return the cells of the table below a heading of a results.md, given by its first words; its headings first.

    Errors: ValueError where there is no such heading.
    """
    start = results_md.find(f"\n## {heading}")
    if start < 0:
        found = re.findall(r"^## (.+)$", results_md, re.MULTILINE)
        raise ValueError(f"no heading starts with {heading!r}; expected one of: {'; '.join(found)}")
    lines = results_md[results_md.index("| row |", start) :].splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [row for row in rows if not set("".join(row)) <= set("-: ")]


def narrow(table: list[list[str]]) -> list[list[str]]:
    """Keep the main columns, by how their headings start."""
    columns = FRAME_COLUMNS if "Lmin" in table[0] else COLUMNS
    kept = [i for i, heading in enumerate(table[0]) if heading.startswith(columns)]
    return [[row[i] for i in kept] for row in table]


def markdown(table: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])


def filled(readme: str) -> str:
    """Return the README's text with every table block made anew."""

    def block(match: re.Match[str]) -> str:
        name, heading = match[1], match[2]
        text = (HERE / name / "results.md").read_text()
        table = table_below(text, heading) if heading else narrow(table_below(text))
        label = f"{name}, {heading}" if heading else name
        return f"<!-- table: {label} -->\n{markdown(table)}\n<!-- end of table -->"

    return BLOCK.sub(block, readme)


def main(arguments: list[str]) -> int:
    """Write README.md, or check it."""
    old = README.read_text()
    new = filled(old)
    if "--check" in arguments:
        if new != old:
            print("README.md is not what the benchmarks' tables give: type 'python benchmarks/readme_tables.py'")
        return int(new != old)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
