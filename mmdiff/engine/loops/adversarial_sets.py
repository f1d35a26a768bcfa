"""Attacked images of every row of a report, as data sets that other tools read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from mmdiff.datasets.layouts import Picture
from mmdiff.evaluation.entry import Entry
from mmdiff.evaluation.results import Results
from mmdiff.utils.digests import digest_file, digest_json
from mmdiff.utils.files import whole_file, whole_folder, write_json

from .cached_runs import CachedRuns
from .image_store import FORMATS, PNG_CHANNELS, ImageStore, check_format, read_image
from .robust_plan import RobustPlan, Run
from .set_folder import (
    OnDisk,
    fill_folder,
    ids_of,
    names_of,
    objects_of,
    write_annotations,
    write_classes,
)
from .set_readme import how_to_read, readme

SCHEMA = 'mmdiff-adversarial/1'
MARK, BUDGET = 'saved.json', 'budget.json'


def folder_name(key: str) -> str:
    """Name of a row's folder, whatever its objective is called.

    Example:
        >>> folder_name('pgd_total_eps0.5'), folder_name('apgd_Mine_k[1, 2]_eps4')
        ('pgd_total_eps0.5', 'apgd_Mine_k_1_2__eps4')
    """
    return re.sub(r'[^\w.+-]+', '_', key)


class AdversarialSets:
    """Writes a folder for each row: images, annotations, and what they are.

    The images of runs are kept beside the state of the runs, so a run that was killed
    goes on with them; folders are put together from those when a row is done, and
    appear whole or not at all. An image that a row skipped is that of the attack that
    fooled it. ``worst_case`` holds the images that its row counts.

    Args:
        folder: Where to write.
        kind: ``'png'`` or ``'npy'``.
        runs: The runs.
    """

    def __init__(self, folder: str | Path, kind: str, runs: CachedRuns) -> None:
        self.folder = Path(folder)
        self.store = ImageStore(kind)
        self.runs = runs
        self.written: dict[str, dict[str, Any]] = {}

    def open(self, plan: RobustPlan, batch: Mapping[str, Any], name: str) -> None:
        """Refuse, before any work, what cannot be written; else mark the folder.

        Args:
            plan: What is going to be run.
            batch: Batch of one image.
            name: Name of the model.

        Raises:
            ValueError: For images that the format cannot hold, or a folder with other
                content, of another run or with an attack of other settings.
        """
        self.channels = len(batch['inputs'][0])
        check_format(self.store.kind, self.channels)
        if 'img_shape' not in batch['data_samples'][0].metainfo:
            raise ValueError(
                'Images cannot be saved with their annotations: nothing says how '
                "large they are; add 'img_shape' to the meta_keys of the test pipeline."
            )
        runs = [plan.clean, *(run for step in plan.steps for run in step.runs)]
        self.runs_by_name: dict[str, Run] = {run.name: run for run in runs}
        self.runs_of_key = {'clean': self._states([plan.clean])}
        for step in plan.steps:
            self.runs_of_key[step.entry.key] = self._states(step.runs)
        mark = {
            'schema': SCHEMA,
            'model': name,
            'run': self.runs.folder.name,
            'files': self.store.kind,
        }
        self.runs.store = self.store
        if self.runs.rank != 0:  # the first one alone reads and writes there
            return
        self._check_mark(mark)
        for key, states in self.runs_of_key.items():
            self._check_row(key, states)
        try:
            write_json(self.folder / MARK, mark)
        except OSError as error:
            raise ValueError(
                f'{self.folder} cannot be written ({error}); give another folder.'
            ) from None

    def _states(self, runs: Sequence[Run]) -> list[str]:
        return [self.runs.folder_of(run).name for run in runs]

    def _check_mark(self, mark: Mapping[str, str]) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise ValueError(f'{self.folder} is a file; give a folder to save images.')
        if not any(self.folder.iterdir()):
            return
        there = _read_json(self.folder / MARK)
        if there is None:
            raise ValueError(
                f'{self.folder} holds other files; give an empty or new folder to save '
                'images.'
            )
        if any(there.get(key) != mark[key] for key in ('schema', 'run', 'files')):
            other = f'{there.get("model")}, {there.get("files")}'
            raise ValueError(
                f'{self.folder} holds images of another run ({other}; another model, '
                'weights, data, batch size or format); give another folder.'
            )

    def _check_row(self, key: str, states: Sequence[str]) -> None:
        folder = self.folder / folder_name(key)
        if not folder.exists():
            return
        about = _read_json(folder / BUDGET)
        if about is None or about.get('key') != key or about.get('runs') != states:
            raise ValueError(
                f'{folder} holds something else than images of this attack with these '
                'settings; give another folder, or move it away.'
            )

    def write(self, entry: Entry, origin: list[str], results: Results) -> None:
        """Write the folder of a row.

        Args:
            entry: The row.
            origin: Name of the run that each image comes from.
            results: The report so far.
        """
        if self.runs.rank != 0:
            return
        files = [self._file(name, i) for i, name in enumerate(origin)]
        about = self._about(entry, results, origin)
        about['content'] = _digest(files)
        self.written[entry.key] = about
        folder = self.folder / folder_name(entry.key)
        there = _read_json(folder / BUDGET)
        if there is not None and _is_whole(folder, there, about):
            about['on_disk'] = there['on_disk']
            self._tell(entry, folder)
            return
        with whole_folder(folder, replace=True) as partial:
            self._fill(partial, files)
            images = [partial / 'images' / picture.file for picture in self.pictures]
            clean = [self._file('clean', i) for i in range(len(files))]
            about['on_disk'] = asdict(OnDisk.measure(images, clean))
            self._tell(entry, partial)

    def finish(self, results: Results) -> None:
        """Say in every folder what the checks say of its row."""
        for entry in results.entries:
            if entry.key in self.written:
                self._tell(entry, self.folder / folder_name(entry.key))

    def _file(self, run: str, index: int) -> Path:
        """File of one image of a run, by the name of the run."""
        return self.store.path(self.runs.folder_of(self.runs_by_name[run]), index)

    def _tell(self, entry: Entry, folder: Path) -> None:
        """Write what a folder says of itself."""
        about = self.written[entry.key]
        about['notes'] = [*_notes(about), *(f'(!) {text}.' for text in entry.reasons)]
        data = self.runs.runner.cfg.test_dataloader.dataset
        pads = [dict(t) for t in data.get('pipeline', ()) if t['type'] == 'Pad']
        place = self.folder / folder_name(entry.key)
        reading = how_to_read(place, about, self.classes, pads)
        with whole_file(folder / 'README.md') as partial:
            partial.write_text(readme(about, reading), 'utf-8')
        write_json(folder / BUDGET, about)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; their numbers, where nobody knows names."""
        names = self.runs.scorer.truth.classes
        return names or [str(k) for k in range(self.runs.oracle.num_classes)]

    @cached_property
    def pictures(self) -> list[Picture]:
        """The images, which are named alike and show the same in every row."""
        images, detects = self.runs.images, self.runs.oracle.task == 'detection'
        pictures = []
        for i, (name, number) in enumerate(zip(names_of(images), ids_of(images))):
            file, sample = self._file('clean', i), images.sample(i)
            picture = Picture(name, name + file.suffix, read_image(file).shape, number)
            if detects:
                picture.objects = objects_of(self.runs.oracle, sample)
            else:
                picture.label = int(sample.gt_label)
            pictures.append(picture)
        return pictures

    def _fill(self, folder: Path, files: Sequence[Path]) -> None:
        fill_folder(folder, files, self.pictures)
        if self.runs.oracle.task == 'detection':
            write_annotations(folder, self.pictures, self.classes, self.voc)
        else:
            write_classes(folder, self.pictures)

    @property
    def voc(self) -> bool:
        """Whether sets have VOC's layout beside a COCO file; floats are no JPEG."""
        voc_boxes = getattr(self.runs.scorer, 'voc_boxes', False)
        return voc_boxes and self.store.kind == 'png'

    def _about(
        self, entry: Entry, results: Results, origin: list[str]
    ) -> dict[str, Any]:
        """What ``budget.json`` says, but for what is measured on disk."""
        png = self.store.kind == 'png'
        names = list(dict.fromkeys(origin))
        return {
            'schema': SCHEMA,
            'key': entry.key,
            'name': entry.name,
            'role': entry.role,
            'attack': entry.attack,
            'norm': entry.norm,
            'eps': entry.eps,
            'mask': entry.budget.mask if entry.budget else '',
            'settings': entry.settings,
            'model': results.name,
            'config': results.config,
            'checkpoint': results.checkpoint,
            'dataset': results.dataset,
            'task': results.task,
            'num_images': len(origin),
            'files': self.store.kind,
            'channels': self.channels,
            'voc': self.voc,
            'clean': '../clean',
            'metric': entry.metric,
            'metric_of_values': entry.value,
            'metric_of_files': entry.after_rounding if png else entry.value,
            'runs': self.runs_of_key.get(entry.key, []),
            'images_of': {name: origin.count(name) for name in names},
            'origin': {p.file: name for p, name in zip(self.pictures, origin)},
        }


