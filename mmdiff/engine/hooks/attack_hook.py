"""Attack every batch of validation or testing."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmdiff.attacks import Attack, AttackStats, oracle_of
from mmdiff.registry import ATTACKS, HOOKS

from ..ground_truth import ground_truth_scale, metainfo_of, truth_needed

STAGES = ('val', 'test')


@HOOKS.register_module()
class AttackHook(Hook):
    """Replace the inputs of every batch by adversarial ones: metrics become robust.

    The attack runs in front of the model's ``data_preprocessor``; everything else of
    the run (model, metrics, visualization of predictions) stays as it is. ``stats`` is
    the account of the last run.

    Args:
        attack: An attack, or its config (``dict(type='mmdiff.PGD', eps=8)``).
        stages: Those of ``'val'`` and ``'test'`` to attack.

    Raises:
        ValueError: For an unknown stage.

    Example:
        >>> hook = AttackHook(dict(type='mmdiff.PGD', eps=8, steps=10), stages=['test'])
        >>> hook.attack.eps
        8
    """

    priority = 'LOW'  # after hooks that change the model, as EMAHook

    def __init__(self, attack: dict | Attack, stages: tuple[str, ...] = STAGES) -> None:
        if set(stages) - set(STAGES):
            raise ValueError(f"stages={stages} may name only 'val' and 'test'.")
        self.attack = ATTACKS.build(attack) if isinstance(attack, dict) else attack
        self.stages = tuple(stages)
        self.stats = AttackStats()
        self._gt_scale: str = 'original'
        self._classes: tuple[str, ...] = ()

    def before_val(self, runner: Runner) -> None:
        if 'val' in self.stages:
            self._begin(runner, runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        if 'test' in self.stages:
            self._begin(runner, runner.test_dataloader)

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if 'val' in self.stages:
            self._attack(runner, data_batch)

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if 'test' in self.stages:
            self._attack(runner, data_batch)

    def after_val(self, runner: Runner) -> None:
        if 'val' in self.stages:
            self._report(runner)

    def after_test(self, runner: Runner) -> None:
        if 'test' in self.stages:
            self._report(runner)

    def _begin(self, runner: Runner, dataloader: DataLoader) -> None:
        self.stats = AttackStats()
        dataset = dataloader.dataset
        self._gt_scale = ground_truth_scale(dataset)
        self._classes = tuple(metainfo_of(dataset).get('classes', ()))
        oracle_of(runner.model, self._gt_scale)  # it says what cannot be attacked

    def _attack(self, runner: Runner, data_batch: Any) -> None:
        # Anew: loops may test one part of a model after another (Soft Teacher).
        oracle = oracle_of(runner.model, self._gt_scale)
        oracle.classes = self._classes
        with truth_needed(data_batch['data_samples'][0]):
            result = self.attack.run(oracle, data_batch)
        self.stats.add(result.stats)
        data_batch['inputs'] = result.inputs

    def _report(self, runner: Runner) -> None:
        stats, threat = self.stats, self.attack.threat_model()
        settings = ', '.join(f'{key}={value}' for key, value in threat.items())
        runner.logger.info(
            f'Attacked {stats.images} images ({settings}): {stats.changed} changed, '
            f'max |delta| {stats.max_delta:.2f}, {stats.grad_evals} gradients, '
            f'{stats.zero_grads} of them zero'
        )
