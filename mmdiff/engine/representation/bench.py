"""What measures of one representation need: features, a probe, attacked images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import hflip, resized_crop

from mmdiff.attacks import PGD, AttackStats
from mmdiff.attacks.oracle import Oracle
from mmdiff.utils.digests import digest_json
from mmdiff.utils.seeding import mix_seed

from ..loops.seeds import seeded
from ..tap_search.images import Part
from ..tap_search.probe import fit_probe
from ..tap_search.probed_model import ProbedModel, oracle_of_probe
from ..tap_search.targets import ImageClasses, Task
from .loading import Loaded, scale_of
from .settings import AnalysisSettings
from .store import ArrayStore
from .subjects import Subject

Track = Callable[[Sequence[Part], str], Iterable[Part]]
# Views of contrastive learning: a crop of so much of the image, at its size again.
CROP_SCALE, CROP_RATIO = (0.5, 1.0), (3 / 4, 4 / 3)
VIEW = 'random crop of 50 to 100 % at the size of the image, flipped half of the time'


class Bench:
    """One layer of one subject, on its images.

    Args:
        subject: The subject.
        layer: One of its layers.
        task: What a probe tells.
        loaded: Its images.
        settings: Settings of the analysis.
        store: Keeps arrays.
        track: Shows progress.
    """

    def __init__(
        self,
        subject: Subject,
        layer: nn.Module,
        task: Task,
        loaded: Loaded,
        settings: AnalysisSettings,
        store: ArrayStore,
        track: Track,
    ) -> None:
        self.subject, self.layer, self.task = subject, layer, task
        self.loaded, self.settings = loaded, settings
        self.store, self.track = store, track
        self.model = ProbedModel(subject.preprocessor, layer, task).eval()
        self.oracle: Oracle = oracle_of_probe(self.model, scale_of(subject, task))

    @property
    def pooled(self) -> bool:
        """Whether a probe sees one vector per image."""
        return isinstance(self.task, ImageClasses)

    def name_of(self, what: str) -> str:
        """Name of arrays on disk."""
        settings = self.settings
        common = [self.subject.identity, self.layer.layer, settings.identity()]
        return digest_json([*common, what, self.subject.images.digest()])

    def inputs(self, part: Part, images: Sequence[Tensor] | None = None) -> Tensor:
        """Preprocessed images of a part, or others in their place, (N, 3, H, W)."""
        batch = part.batch if images is None else {**part.batch, 'inputs': images}
        group = self.oracle.gather(batch)
        data = self.oracle.preprocess(group.pixels, group.samples, group.frames)
        return data['inputs']

    @torch.no_grad()
    def maps_of(self, x: Tensor, *seed: object) -> Tensor:
        """Output of the layer, (N, C, H, W), with what it draws seeded."""
        with seeded(mix_seed(self.settings.seed, *seed)):
            (value,) = self.layer(x)
        return value

    @cached_property
    def features(self) -> dict[str, np.ndarray]:
        """``fit`` and ``measured``, (N, C); ``rows``, (R, C), to fit probes on."""
        return self.store.get(self.name_of('features'), self._features)

    def _features(self) -> dict[str, np.ndarray]:
        arrays: dict[str, list[Tensor]] = {'fit': [], 'measured': [], 'rows': []}
        each_rows, _ = self.loaded.rows(self.settings.seed)
        rows_of = {id(part): r for part, r in zip(self.loaded.fit, each_rows)}
        for part in self.track(self.loaded.fit, 'features'):
            x = self.inputs(part)
            maps = self.maps_of(x, 'fit', part.numbers[0])
            arrays['fit'].append(maps.mean((2, 3)).cpu())
            if self.tells_locations:
                grid = self.model.to_grid(maps, x)
                arrays['rows'].append(rows_of[id(part)].take(grid.flatten(2).cpu()))
        for part in self.track(self.loaded.measured, 'features'):
            maps = self.maps_of(self.inputs(part), 'measured', part.numbers[0])
            arrays['measured'].append(maps.mean((2, 3)).cpu())
        joined = {name: torch.cat(v) for name, v in arrays.items() if v}
        order = _order(self.loaded.measured)
        joined['measured'] = joined['measured'][order]
        return {name: value.numpy() for name, value in joined.items()}

    @property
    def tells_locations(self) -> bool:
        """Whether a probe of this task can be fitted on this layer."""
        return self.pooled or getattr(self.layer, 'ndim', 4) == 4

    def check_probe(self) -> None:
        """Complain about a layer that the task's probe cannot be fitted on.

        Raises:
            ValueError: If so.
        """
        if not self.tells_locations:
            raise ValueError(
                f'{self.layer.layer} gives no map, and the probe of a detector tells '
                'the class at each location of one; name a layer that gives maps.'
            )

    @cached_property
    def probe(self) -> tuple[nn.Conv2d, float]:
        """A linear probe, and the penalty of its weights.

        Raises:
            ValueError: See :meth:`check_probe`.
        """
        self.check_probe()
        _, rows = self.loaded.rows(self.settings.seed)
        fitted, penalty = fit_probe(self.rows_features, rows, self.task.num_outputs)
        self.model.probe = fitted.to(self.oracle.device)
        return fitted, penalty

    @property
    def rows_features(self) -> Tensor:
        """Features that probes are fitted on, (R, C)."""
        return torch.from_numpy(self.features['rows'])

    @torch.no_grad()
    def scores_of(self, probes: Sequence[nn.Module]) -> np.ndarray:
        """Clean score of each image by several probes, (K, N), 0 to 1."""
        total = sum(len(part.numbers) for part in self.loaded.measured)
        scores = np.zeros((len(probes), total))
        pooled = torch.from_numpy(self.features['measured'])
        for part in self.loaded.measured:
            if self.pooled:
                grid = pooled[part.numbers][:, :, None, None]
            else:
                x = self.inputs(part)
                maps = self.maps_of(x, 'measured', part.numbers[0])
                grid = self.model.to_grid(maps, x)
            for number, probe in enumerate(probes):
                logits = probe(grid.to(self.oracle.device)).flatten(2).cpu()
                value = part.targets.scores(logits).double().numpy()
                scores[number, part.numbers] = value.clip(0, 1)
        return scores

    @cached_property
    def views(self) -> np.ndarray:
        """Features of augmented views of the images to measure on, (N, C)."""
        arrays = self.store.get(self.name_of('views'), self._views)
        return arrays['features']

    def _views(self) -> dict[str, np.ndarray]:
        values = []
        for part in self.track(self.loaded.measured, 'augmented views'):
            group = self.oracle.gather(part.batch)
            pixels = []
            for x, name in zip(group.pixels, group.ids):
                with seeded(mix_seed(self.settings.seed, 'view', name)):
                    pixels.append(augmented(x))
            data = self.oracle.preprocess(pixels, group.samples, group.frames)
            maps = self.maps_of(data['inputs'], 'view', part.numbers[0])
            values.append(maps.mean((2, 3)).cpu())
        joined = torch.cat(values)[_order(self.loaded.measured)]
        return {'features': joined.numpy()}

    @cached_property
    def attacked(self) -> dict[str, np.ndarray]:
        """Of each budget, ``scores``, (E, A), and ``features``, (E, A, C), under PGD.

        ``account`` has gradients, those that were 0, and those not finite.
        """
        self.probe  # noqa: B018 (it is what is attacked)
        return self.store.get(self.name_of('attacked'), self._attacked)

    def _attacked(self) -> dict[str, np.ndarray]:
        stats, scores, features = AttackStats(), [], []
        order = _order(self.loaded.attacked)
        for eps in self.settings.attack_eps:
            attack = PGD(
                eps,
                steps=self.settings.attack_steps,
                eot=self.settings.eot or (4 if self.subject.draws_noise else 1),
                seed=self.settings.seed,
            )
            told, seen = [], []
            for part in self.track(self.loaded.attacked, f'PGD at eps {eps:g}'):
                result = attack.run(self.oracle, part.batch)
                stats.add(result.stats)
                x = self.inputs(part, result.inputs)
                maps = self.maps_of(x, 'attacked', eps, part.numbers[0])
                seen.append(maps.mean((2, 3)).cpu())
                with torch.no_grad():
                    grid = self.model.to_grid(maps, x)
                    logits = self.model.probe(grid).flatten(2).cpu()
                told.append(part.targets.scores(logits).double().clamp(0, 1))
            scores.append(torch.cat(told)[order].numpy())
            features.append(torch.cat(seen)[order].numpy())
        account = [stats.grad_evals, stats.zero_grads, stats.nonfinite_grads]
        return {
            'scores': np.stack(scores),
            'features': np.stack(features),
            'account': np.array(account),
        }

    def gradients(self) -> Iterable[Tensor]:
        """Gradient of the probe's loss to each clean image, (3, H, W), no order."""
        self.probe  # noqa: B018 (its loss is differentiated)
        seed = self.settings.seed
        eot = self.settings.eot or (4 if self.subject.draws_noise else 1)
        attack = PGD(1, seed=seed)
        for part in self.track(self.loaded.measured, 'gradients'):
            group = self.oracle.gather(part.batch)
            with self.oracle.attacked():
                question = self.oracle.ask(
                    group, AttackStats(), attack.seed_of, 'total', 'moving', eot
                )
                grads, _ = question.gradients(group.pixels, 0, 0)
            yield from (grad.cpu() for grad in grads)


def _order(parts: Sequence[Part]) -> Tensor:
    """What puts images of joined parts in the order of the images."""
    numbers = [number for part in parts for number in part.numbers]
    return torch.tensor(numbers).argsort()


def augmented(image: Tensor) -> Tensor:
    """Another view of an image, (C, H, W), by the global random state: `VIEW`."""
    size = list(image.shape[-2:])
    place = RandomResizedCrop.get_params(image, list(CROP_SCALE), list(CROP_RATIO))
    view = resized_crop(image, *place, size, antialias=True).clamp(0, 255)
    return hflip(view) if torch.rand(()) < 0.5 else view
