"""List several runs side by side: clean, and what is left at each budget."""

import argparse
import sys

from rich.console import Console
from rich.markup import escape

from mmdiff.evaluation.report import build_page, read_reports
from mmdiff.evaluation.tables import comparison_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'reports', nargs='+', metavar='JSON', help='robustness.json, or NAME=JSON'
    )
    args = parser.parse_args()
    try:
        page = build_page(read_reports(args.reports))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'compare_robustness.py: {error}')
    console = Console()
    console.print(comparison_table(page).to_rich())
    if page.differences is not None:
        console.print(page.differences.to_rich())
    for model in page.models:
        for reason in model.reasons:
            name = escape(model.name)
            console.print(f'[bold red](!) unreliable ({name}):[/] {escape(reason)}')
    for note in page.notes:
        console.print(f'note: {escape(note)}')


if __name__ == '__main__':
    main()
