"""Read ``robustness.json`` files for a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdiff.attacks import Budget

from ..checks import CODES
from ..entry import Entry
from ..results import ModelCost, Results
from ..tables import kept

COLORS = (
    '#3182bd',
    '#e6550d',
    '#31a354',
    '#9467bd',
    '#d6a500',
    '#17a2b8',
    '#888888',
)


@dataclass
class Picture:
    """An attacked image for the page.

    Args:
        image_id: Id of the image.
        attack: Label of the attack.
        eps: Radius of its budget.
        png: The picture, in base64; empty if it is missing.
        missing: Sentence about a picture that is not there; else empty.
    """

    image_id: Any
    attack: Any = None
    eps: Any = None
    png: str = ''
    missing: str = ''


@dataclass
class ReportModel:
    """One model of a page.

    Args:
        name: Name of the model, different from all others.
        path: File that it was read from.
        results: What is in the file.
        color: Color of the model in figures.
        gallery: Attacked images.
    """

    name: str
    path: Path
    results: Results
    color: str = COLORS[0]
    gallery: list[Picture] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        return self.results.entries

    @property
    def clean(self) -> Entry:
        return self.results.clean

    @property
    def cost(self) -> ModelCost:
        return self.results.cost

    @property
    def reasons(self) -> list[str]:
        """Sentences that make it unreliable."""
        return self.results.reasons

    @property
    def warnings(self) -> list[str]:
        """Sentences that make it unreliable, each with what its flag means."""
        warnings = []
        for flag in self.results.flags:
            text = flag.text.rstrip('.') + '.'
            warnings.append(f'{text} {CODES.get(flag.code, "")}'.strip())
        return list(dict.fromkeys(warnings))

    @property
    def larger_canvas(self) -> int:
        """Images predicted on a larger canvas than they were attacked on."""
        sanity = self.results.sanity
        return 0 if sanity is None else sanity.larger_canvas

    @property
    def probed(self) -> str:
        """Sentence about the gradients; empty if none was probed."""
        probes = self.results.sanity and self.results.sanity.probes
        return probes.summary() if probes else ''

    @property
    def lead(self) -> dict[Budget, Entry]:
        """Entry to lead with at each budget: the worst case, else the worst attack."""
        lead: dict[Budget, Entry] = {}
        attacks = [e for e in self.entries if e.role == 'attack' and e.eps != 0]
        for entry in sorted(attacks, key=lambda e: -e.value):
            lead[entry.budget] = entry
        for entry in self.entries:
            if entry.role == 'worst_case' and entry.eps != 0:
                lead[entry.budget] = entry
        return lead

    @property
    def about(self) -> dict[str, Any]:
        """Where the numbers come from."""
        results = self.results
        return {
            'config': results.config,
            'checkpoint': results.checkpoint,
            'device': results.device,
            'protocol': results.protocol,
            'data_root': results.dataset.get('data_root'),
            'ann_file': results.dataset.get('ann_file'),
            'versions': results.versions,
        }

    def kept(self, entry: Entry) -> float | None:
        """Share of the clean metric that is left; ``None`` if there was nothing."""
        return kept(entry, self.clean)


def read_reports(sources: Sequence[str | Path]) -> list[ReportModel]:
    """Read and check reports, one per model.

    Args:
        sources: ``robustness.json`` files; ``'NAME=FILE'`` gives the model another
            name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no report, lacks the clean entry, or a name comes twice.
    """
    models: dict[str, ReportModel] = {}
    for source in map(str, sources):
        name, _, rest = source.rpartition('=')
        if Path(source).exists():
            name, rest = '', source
        path = Path(rest)
        results = Results.read(path)
        name = name or results.name
        if name in models:
            raise ValueError(
                f'Two reports are called {name!r} ({models[name].path} and {path}); '
                f'rename one: NAME={path}.'
            )
        color = COLORS[len(models) % len(COLORS)]
        gallery = [_read_picture(raw, path.parent) for raw in results.gallery]
        models[name] = ReportModel(name, path, results, color, gallery)
    return list(models.values())


def _read_picture(raw: dict[str, Any], folder: Path) -> Picture:
    """Read a picture of the gallery; it must be a PNG below the report's folder."""
    name = str(raw.get('file'))
    picture = Picture(raw.get('image_id'), raw.get('attack'), raw.get('eps'))
    file = (folder / name).resolve()
    inside = file.is_relative_to(folder.resolve()) and file.is_file()
    data = file.read_bytes() if inside else b''
    if data.startswith(b'\x89PNG'):
        picture.png = base64.b64encode(data).decode()
    else:
        picture.missing = f'There is no PNG {name!r} beside the report.'
    return picture
