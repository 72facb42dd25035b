"""Wall and CPU time of named parts of a step; a part's time is without that of the parts inside it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any


class Clock:
    """Seconds by part since the last `take`.

    Attributes:
        parts: part -> [wall, CPU] seconds.
    """

    def __init__(self) -> None:
        self.parts: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._inside: list[list[float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what runs inside as part `name`."""
        self._inside.append([0.0, 0.0])
        began = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            spent = time.perf_counter() - began[0], time.process_time() - began[1]
            children = self._inside.pop()
            for kind in range(2):
                self.parts[name][kind] += spent[kind] - children[kind]
                if self._inside:
                    self._inside[-1][kind] += spent[kind]

    def watch(self, owner: Any, attribute: str, name: str, kind: Callable[[Any], Any] = lambda f: f) -> None:
        """Time every call of a function of an object as part `name`, where it is called inside another part.

        Args:
            owner: object, class or module.
            attribute: the function's name there.
            name: of the part.
            kind: staticmethod, where the owner is a class that has it so.
        """
        function = getattr(owner, attribute)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name) if self._inside else nullcontext():
                return function(*args, **kwargs)

        setattr(owner, attribute, kind(timed))

    def take(self) -> dict[str, list[float]]:
        """Return the parts and begin anew."""
        parts, self.parts = dict(self.parts), defaultdict(lambda: [0.0, 0.0])
        return parts
