"""Tables as lines of text: aligned for a log, drawn by rich for a terminal; columns in which nothing stands are left out."""

import io
from collections.abc import Container, Sequence
from typing import Any, TextIO

Cells = Sequence[str]


def aligned(headers: Cells, rows: Sequence[Cells], right: Container[str] = ()) -> list[str]:
    """Return the table as plain text; the columns named in `right` are aligned to the right."""
    used = _used(headers, rows)
    lines = [headers, *rows]
    widths = {column: max(len(line[column]) for line in lines) for column in used}
    return [
        "  ".join(
            line[column].rjust(widths[column]) if headers[column] in right else line[column].ljust(widths[column])
            for column in used
        ).rstrip()
        for line in lines
    ]


def drawn(
    headers: Cells,
    rows: Sequence[Cells],
    styles: Sequence[str],
    terminal: TextIO,
    *,
    right: Container[str] = (),
    wrapped: Container[str] = (),
    optional: Container[int] = (),
    narrow: int = 0,
) -> list[str]:
    """Return the table as rich draws it for a terminal: as wide as that is, with its colours, a style for each row.

    The columns named in `wrapped` may take several lines; those at the places `optional` are left out of a terminal with fewer
    than `narrow` columns.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    here = Console(file=terminal, highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    used = [column for column in _used(headers, rows) if here.width >= narrow or column not in optional]
    for column in used:
        name = headers[column]
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name not in wrapped)
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*(Text(row[column]) for column in used), style=style)
    text = io.StringIO()
    look: Any = here.color_system
    Console(file=text, width=here.width, color_system=look, force_terminal=here.is_terminal, highlight=False).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]


def _used(headers: Cells, rows: Sequence[Cells]) -> list[int]:
    """Return the columns in which something stands."""
    return [column for column in range(len(headers)) if any(row[column] for row in rows)]