def sets_of(
    folder: str | None, kind: str | None, runs: CachedRuns
) -> AdversarialSets | None:
    """Sets to write, by settings of a loop; ``None`` if no folder is given.

    Raises:
        ValueError: For an unknown format, or one without a folder.
    """
    if folder is None:
        if kind is not None:
            raise ValueError(
                f'save_format={kind!r} says how to save images, and not where; add '
                "save_adversarial='DIR' (--save-adversarial DIR)."
            )
        return None
    check_format(kind or FORMATS[0], PNG_CHANNELS[-1])
    return AdversarialSets(folder, kind or FORMATS[0], runs)


def _notes(about: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a set before using it."""
    notes = []
    clean = about['images_of'].get('clean', 0)
    if about['role'] != 'clean' and clean:
        notes.append(f'{clean} images are the clean ones: no attack changed them.')
    if about['role'] == 'attack' and len(about['images_of']) > 1:
        notes.append('Images are of several runs; budget.json has that of each image.')
    if (
        about['role'] != 'clean'
        and about['on_disk']['unchanged'] == about['num_images']
    ):
        notes.append('Every image is the clean one: these files hold no attack.')
    return notes


def _is_whole(folder: Path, there: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    """Whether a folder has the images that it is to have, as they were written."""
    if there.get('content') != about['content'] or 'on_disk' not in there:
        return False
    names = list(about['origin'])
    if {path.name for path in (folder / 'images').glob('*')} != set(names):
        return False
    return _digest([folder / 'images' / name for name in names]) == about['content']


def _digest(files: Sequence[Path]) -> str:
    """Name what files have in them."""
    return digest_json([digest_file(file) for file in files])


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read an object; ``None`` if it is damaged or not there."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
