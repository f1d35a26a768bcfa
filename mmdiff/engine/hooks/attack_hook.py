"""Attack every batch of validation or testing."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdiff.attacks import Attack, AttackStats
from mmdiff.registry import ATTACKS, HOOKS


def ground_truth_scale(dataset) -> str:
    """``'input'`` if a dataset's pipeline resizes after loading boxes, as for training.

    mmdet's test pipelines load boxes after ``Resize``: then they are at the scale of
    the file (``'original'``).
    """
    while not hasattr(dataset, 'pipeline') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    names = [type(transform).__name__ for transform in transforms]
    if 'LoadAnnotations' in names:
        if any('Resize' in name for name in names[names.index('LoadAnnotations') :]):
            return 'input'
    return 'original'


@HOOKS.register_module()
class AttackHook(Hook):
    """Replace the inputs of every batch by adversarial ones: metrics become robust.

    The attack runs in front of the model's ``data_preprocessor``; everything else of
    the run (model, metrics, visualization of predictions) stays as it is.

    Args:
        attack: An attack, or its config (``dict(type='mmdiff.PGD', eps=8)``).
        stages: Of ``'val'`` and ``'test'``, those to attack.

    Raises:
        ValueError: For an unknown stage.

    Example:
        >>> hook = AttackHook(dict(type='mmdiff.PGD', eps=8, steps=10), stages=['test'])
        >>> hook.attack.eps
        8
    """

    priority = 'LOW'  # after hooks that change the model, as EMAHook

    def __init__(
        self, attack: dict | Attack, stages: tuple[str, ...] = ('val', 'test')
    ) -> None:
        if set(stages) - {'val', 'test'}:
            raise ValueError(f"stages={stages} may name only 'val' and 'test'.")
        self.attack = ATTACKS.build(attack) if isinstance(attack, dict) else attack
        self.stages = tuple(stages)

    def _begin(self, dataloader) -> None:
        self.attack.stats = AttackStats()
        self.attack.gt_scale = ground_truth_scale(dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        if 'val' in self.stages:
            self._begin(runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        if 'test' in self.stages:
            self._begin(runner.test_dataloader)

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if 'val' in self.stages:
            data_batch['inputs'] = self.attack(runner.model, data_batch)

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if 'test' in self.stages:
            data_batch['inputs'] = self.attack(runner.model, data_batch)

    def after_val(self, runner: Runner) -> None:
        if 'val' in self.stages:
            self._report(runner)

    def after_test(self, runner: Runner) -> None:
        if 'test' in self.stages:
            self._report(runner)

    def _report(self, runner: Runner) -> None:
        stats, threat = self.attack.stats, self.attack.threat_model()
        settings = ', '.join(f'{key}={value}' for key, value in threat.items())
        runner.logger.info(
            f'Attacked {stats.images} images ({settings}): {stats.changed} changed, '
            f'max |delta| {stats.max_delta:.2f}, {stats.grad_evals} gradients, '
            f'{stats.zero_grads} of them zero'
        )
