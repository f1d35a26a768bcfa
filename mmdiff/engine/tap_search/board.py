"""Progress of a search on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .images import Part


class Board:
    """Two bars: cells of the grid, and images of the cell in work.

    Args:
        console: Where they are shown; ``None``: nowhere.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=console is None,
        )
        self._cells = self.progress.add_task('cells', visible=False)
        self._inner = self.progress.add_task('images', visible=False)
        self._cell = ''

    def __enter__(self) -> Board:
        self.progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.progress.stop()

    def start(self, total: int, done: int) -> None:
        """Show so many cells, of which some are done."""
        self.progress.update(self._cells, total=total, completed=done, visible=True)

    def name(self, cell: str) -> None:
        """Name the cell in work."""
        self._cell = cell

    def advance(self) -> None:
        """Note that a cell is done."""
        self.progress.advance(self._cells)

    def track(self, parts: Sequence[Part], what: str) -> Iterable[Part]:
        """Give parts of the images, and show how many are done."""
        return self._track(parts, f'{self._cell}: {what}')

    def _track(self, parts: Sequence[Part], text: str) -> Iterator[Part]:
        total = sum(len(part.numbers) for part in parts)
        self.progress.reset(
            self._inner, total=total, description=escape(text), visible=True
        )
        for part in parts:
            yield part
            self.progress.advance(self._inner, len(part.numbers))
