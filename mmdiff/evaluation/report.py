"""Read ``robustness.json`` files, arrange them side by side, write them for people."""

import base64
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

SCHEMAS = 'mmdiff-robustness/1', 'mmdiff-robustness/2'
FEW_IMAGES = 100  # below, some hundredths of mAP are chance
ROLES = dict(clean='clean', ensemble='ensemble')
ROLES |= dict(noise='control', randomnoise='control')
ORDER = 'clean', 'ensemble', 'attack', 'control'
SETTINGS = 'label', 'norm', 'eps', 'steps', 'restarts', 'eot', 'quantize'
COST = 'seconds', 'grad_evals', 'queries'
COSTS = (
    ('trainable_params', 1e6, 'trainable parameters, millions'),
    ('train_seconds', 1, 'training, seconds'),
    ('attack_seconds', 1, 'attacks met by all, seconds per image'),
)
COLORS = '#3182bd', '#e6550d', '#31a354', '#9467bd', '#d6a500', '#17a2b8', '#888888'
INK = '#010203'  # replaced by the colour of the page's text
STYLE = {'svg.fonttype': 'none', 'svg.hashsalt': 'mmdiff', 'text.parse_math': False}
STYLE |= {'font.size': 9} | {f'{k}.color': INK for k in ('text', 'xtick', 'ytick')}
STYLE |= {f'axes.{k}color': INK for k in ('label', 'edge')}
ANEW = 'write it anew with tools/test.py --attack.'


def read_reports(sources: Sequence[str | Path]) -> list[dict]:
    """Read and check reports of any accepted schema.

    Args:
        sources: ``robustness.json`` files, of one model or of several by name (the
            quick start's); ``'NAME=FILE'`` gives the model another name.

    Returns:
        One per model: its ``name``, its ``entries`` (settings of the attack, ``value``:
        mAP, ``kept``: its share of the clean mAP, ``images``, cost, ``reasons`` that
        make it unreliable), ``lead``: the entry to lead with at each budget, and more.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no report, lacks the clean entry, or a name comes twice.
    """
    models: dict[str, dict] = {}
    for source in map(str, sources):
        name, _, rest = source.rpartition('=')
        path = Path(source if Path(source).exists() else rest)
        if not path.is_file():
            raise FileNotFoundError(f'There is no file {path}; give a robustness.json.')
        try:
            raw = json.loads(path.read_text(encoding='utf-8'))
        except ValueError as error:
            raise ValueError(f'{path} is not JSON ({error}).') from None
        name = '' if path == Path(source) else name
        named = {name: raw}
        if isinstance(raw, dict) and raw and 'schema' not in raw:
            named = {f'{name}: {key}' if name else key: raw[key] for key in raw}
        for key, report in named.items():
            model = _read_model(report, key, path)
            if old := models.get(model['name']):
                raise ValueError(
                    f'Two reports are called {old["name"]!r} ({old["path"]} and '
                    f'{path}); rename one: NAME={path}.'
                )
            model['color'] = COLORS[len(models) % len(COLORS)]
            models[model['name']] = model
    return list(models.values())


