"""Pages with blocks that code makes: each of the `*_figure.py` beside this file fills those of its page.

<!-- generated: NAME -->            what stands between this and "end of generated" is made by a function
<!-- end of generated -->
"""

import re
from collections.abc import Mapping
from pathlib import Path

BLOCKS = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end of generated -->", re.DOTALL)


def with_blocks(page: str, made: Mapping[str, str]) -> str:
    """Return a page's text with every generated block made anew.

    Args:
        page: its text.
        made: what stands in each block, by name.
    """
    return BLOCKS.sub(lambda m: f"<!-- generated: {m[1]} -->\n{made[m[1]]}\n<!-- end of generated -->", page)


def write_or_check(page: Path, new: str, arguments: list[str], script: str) -> int:
    """Write a page, or with `--check` say whether it is what its script makes; return the exit status."""
    if "--check" in arguments:
        is_new = new != page.read_text()
        if is_new:
            print(f"docs/{page.name} is not what the code gives: type 'python docs/{script}'")
        return int(is_new)
    page.write_text(new)
    return 0
