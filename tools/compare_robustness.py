"""List several runs side by side: clean mAP, and what is left at each budget."""

import argparse
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmdiff.evaluation.report import build_page, read_reports


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
    table = Table(title='mAP and share kept: the ensemble, else the worst attack')
    table.add_column('model')
    for column in ('images', 'clean', *page['budgets'].values(), 'M params', 'train s'):
        table.add_column(column, justify='right')
    for model in page['models']:
        cells = [escape(model['name']), str(model['clean']['images'] or '?')]
        cells.append(f'{model["clean"]["value"]:.3f}')
        for budget in page['budgets']:
            entry = model['lead'].get(budget)
            if entry is None:
                cells.append('-')
                continue
            kept = '-' if entry['kept'] is None else f'{entry["kept"]:.0%}'
            mark = '[bold red]![/] ' if entry['reasons'] else ''
            label = escape(entry['label'])
            cells.append(f'{mark}{entry["value"]:.3f} {kept} {label}')
        for name, unit, digits in (
            ('trainable_params', 1e6, 2),
            ('train_seconds', 1, 0),
        ):
            value = model['cost'][name]
            cells.append('' if value is None else f'{value / unit:.{digits}f}')
        table.add_row(*cells)
    console = Console()
    console.print(table)
    for model in page['models']:
        for reason in model['reasons']:
            name = escape(model['name'])
            console.print(f'[bold red]unreliable ({name}):[/] {escape(reason)}')
    for note in page['notes']:
        console.print(f'note: {escape(note)}')


if __name__ == '__main__':
    main()