def _read_model(raw: object, name: str, path: Path) -> dict:
    schema = raw.get('schema') if isinstance(raw, dict) else None
    if schema not in SCHEMAS:
        raise ValueError(
            f'{path} is no robustness report: its schema is {schema!r}, not one of '
            f'{", ".join(SCHEMAS)}; write one with tools/test.py --attack.'
        )
    name = str(name or raw.get('name') or Path(raw.get('config') or path).stem)
    about = {k: raw.get(k) for k in ('config', 'checkpoint', 'device', 'protocol')}
    try:
        dataset, training = raw.get('dataset') or {}, raw.get('training') or {}
        about |= {k: dataset.get(k) for k in ('data_root', 'ann_file')}
        about |= dict(versions=dict(raw.get('versions') or {}))
        reasons = list(raw.get('reasons') or [])
        entries = [_read_entry(r, reasons) for r in raw['results']]
        cost = dict(trainable_params=training.get('trainable_parameters'))
        cost |= dict(train_seconds=training.get('seconds')) | (raw.get('cost') or {})
        cost = {k: cost[k] and float(cost[k]) for k, *_ in COSTS[:2]}
        gallery = [_read_picture(p, path.parent) for p in raw.get('gallery') or []]
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: the report of {name!r} is damaged '
            f'({type(error).__name__}: {error}); {ANEW}'
        ) from None
    clean = [e for e in entries if e['role'] == 'clean']
    if len(clean) != 1:
        raise ValueError(
            f'{path}: {name!r} has {len(clean)} clean entries, not one to compare '
            f'the attacked ones with; {ANEW}'
        )
    images = dataset.get('indices')
    images = len(images) if isinstance(images, list) else images
    images = images or next((e['images'] for e in entries if e['images']), None)
    base = clean[0]['value']
    for entry in entries:
        entry['images'] = entry['images'] or images
        entry['kept'] = entry['value'] / base if base > 0 else None
        reasons += [r for r in entry['reasons'] if r not in reasons]
    if raw.get('unreliable') and not reasons:
        reasons.append('the file says that it is unreliable, without a reason')
    # By budget: the ensemble (per-image worst), else the attack of lowest mAP.
    attacks = [e for e in entries if e['role'] in ORDER[1:3] and e['eps'] != 0]
    attacks.sort(key=lambda e: (e['role'] == 'ensemble', -e['value']))
    lead = {e['budget']: e for e in attacks}
    model = dict(name=name, path=path, clean=clean[0], entries=entries, lead=lead)
    model['larger_canvas'] = (raw.get('sanity') or {}).get('larger_canvas')
    return model | dict(about=about, cost=cost, reasons=reasons, gallery=gallery)


def _read_entry(raw: dict, said: list[str]) -> dict:
    attack, eps, cost = raw['attack'], raw.get('eps'), raw.get('cost') or {}
    metrics, role = raw['metrics'], raw.get('role') or ROLES.get(attack, 'attack')
    found = (key for key in metrics if key.endswith(('/mAP', '/bbox_mAP')))
    metric = next(found, None) or next(iter(metrics))
    if role not in ORDER or not math.isfinite(metrics[metric] + (eps or 0)):
        raise ValueError(f'{attack} has role {role}, eps {eps}, {metrics[metric]}')
    label, objective = raw.get('label'), raw.get('objective')
    if not label:
        label = attack if role in ORDER[:2] else attack.upper()
        label += f' ({objective})' if objective not in (None, 'total') else ''
    own = f'{attack} at eps={eps} ', f'{label} at eps={eps} '
    reasons = [*(raw.get('reasons') or []), *(r for r in said if r.startswith(own))]
    norm = str(raw.get('norm') or '').capitalize()
    sanity = raw.get('sanity') or {}
    cost = dict(queries=sanity.get('queries')) | cost
    entry = {k: raw.get(k) for k in SETTINGS} | {k: cost.get(k) for k in COST}
    where = 'no budget' if eps is None else f'{norm} {eps:g}'.strip()
    worst = raw.get('metrics_worst_case')
    return entry | dict(
        label=label,
        role=role,
        metric=metric,
        value=metrics[metric],
        images=raw.get('num_images') or sanity.get('images'),
        reasons=list(dict.fromkeys(reasons)),
        per_class={k: float(v) for k, v in (raw.get('per_class') or {}).items()},
        budget=(norm, math.inf if eps is None else eps),
        where=f'{where}, uint8' if raw.get('quantize') else where,
        worst_case=worst and worst[metric],
        cumulative=bool(raw.get('cumulative')),
    )


