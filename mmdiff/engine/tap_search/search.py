"""The search: cell by cell, each kept on disk, within a time."""

from __future__ import annotations

import json
import shutil
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdiff.utils.digests import SHORT, digest_json, digest_model
from mmdiff.utils.files import strict_json, write_json
from mmdiff.version import __version__

from ..ground_truth import ground_truth_scale
from ..loops.origin import name_of, versions
from ..presets import CLASSIFICATION, task_of_config
from ..training_images import leaf_of
from .board import Board
from .build import build_backbone, build_preprocessor, preprocessor_config
from .features import GridFeatures
from .grid import Cell, Grid
from .images import SearchImages
from .measure import Bench
from .pages import config_lines, draw_heat_map, to_markdown
from .probed_model import ProbedModel, oracle_of_probe
from .results import SCHEMA, CellResult, SearchResults
from .settings import SearchSettings
from .targets import ImageClasses, LocationClasses, Task

# What the cells of a grid differ in.
VARIED = ('out_indices', 'timestep', 'sigma', 'num_noise')


class TapSearch:
    """Search taps, noise level and number of noises of a frozen prior.

    Each cell of the grid is a fast probe on frozen features of training images, scored
    on others of them, clean and under PGD (Madry et al. 2018) through preprocessor,
    U-Net and probe with exact gradients. A classifier's probe tells the class from
    pooled features, a detector's the class at each location
    (:mod:`~mmdiff.engine.tap_search.targets`). A backbone that draws fresh noise is
    fitted and scored on one draw each, and attacked with ``eot``.

    The work dir gets ``search.json``, ``search.md`` and ``search.png``; cells that are
    done and features are kept there, too, so a search goes on where it was killed, and
    may be given more taps and times.

    Args:
        cfg: Config of a detector or classifier.
        work_dir: Folder of the search.
        settings: What all cells have in common.
        taps, times, num_noise: The grid; see :meth:`Grid.of`. ``num_noise=None`` is
            that of the config.
        minutes: No cell is started that would end later; ``None``: no limit.
        fresh: Forget another search in the work dir.
        board: Shows progress; ``None``: nothing is shown.

    Raises:
        ValueError: For a config, grid or work dir that cannot be searched.
        FileNotFoundError: If data or the prior are missing.
    """

    def __init__(
        self,
        cfg: Config,
        work_dir: str | Path,
        settings: SearchSettings | None = None,
        taps: Sequence[str] | None = None,
        times: Sequence[str | float] | None = None,
        num_noise: Sequence[int] | None = None,
        minutes: float | None = None,
        fresh: bool = False,
        board: Board | None = None,
    ) -> None:
        if minutes is not None and not minutes > 0:
            raise ValueError(
                f'A search with minutes={minutes:g} has no time left for any cell; '
                'give more minutes.'
            )
        self.deadline = None if minutes is None else clock.monotonic() + 60 * minutes
        self.cfg, self.work_dir = cfg, Path(work_dir)
        self.board = board or Board()
        settings = settings or SearchSettings()
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')):
            self.backbone = build_backbone(cfg, num_noise, settings.seed)
            if num_noise is None:
                num_noise = [self.backbone.num_noise]
            self.grid = Grid.of(self.backbone.model, taps, times, num_noise)
            task = task_of_config(cfg) or 'detection'
            self.settings = settings.for_task(task, self.backbone.draws_noise)
            self.images = SearchImages(cfg, self.settings)
            self.task = self._task(task)
            self.identity = self._identity()
        self._check_work_dir(fresh)

    def _task(self, task: str) -> Task:
        count = len(self.images.classes)
        if not count:
            raise ValueError(
                'The training set does not name its classes; give it metainfo=dict('
                'classes=(...)).'
            )
        if task == CLASSIFICATION:
            return ImageClasses(count)
        return LocationClasses(count, self.settings.stride)

    def _identity(self) -> str:
        """Name of all that the cells have in common."""
        backbone = self.cfg.model.backbone.to_dict()
        common = {k: v for k, v in backbone.items() if k not in VARIED}
        return digest_json(
            [
                [SCHEMA, __version__, self.task.metric, self.task.probe],
                [common, digest_model(self.backbone.model)],
                preprocessor_config(self.cfg),
                self.images.digest(),
                self.settings.identity(),
                next(self.backbone.parameters()).device.type,
            ]
        )

    def _check_work_dir(self, fresh: bool) -> None:
        """Complain about a work dir of another search, or forget it.

        Raises:
            ValueError: If there is one.
        """
        file = self.work_dir / 'search.json'
        if fresh:
            shutil.rmtree(self.work_dir / 'cells', ignore_errors=True)
            file.unlink(missing_ok=True)
        if not file.exists():
            return
        try:
            there = json.loads(file.read_text(encoding='utf-8'))
            name, config = there['search'], there['config']
        except (KeyError, TypeError, ValueError):
            name, config = None, 'an unknown config'
        if name != self.identity:
            raise ValueError(
                f'{self.work_dir} holds another search ({config}: another prior, other '
                'images or other settings); give another --work-dir, or replace it by '
                '--fresh.'
            )

    def run(self) -> SearchResults:
        """Measure the cells that are missing, and write what is known.

        Raises:
            ValueError: If there is no ground truth, or no time for a single cell.
            GradientBlocked: If no gradient reaches the images.
        """
        known = {cell: self._load(cell) for cell in self.grid.cells}
        missing = [cell for cell, result in known.items() if result is None]
        measured_now = 0
        if missing:
            scope = self.cfg.get('default_scope', 'mmdet')
            with self.board, DefaultScope.overwrite_default_scope(scope):
                self.board.start(len(known), len(known) - len(missing))
                for cell, result in self._measure(missing, known):
                    known[cell] = result
                    measured_now += 1
                    self._write(self._results(known))
        results = self._results(known)
        self._write(results)
        self._write_pages(results)
        if missing and not measured_now:
            raise ValueError(
                f'There is no time left for a single cell: {len(missing)} of '
                f'{len(known)} are missing, the next one {self._say(missing[0])}; give '
                'more --minutes.'
            )
        return results

    def _measure(
        self, missing: Sequence[Cell], known: Mapping[Cell, CellResult | None]
    ) -> Iterator[tuple[Cell, CellResult]]:
        """Measure cells in order, as long as there is time; give each as it is done."""
        bench = None
        for cell in missing:
            if not self._fits(cell, [r for r in known.values() if r is not None]):
                return
            self.board.name(self._say(cell))
            if bench is None:
                bench = self._bench()
                self._write(self._results(known))  # the folder is of this search now
            result = bench.measure(cell, _taps_beside(cell, missing))
            result.save(self._file(cell))
            self.board.advance()
            yield cell, result

    def _bench(self) -> Bench:
        """Put the model together, and load images."""
        preprocessor = build_preprocessor(self.cfg)
        device = next(self.backbone.parameters()).device
        model = ProbedModel(preprocessor, self.backbone, self.task).to(device).eval()
        scale = 'original'
        if isinstance(self.task, LocationClasses):
            scale = ground_truth_scale(self.images.dataset)
        oracle = oracle_of_probe(model, scale)
        folder = self.work_dir / 'features'
        settings = self.settings
        return Bench(
            model,
            oracle,
            GridFeatures(model, folder, settings.max_gb, settings.seed),
            self.images.parts(self.images.fit, oracle, self.task),
            self.images.parts(self.images.held_out, oracle, self.task),
            settings,
            self.board.track,
        )

    def _fits(self, cell: Cell, done: Sequence[CellResult]) -> bool:
        """Whether a cell would end in time, by the slowest one that is known."""
        if self.deadline is None:
            return True
        needed = [r.seconds * cell.num_noise / r.cell.num_noise for r in done]
        return clock.monotonic() + max(needed, default=0.0) < self.deadline

    def _file(self, cell: Cell) -> Path:
        return self.work_dir / 'cells' / f'{digest_json([self.identity, cell])}.json'

    def _load(self, cell: Cell) -> CellResult | None:
        result = CellResult.load(self._file(cell))
        return result if result is not None and result.cell == cell else None

    def _say(self, cell: Cell) -> str:
        unit = self.backbone.model.time_unit
        noises = '' if cell.num_noise == 1 else f', {cell.num_noise} noises'
        return f'{cell.name} at {unit} {cell.time:g}{noises}'

    def _results(self, known: Mapping[Cell, CellResult | None]) -> SearchResults:
        return SearchResults(
            self._about(),
            self.backbone.model.time_unit,
            self.task.metric,
            self.settings.eps,
            [result for result in known.values() if result is not None],
            [cell for cell, result in known.items() if result is None],
        )

    def _about(self) -> dict[str, Any]:
        """Where numbers come from, without a path of this machine."""
        backbone, images = self.backbone, self.images
        model = self.cfg.model.backbone.to_dict()['model']
        source = model.get('source', model) if isinstance(model, dict) else model
        leaf = leaf_of(images.config)
        about = {
            'search': self.identity,
            'config': name_of(self.cfg),
            'task': self.task.name,
            'prior': {
                'source': source,
                'digest': digest_model(backbone.model)[:SHORT],
                'time_unit': backbone.model.time_unit,
                'noise': backbone.noise,
                'noise_seed': backbone.noise_seed,
                'condition': backbone.condition,
            },
            'dataset': {
                'type': leaf['type'],
                'ann_file': leaf.get('ann_file', ''),
                'data_prefix': leaf.get('data_prefix', ''),
                'classes': list(images.classes),
                'fit': len(images.fit),
                'held_out': len(images.held_out),
                'left_out': images.left_out,
            },
            'probe': self.task.probe,
            'attack': 'PGD through the whole model (linf), worst case over budgets',
            'settings': self.settings.identity(),
            'versions': versions(),
            'device': next(backbone.parameters()).device.type,
        }
        return strict_json(about)

    def _write(self, results: SearchResults) -> None:
        """Write ``search.json``, whole or not at all."""
        raw = results.to_json()
        if results.cells:
            raw['config_lines'] = config_lines(results, self.backbone.model)
        write_json(self.work_dir / 'search.json', raw)

    def _write_pages(self, results: SearchResults) -> None:
        """Write what is to be looked at, once the search ends."""
        if results.cells:
            lines = config_lines(results, self.backbone.model)
            draw_heat_map(results, self.work_dir / 'search.png')
            to_markdown(results, lines, self.work_dir / 'search.md')


def _taps_beside(cell: Cell, missing: Sequence[Cell]) -> list[str]:
    """Taps of all missing cells at the time of one: one pass gives them all."""
    point = cell.time, cell.num_noise
    beside = [c.taps for c in missing if (c.time, c.num_noise) == point]
    return list(dict.fromkeys(tap for taps in beside for tap in taps))
