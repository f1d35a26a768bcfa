"""Fit one perturbation for all images, in a run that can be killed and resumed."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_dist_info
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from rich.progress import track
from torch.utils.data import DataLoader

from mmdiff.attacks import PGD, Perturbation, UniversalFit, oracle_of
from mmdiff.attacks.budget import check_count
from mmdiff.attacks.objectives import objective_name
from mmdiff.attacks.perturbation import SCHEMA, SUFFIX
from mmdiff.registry import ATTACKS, LOOPS
from mmdiff.utils.digests import digest_code, digest_json, digest_model
from mmdiff.utils.modules import device_of, unwrap
from mmdiff.utils.seeding import mix_seed

from ..ground_truth import ground_truth_scale, metainfo_of, truth_needed
from ..training_images import images_of, leaf_of, without_mixing
from .cached_runs import describe
from .image_set import ImageSet
from .origin import name_of

# What of a config is for training, which no fit needs.
TRAINING = (
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'val_dataloader',
    'val_cfg',
    'val_evaluator',
)


@LOOPS.register_module()
class UniversalLoop(BaseLoop):
    """Fit a universal perturbation on the images of the dataloader.

    After every epoch the perturbation is written beside ``out``. A run that was killed
    and is started again goes on there, and gives the file of an uninterrupted one.

    Args:
        runner: The runner.
        dataloader: Images to fit on, with ground truth.
        evaluator: Not asked.
        attack: :class:`mmdiff.attacks.PGD` or its config, whose objective, budget,
            mask, ``eot``, ``step_size`` and ``seed`` are meant.
        out: File of the perturbation, ``.safetensors``.
        held_out: Config of the test set: images that are in it, too, are left out.
        name: Name of the images, for reports.
        epochs: Passes over the images.
        batch_size: Images of one step.
        indices: Take this number of first images only.
        fresh: Replace what is there.

    Raises:
        ValueError: For wrong settings, or no images; on running, if ``out`` is there
            and was fitted otherwise.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Any = None,
        *,
        attack: PGD | dict,
        out: str,
        held_out: dict | None = None,
        name: str = 'images',
        epochs: int = 10,
        batch_size: int = 8,
        indices: int | None = None,
        fresh: bool = False,
    ) -> None:
        self.out, self.fresh = Path(out), fresh
        self.state = self.out.with_suffix(f'.unfinished{SUFFIX}')
        if isinstance(attack, dict):
            attack = ATTACKS.build({**attack, '_scope_': 'mmdiff'})
        self.attack = attack
        self.epochs, self.batch_size = epochs, batch_size
        self._check_settings(indices)
        super().__init__(runner, dataloader)
        dataset = self.dataloader.dataset
        self.oracle = oracle_of(runner.model, ground_truth_scale(dataset))
        self.oracle.classes = tuple(metainfo_of(dataset).get('classes', ()))
        self.images = ImageSet(self.dataloader, lambda sample: None)
        self.chosen = self._choose(held_out, indices)
        self.fitted_on = (
            f'{name_of(runner.cfg)}, {len(self.chosen)} images of {name}, objective '
            f'{objective_name(self.attack.objective)}, {epochs} epochs'
        )

    def _choose(self, held_out: dict | None, indices: int | None) -> list[int]:
        """Numbers of the images to fit on.

        Raises:
            ValueError: If none is left without those of the test set.
        """
        all_images = images_of(self.dataloader.dataset)
        taken = {*([] if held_out is None else images_of(DATASETS.build(held_out)))}
        kept = [i for i, image in enumerate(all_images) if image not in taken]
        self.left_out = len(all_images) - len(kept)
        if not kept:
            raise ValueError(
                f'There are no images to fit on: {self.left_out} of {len(all_images)} '
                'are in the test set; give other training images.'
            )
        return kept[:indices]

    def _check_settings(self, indices: int | None) -> None:
        """Complain about settings that no fit can have.

        Raises:
            ValueError: In one sentence.
        """
        if self.out.suffix != SUFFIX:
            raise ValueError(f'out={self.out} must be a {SUFFIX} file.')
        if not isinstance(self.attack, PGD) or not self.attack.eps:
            raise ValueError('A universal perturbation is fitted by PGD, eps above 0.')
        counts = {'epochs': self.epochs, 'batch_size': self.batch_size}
        counts['indices'] = 1 if indices is None else indices
        for setting, value in counts.items():
            check_count(setting, value)
        if get_dist_info()[1] > 1:
            raise ValueError(
                'A universal perturbation is fitted by one process; start it without '
                'a launcher.'
            )

    def run(self) -> dict[str, float]:
        """Fit what is missing and write ``out``; return mean objectives by epoch."""
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        logger = self.runner.logger
        without = f' ({self.left_out} of the test set left out)' * bool(self.left_out)
        logger.info(f'fit {self.attack.budget} on {self.fitted_on}{without}')
        self.key = digest_json(self._identity())
        metrics: dict[str, float] = {}
        if self._is_finished():
            logger.info(f'{self.out} is there already, from the same fit')
        else:
            metrics = self._fit()
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def _identity(self) -> list:
        """All that the perturbation depends on."""
        model, cfg = unwrap(self.runner.model), self.runner.cfg
        digests = self.images.digests(self.chosen) or [''] * len(self.chosen)
        return [
            SCHEMA,
            [describe(self.attack), self.epochs, self.batch_size],
            cfg.model.to_dict(),
            digest_model(model),
            digest_code(type(module) for module in model.modules()),
            cfg.test_dataloader.dataset.to_dict(),
            [[i, digest] for i, digest in zip(self.chosen, digests)],
            device_of(model).type,
        ]

    def _is_finished(self) -> bool:
        """Whether ``out`` is there, of this fit; forget what is there, if asked to.

        Raises:
            ValueError: If it is of another fit.
        """
        if self.fresh:
            self.out.unlink(missing_ok=True)
            self.state.unlink(missing_ok=True)
        return self._load(self.out) is not None

    def _load(self, file: Path) -> Perturbation | None:
        """Read a perturbation of this fit; ``None`` if it is not there.

        Raises:
            ValueError: If it is of another fit, or damaged.
        """
        if not file.exists():
            return None
        there = Perturbation.load(file)
        if there.fit != self.key:
            raise ValueError(
                f'{file} is of another fit ({there.budget}; {there.fitted_on}), or of '
                'other weights or images; give another file, or replace it by --fresh.'
            )
        return there

    def _fit(self) -> dict[str, float]:
        """Run the epochs that are missing.

        Raises:
            ValueError: If nothing came of it.
        """
        per_epoch = -(-len(self.chosen) // self.batch_size)
        attack = replace(self.attack, steps=self.epochs * per_epoch)
        fit = UniversalFit(attack, self.oracle, self._load(self.state))
        there = fit.perturbation
        metrics = {}
        for epoch in range(there.epochs_done if there else 0, self.epochs):
            objective = self._run_epoch(fit, epoch, epoch * per_epoch)
            there = self._keep(fit, epoch)
            metrics[f'objective/epoch_{epoch + 1}'] = objective
            self.runner.logger.info(
                f'epoch {epoch + 1} of {self.epochs}: mean objective {objective:.4g}'
            )
        there.save(self.out)
        self.state.unlink()
        work = fit.stats
        if work.nonfinite_grads or work.zero_grads > 0.1 * work.grad_evals:
            self.runner.logger.warning(
                f'Of {work.grad_evals} gradients {work.zero_grads} were zero and '
                f'{work.nonfinite_grads} not finite: gradients may be hidden.'
            )
        return metrics

    def _run_epoch(self, fit: UniversalFit, epoch: int, first_step: int) -> float:
        """Pass once over the images, in an order of its own; return their objective."""
        seed = mix_seed(self.attack.seed, 'epoch', epoch)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.chosen), generator=generator).tolist()
        size = self.batch_size
        batches = [
            [self.chosen[i] for i in order[k : k + size]]
            for k in range(0, len(order), size)
        ]
        shown = track(
            self.images.load(batches),
            f'epoch {epoch + 1} of {self.epochs}',
            total=len(batches),
        )
        means = []
        for number, batch in enumerate(shown, first_step):
            with truth_needed(batch['data_samples'][0]):
                means.append(fit.step(batch, number))
        known = [mean for mean in means if mean is not None]
        return sum(known) / len(known) if known else float('nan')

    def _keep(self, fit: UniversalFit, epoch: int) -> Perturbation:
        """Write what an epoch left.

        Raises:
            ValueError: If that is no change.
        """
        there = fit.perturbation
        if there is None or not there.values.any():
            raise ValueError(
                'The perturbation is zero after an epoch: no gradient came from any '
                'image; check the mask, the objective and the objects of the images.'
            )
        there.fit, there.fitted_on = self.key, self.fitted_on
        there.epochs, there.epochs_done = self.epochs, epoch + 1
        there.save(self.state)
        return there


def fit_config(cfg: Config, **settings: Any) -> Config:
    """Return a config whose test is a fit on its training images.

    They are read by the test pipeline, each once: wrappers that repeat or mix images
    are taken off.

    Args:
        cfg: Config of a model.
        **settings: Of :class:`UniversalLoop`.

    Raises:
        ValueError: If it has no training set.
    """
    cfg = copy.deepcopy(cfg)
    if not cfg.get('train_dataloader') or not cfg.get('test_dataloader'):
        raise ValueError(
            'The config has no train_dataloader and test_dataloader; a universal '
            'perturbation is fitted on training images, and tested on others.'
        )
    test, train = cfg.test_dataloader.dataset, cfg.train_dataloader.dataset
    images = without_mixing(train.to_dict(), leaf_of(test.to_dict())['pipeline'])
    cfg.test_dataloader.dataset = images
    for name in TRAINING:
        cfg.pop(name, None)
    leaf = leaf_of(images)
    where = leaf.get('ann_file') or leaf.get('data_root') or leaf['type']
    loop = {'type': 'mmdiff.UniversalLoop', 'held_out': test, 'name': str(where)}
    cfg.test_cfg = {**loop, **settings}
    return cfg