def _read_picture(raw: dict, folder: Path) -> dict:
    """A gallery entry with its PNGs as text, and what there is no PNG of."""
    name, shown, missing = raw.get('file'), {}, []
    parts = {k: raw.get(k) or '' for k in ('clean', 'change', 'attacked')}
    for part, text in ({'clean, change, attacked': ''} if name else parts).items():
        data = base64.b64decode(text)
        if name:
            file = (folder / name).resolve()
            inside = file.is_relative_to(folder.resolve()) and file.is_file()
            data = file.read_bytes() if inside else b''
        if data.startswith(b'\x89PNG'):
            shown[part] = base64.b64encode(data).decode()
        else:
            missing.append(f'There is no PNG {name or part!r} beside the report.')
    return dict(raw, shown=shown, missing=missing)


def build_page(models: list[dict]) -> dict:
    """Arrange what :func:`read_reports` gives: rows, notes, classes and figures."""
    rows: dict[tuple, list] = {}
    for k, model in enumerate(models):
        for entry in model['entries']:
            key = tuple(str(entry[s]) for s in SETTINGS)
            while rows.setdefault(key, [None] * len(models))[k]:
                key += ('again',)
            rows[key][k] = entry
    table = [dict(next(filter(None, cells)), cells=cells) for cells in rows.values()]
    met = [row['label'] for row in table]  # in the order of the files
    table.sort(
        key=lambda r: (ORDER.index(r['role']), met.index(r['label']), r['budget'])
    )
    met_by_all = [
        r['cells'] for r in table if r['role'] == 'attack' and all(r['cells'])
    ]
    for k, model in enumerate(models):
        times = [(e[k]['seconds'] or 0) / (e[k]['images'] or 1) for e in met_by_all]
        model['cost']['attack_seconds'] = sum(times)
    where = {b: e['where'] for m in models for b, e in m['lead'].items()}
    shared = [b for b in where if all(b in m['lead'] for m in models)]
    strongest = max((b for b in shared if b[1] < math.inf), default=None)
    classes: dict[str, list] = {}
    for k, model in enumerate(models):
        worst = model['lead'].get(strongest) or {}
        for name, clean in model['clean']['per_class'].items():
            if name in worst.get('per_class', ()):
                pair = clean, worst['per_class'][name]
                classes.setdefault(name, [None] * len(models))[k] = pair
    return dict(
        models=models,
        table=table,
        budgets={b: where[b] for b in sorted(where)},
        strongest=strongest,
        classes=classes,
        notes=list(_notes(models, table)),
        curve=_draw_curve(models),
        cost=_draw_cost(models, strongest),
    )


def _notes(models: list[dict], table: list[dict]) -> Iterator[str]:
    """What to know before any two numbers are compared."""
    for model in models:
        name, images = model['name'], model['clean']['images']
        if not images:
            yield f'{name}: the file does not say how many images were attacked.'
        elif images < FEW_IMAGES:
            yield f'{name}: only {images} images; some hundredths of mAP are chance.'
        if model['larger_canvas']:
            yield (
                f'{name}: {model["larger_canvas"]} images were predicted beside larger '
                'ones, on a larger canvas than they were attacked on; a batch size of '
                '1 would make both the same.'
            )
        for entry in model['entries']:
            at = f'{name}, {entry["label"]}, {entry["where"]}'
            if entry['images'] != images:
                yield f'{at}: on {entry["images"]} images, the clean mAP on {images}.'
            worst = model['lead'].get(entry['budget'], entry)
            if entry['role'] == 'attack' and entry['value'] < worst['value']:
                yield f'{at}: alone it leaves less than the {worst["label"]} does.'
    if any(e['cumulative'] for m in models for e in m['entries']):
        yield (
            'Rows marked * were run on what is left: images that an attack before them '
            '(of a smaller budget, or above at the same one) brought to AP 0 are '
            'counted as that one left them.'
        )
    for what in ('protocol', 'device', 'data_root', 'ann_file', 'images', 'metric'):
        told = [str({**m['about'], **m['clean']}[what]) for m in models]
        if len(set(told)) > 1:
            yield f'The models differ in {what}: {", ".join(told)}.'
    for cost, _, label in COSTS:
        if 0 < sum(bool(m['cost'][cost]) for m in models) < len(models):
            yield f'Not every file tells this cost: {label}.'
    if not all(cell for row in table for cell in row['cells']):
        yield 'Not every model met the same attacks: compare within a row only.'


