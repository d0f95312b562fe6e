"""Sheets: rows of tiles under a heading, on pages of bounded size, every tile with a line of text below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from pipeline.drawing.palettes import EMPTY, GROUND, LETTERS, MARK, QUIET, WHITE, ground
from pipeline.drawing.text import cut_text, strip, wrapped

MOST = 2000  # pixels of a page's side, as long as one row fits
_GAP = 3
_BETWEEN = 10  # pixels between rows, and between groups of tiles
MARGIN = 14
_CAPTION = 19  # pixels that the text below a tile takes
_NAMED = 140  # pixels of a label with a name
_LEAST_WIDTH = 720  # pixels: a heading needs them
_TITLE, _LINE, _NUMBER, _SMALL = 26, 18, 20, 15  # sizes of letters: legible at half of them
_ABOVE = MARGIN + _TITLE + 8 + _BETWEEN  # pixels of a heading of a title alone
_STEP = _LINE + 7  # pixels from a line of a heading to the next


@dataclass(frozen=True)
class SheetLayout:
    """How `count` rows are laid out on pages: rows run down, on in the next column of rows, then on the next page.

    tile: (height, width) of each group's tiles; every group has `k` of them a row, over as many lines as they take.
    label: pixels at the left of a row. heading: at the top of a page. per_line: tiles of a group on a line.
    columns, rows: of a page.
    """

    count: int
    k: int
    tile: tuple[tuple[int, int], ...]
    label: int
    heading: int
    per_line: int
    columns: int
    rows: int

    @classmethod
    def of(cls, count: int, k: int, tiles: Sequence[tuple[int, int]], label: int, lines: int) -> SheetLayout:
        """For rows with labels of so many pixels, see `label_width`, under a heading of so many lines."""
        heading = _ABOVE + (lines - 1) * _STEP
        room = MOST - label - 2 * MARGIN - _BETWEEN * len(tiles)
        per_line = max(1, min(k, room // sum(width + _GAP for _, width in tiles)))
        single = cls(count, k, tuple(tiles), label, heading, per_line, 1, 1)
        most_columns = max(1, (MOST - 2 * MARGIN) // single.row_width)
        most_rows = max(1, (MOST - heading - MARGIN) // single.row_height)
        balanced = round((count * single.row_height / single.row_width) ** 0.5)
        columns = max(1, min(most_columns, count, max(balanced, -(-count // most_rows))))
        rows = min(most_rows, -(-count // columns))
        return cls(count, k, tuple(tiles), label, heading, per_line, columns, rows)

    @classmethod
    def under(cls, heading: Sequence[str], count: int, k: int, tiles: Sequence[tuple[int, int]], label: int) -> SheetLayout:
        """For rows as `of` takes them, under the texts of a heading, which take as many lines as they need."""
        lines = len(heading)
        while (needed := len((layout := cls.of(count, k, tiles, label, lines)).broken(heading))) > lines:
            lines = needed
        return layout

    @property
    def lines(self) -> int:
        """The lines of a heading for which there is room."""
        return lines_above(self.heading)

    def broken(self, heading: Sequence[str]) -> list[str]:
        """A heading's title, and its other texts in lines that fit every page."""
        width = min(self.size(page)[1] for page in (0, -1)) - 2 * MARGIN
        return [heading[0], *(line for text in heading[1:] for line in wrapped(text, width, _LINE, len(text) + 1, "label"))]

    @cached_property
    def line_height(self) -> int:
        return max(height for height, _ in self.tile) + _CAPTION + _GAP

    @cached_property
    def row_height(self) -> int:
        return -(-self.k // self.per_line) * self.line_height + _BETWEEN

    @cached_property
    def row_width(self) -> int:
        return self.label + sum(self.per_line * (width + _GAP) + _BETWEEN for _, width in self.tile)

    @cached_property
    def pages(self) -> list[range]:
        """The rows of each page; one page where there are none."""
        step = self.rows * self.columns
        return [range(start, min(start + step, self.count)) for start in range(0, self.count, step)] or [range(0)]

    def size(self, page: int) -> tuple[int, int]:
        """(height, width) of a page."""
        here = len(self.pages[page])
        columns = max(1, -(-here // self.rows))
        width = max(_LEAST_WIDTH, 2 * MARGIN + columns * self.row_width)
        return self.heading + min(max(here, 1), self.rows) * self.row_height + MARGIN, width

    def tile_corner(self, row: int, group: int = 0, rank: int = 0) -> tuple[int, int]:
        """(y, x) of a tile's upper left corner on the page of its row."""
        column, down = divmod(row % (self.rows * self.columns), self.rows)
        line, across = divmod(rank, self.per_line)
        before = sum(self.per_line * (width + _GAP) + _BETWEEN for _, width in self.tile[:group])
        x = MARGIN + column * self.row_width + self.label + before + across * (self.tile[group][1] + _GAP)
        return self.heading + down * self.row_height + line * self.line_height, x

    def step(self, group: int = 0) -> tuple[int, int]:
        """Pixels from a line to the next, and from a tile to the next."""
        return self.line_height, self.tile[group][1] + _GAP


def lines_above(y: int) -> int:
    """The lines of the heading above a page's first row, which begins at so many pixels."""
    return 1 + (y - _ABOVE) // _STEP


def label_width(largest_number: int, named: bool) -> int:
    """The pixels that labels take: numbers up to this one and, where rows are `named`, words below them."""
    return _NAMED if named else 24 + 12 * max(3, len(str(largest_number)))


class Rows(Protocol):
    """The contents of a sheet's rows."""

    def heading(self) -> Sequence[str]:
        """Its lines: a title first."""

    def label(self, row: int) -> tuple[str, str]:
        """The row's number, and a mark below it, "" for none."""

    def notice(self, row: int) -> str:
        """The text in place of a row's tiles; "" where it has some."""

    def tile(self, row: int, group: int, rank: int) -> np.ndarray | None:
        """uint8 (h, w, 3) of the group's tile size, or None where nothing fills it."""

    def caption(self, row: int, group: int, rank: int) -> str:
        """The text below the tile."""


def draw_page(layout: SheetLayout, page: int, rows: Rows) -> np.ndarray:
    """One page: uint8 RGB, on a dark ground that stands out on any page."""
    high, wide = layout.size(page)
    picture = ground(high, wide)
    _write_heading(picture, layout, page, rows.heading())
    for row in layout.pages[page]:
        y, x = layout.tile_corner(row)
        number, mark = rows.label(row)
        middle = y + max(height for height, _ in layout.tile) // 2
        _paste(picture, middle - (24 if mark else 12), x - 10, strip(number, _NUMBER, LETTERS), right=True)
        if mark:
            _paste(picture, middle + 4, x - 10, strip(mark, _SMALL, MARK), right=True)
        notice = rows.notice(row)
        if notice:
            room = max(height for height, _ in layout.tile), layout.row_width - layout.label - _BETWEEN
            _write_notice(picture, notice, middle, x + 4, room)
            continue
        for group, (height, width) in enumerate(layout.tile):
            for rank in range(layout.k):
                y, x = layout.tile_corner(row, group, rank)
                tile = rows.tile(row, group, rank)
                picture[y : y + height, x : x + width] = EMPTY if tile is None else tile
                if tile is not None and (text := rows.caption(row, group, rank)):
                    below = _caption(text, width)
                    _paste(picture, y + height + 1, x + (width - below.shape[1]) // 2, below)
    return picture


def name_rows(picture: np.ndarray, layout: SheetLayout, page: int, names: Sequence[tuple[str, str, bool]]) -> None:
    """Write names below the numbers of a page's rows, in place of what stood there, as many lines as there is room for.

    Args:
        picture: uint8 (h, w, 3), as `draw_page` drew it; changed in place.
        names: for every row of the sheet its name and what that rests on, "" for none; and whether a mark is below its number.
    """
    line = _SMALL + 2
    for row in layout.pages[page]:
        name, value, marked = names[row]
        y, x = layout.tile_corner(row)
        top = y + max(height for height, _ in layout.tile) // 2 + (24 if marked else 14)
        left, width = x - layout.label, layout.label - 10
        rows = min(y + layout.row_height, picture.shape[0]) - top
        picture[top : top + rows, left : x - 4] = GROUND
        most = rows // line
        if not name or most < 1:
            continue
        words = wrapped(name, width, _SMALL, max(1, most - 1), "label")
        lines = [*((text, LETTERS) for text in words), (value, QUIET)][:most]
        for number, (text, colour) in enumerate(lines):
            _paste(
                picture, top + number * line, x - 10, strip(cut_text(text, width, _SMALL, "label"), _SMALL, colour), right=True
            )


def _write_heading(picture: np.ndarray, layout: SheetLayout, page: int, lines: Sequence[str]) -> None:
    pages, width = len(layout.pages), picture.shape[1] - 2 * MARGIN
    if pages > 1:
        number = strip(f"page {page + 1} of {pages}", _LINE, QUIET)
        _paste(picture, MARGIN + 4, picture.shape[1] - MARGIN, number, right=True)
    y = MARGIN
    for line, text in enumerate(layout.broken(lines)[: layout.lines]):
        size, colour = (_TITLE, WHITE) if line == 0 else (_LINE, QUIET)
        room = width - (160 if pages > 1 and line == 0 else 0)
        _paste(picture, y, MARGIN, strip(cut_text(text, room, size, "label"), size, colour))
        y += _STEP if line else size + 8


def _write_notice(picture: np.ndarray, notice: str, middle: int, x: int, room: tuple[int, int]) -> None:
    """Write a text in place of tiles, in as many lines and in letters as small as they must be to fit into its row."""
    height, width = room
    for size in (_LINE, _SMALL, _SMALL - 3, _SMALL - 5):
        lines = wrapped(notice, width, size, max(1, height // (size + 4)), "label")
        if not lines[-1].endswith("…"):
            break
    step = size + 4
    top = middle - (12 if len(lines) == 1 else len(lines) * step // 2)
    for number, line in enumerate(lines):
        _paste(picture, max(0, top + number * step), x, strip(line, size, MARK))


def _paste(picture: np.ndarray, y: int, x: int, words: np.ndarray, right: bool = False) -> None:
    height, width = words.shape[:2]
    x -= width if right else 0
    cell = picture[y : y + height, max(x, 0) : x + width]
    cell[:] = words[: cell.shape[0], : cell.shape[1]]


def _caption(text: str, width: int) -> np.ndarray:
    """A number is put together from its digits, which are drawn once; words are cut to the tile's width."""
    if set(text) <= set("0123456789.-e+"):
        return np.concatenate([strip(letter, _SMALL, LETTERS) for letter in text], axis=1)[:, :width]
    return _words(text, width)


@lru_cache(10_000)
def _words(text: str, width: int) -> np.ndarray:
    return strip(cut_text(text, width, _SMALL - 2, "label"), _SMALL - 2, LETTERS)
