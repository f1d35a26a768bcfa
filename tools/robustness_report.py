"""Make one self-contained page of one or several robustness.json files."""

import argparse
import sys
from pathlib import Path

from mmdiff.evaluation.report import (
    build_page,
    draw_picture,
    read_reports,
    render,
    render_markdown,
    to_csv,
)
from mmdiff.utils.files import whole_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'reports',
        nargs='+',
        metavar='JSON',
        help='of tools/test.py --attack or the quick start; NAME=JSON names the model',
    )
    parser.add_argument('--out', type=Path, default='report.html', help='the page')
    parser.add_argument('--markdown', type=Path, help='its main table, for a README')
    parser.add_argument('--csv', type=Path, help='all numbers, with all digits')
    parser.add_argument(
        '--picture',
        type=Path,
        help='the metric over eps and over training seconds: .png, .svg or .pdf',
    )
    args = parser.parse_args()
    try:
        models = read_reports(args.reports)
        page = build_page(models)
        if args.picture:
            draw_picture(page, args.picture)
            print(f'written to {args.picture}')
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'robustness_report.py: {error}')
    texts = {Path(args.out): render(page)}
    if args.markdown:
        texts[args.markdown] = render_markdown(page)
    if args.csv:
        texts[args.csv] = to_csv(models)
    for path, text in texts.items():
        with whole_file(path) as partial:
            partial.write_text(text, encoding='utf-8', newline='')
        print(f'written to {path}')
    for model in models:
        for picture in model.gallery:
            if picture.missing:
                print(f'{model.name}: {picture.missing}', file=sys.stderr)


if __name__ == '__main__':
    main()