def _draw_curve(models: list[dict]) -> str:
    """mAP over eps: thick the leading entry, thin each attack, dotted each control."""
    panels: dict[str, list] = {}
    looks = dict(control=dict(ls=':', lw=1), attack=dict(lw=1), lead=dict(lw=2.5))
    for model in models:
        lines: dict[tuple, list] = {}
        leads = [(e, ('lead',)) for e in model['lead'].values()]
        own = [(e, (e['role'], e['label'], e['steps'])) for e in model['entries']]
        for entry, line in own + leads:
            if entry['eps'] and line[0] in looks:
                start = [(0, model['clean']['value'])]
                points = lines.setdefault((entry['budget'][0], *line), start)
                points.append((entry['eps'], entry['value']))
        for (norm, role, *_), points in lines.items():
            style = dict(looks[role], color=model['color'], marker='.')
            panel = panels.setdefault(f'eps ({norm}, pixel values 0 to 255)', [])
            panel.append((sorted(points), style))
    return _draw('mAP over eps', panels)


def _draw_cost(models: list[dict], strongest: tuple | None) -> str:
    """mAP over what the model costs: hollow clean, filled at the strongest budget."""
    panels: dict[str, list] = {}
    for model in models if strongest else ():
        ends = model['clean']['value'], model['lead'][strongest]['value']
        style = dict(color=model['color'], marker='o')
        for name, unit, label in COSTS:
            if x := (model['cost'][name] or 0) / unit:
                panel = panels.setdefault(label, [])
                panel += [(((x, ends[0]), (x, ends[1])), dict(style, mfc='none'))]
                panel += [(((x, ends[1]),), style)]
    return _draw('mAP over cost', panels)


@rc_context(STYLE)
def _draw(title: str, panels: dict[str, list]) -> str:
    """SVG with a panel for each x axis, its lines given as (points, style)."""
    if not panels:
        return ''
    figure = Figure(figsize=(max(4, 3 * len(panels)), 3), layout='constrained')
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axes, (label, lines) in zip(grid[0], panels.items()):
        for points, style in lines:
            axes.plot(*zip(*points), clip_on=False, **style)
        axes.set(xlabel=label, ylabel='mAP', ylim=(0, None), xlim=(0, None))
        axes.label_outer()
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(color=INK, alpha=0.15)
    buffer = io.StringIO()
    bare = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
    figure.savefig(buffer, format='svg', transparent=True, metadata=bare)
    svg = re.sub(r'<g id="\w+"', '<g', buffer.getvalue()).replace(INK, 'currentColor')
    start = f'<svg role="img" aria-label="{title}"'
    return start + svg[svg.index('<svg') + len('<svg') :]


def render(page: dict, template: str = 'report.html.j2') -> str:
    """Fill ``report.html.j2`` or ``report.md.j2`` with :func:`build_page`'s page."""
    places = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / 'assets'),
        autoescape=template.endswith('.html.j2'),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    places.filters['share'] = lambda x: '-' if x is None else f'{100 * x:.0f} %'
    return places.get_template(template).render(page)


def to_csv(models: list[dict]) -> str:
    """One line for each model and entry, with all digits."""
    columns = 'model', 'role', *SETTINGS, 'images', 'metric', 'value', 'kept'
    columns += 'worst_case', 'cumulative', *COST
    out = io.StringIO()
    writer = csv.DictWriter(out, (*columns, 'reasons'), extrasaction='ignore')
    writer.writeheader()
    for model in models:
        for entry in model['entries']:
            reasons = '; '.join(entry['reasons'])
            writer.writerow(dict(entry, model=model['name'], reasons=reasons))
    return out.getvalue()
