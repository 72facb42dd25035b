"""Copy the main columns of the benchmarks' tables into README.md, so that no number there is typed by hand.

python benchmarks/readme_tables.py            writes README.md
python benchmarks/readme_tables.py --check    exit code 1 where README.md is not what the tables give
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BLOCK = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end of table -->", re.DOTALL)
COLUMNS = ("row", "wiring", "runs", "top-1", "minus", "verdict", "gap recovered", "saved tensors")


def main_table(results_md: str) -> list[list[str]]:
    """Return the cells of the first table of a results.md, its headings first."""
    lines = results_md[results_md.index("| row |") :].splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [row for row in rows if not set("".join(row)) <= set("-: ")]


def narrow(table: list[list[str]]) -> list[list[str]]:
    """Keep the columns whose headings start with one of `COLUMNS`."""
    kept = [i for i, heading in enumerate(table[0]) if heading.startswith(COLUMNS)]
    return [[row[i] for i in kept] for row in table]


def markdown(table: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])


def filled(readme: str) -> str:
    """Return the README's text with every table block made anew."""

    def block(match: re.Match[str]) -> str:
        table = main_table((HERE / match[1] / "results.md").read_text())
        return f"<!-- table: {match[1]} -->\n{markdown(narrow(table))}\n<!-- end of table -->"

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
