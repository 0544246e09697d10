"""Markdown tables that are readable in a terminal, too."""

from collections.abc import Sequence


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[object]], num_text_columns: int = 1
) -> str:
    """A table with columns as wide as their widest cell.

    A cell that is None becomes a dash. The first `num_text_columns` are aligned to the left, the
    other columns (numbers) to the right. The text ends with a newline.
    """
    table = [list(header)]
    table += [["–" if cell is None else str(cell) for cell in row] for row in rows]
    table = [[cell.replace("|", "\\|") for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        padded = [
            cell.ljust(width) if i < num_text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |\n")
    rules = [
        "-" * (width + 2) if i < num_text_columns else "-" * (width + 1) + ":"
        for i, width in enumerate(widths)
    ]
    return "".join([lines[0], f"|{'|'.join(rules)}|\n", *lines[1:]])


def with_share(count: int, total: int) -> str:
    """A count with its share of a total: "2 (0.5%)"."""
    return f"{count:,} ({count / max(1, total):.1%})"
