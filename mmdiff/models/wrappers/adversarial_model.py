"""Adversarial training of any mm model."""

from __future__ import annotations

import copy
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn

from mmdiff.registry import ATTACKS, MODELS
from mmdiff.utils.modules import device_of, task_of
from mmdiff.utils.normalization import batch_statistics
from mmdiff.utils.seeding import mix_seed

from ..losses.passes import Observer, Passes, unobserved
from .training_wrapper import TrainingWrapper

BN_MODES = ('running', 'batch')
# Steps on end whose attack raised nothing before that is said.
PATIENCE = 20


@dataclass
class Stopwatch:
    """Seconds of the attack, and its share of all that happens in a step.

    Attributes:
        begun: When the last step's attack began.
        spent: Seconds that it took.
        share: Its share of the time until the next one began; ``None`` if no step
            came before, or something else than training came between.
    """

    begun: float | None = None
    spent: float = 0.0
    share: float | None = None

    def start(self) -> None:
        """Begin a step."""
        now = time.perf_counter()
        self.share = None if self.begun is None else self.spent / (now - self.begun)
        self.begun = now

    def stop(self) -> None:
        """End the attack."""
        self.spent = time.perf_counter() - self.begun

    def reset(self) -> None:
        """Forget the last step."""
        self.begun = None

    def logged(self) -> dict[str, float]:
        """Numbers for the log, by name."""
        share = {} if self.share is None else {'attack_share': self.share}
        return {'attack_time': self.spent, **share}


@MODELS.register_module()
class AdversarialModel(TrainingWrapper):
    """A model that trains on adversarial images, attacked anew in each step.

    Logged beside the losses: ``inner_before`` and ``inner_after``, the objective per
    image before the first step of the attack (after its random start) and of what it
    returns; ``attack_time``, its seconds; ``attack_share``, its share of the time of
    the last step, loading included. Attacks that raise nothing, step after step, are
    warned of.

    The attack sees the model in fp32 and without dropout, and leaves it as it was:
    flags, buffers and gradients. It runs on the images of each rank by themselves.
    Ground truth is at the scale of the images, as training pipelines leave it.

    Args:
        model: A classifier or detector, or its config.
        attack: An attack of ``mmdiff.ATTACKS``: ``dict(type='mmdiff.PGD', eps=8,
            steps=10, step_size=2)``. Its random choices differ from step to step.
        loss: ``dict(type='mmdiff.MadryLoss')`` (PGD-AT), ``'mmdiff.TRADESLoss'``,
            ``'mmdiff.FreeATLoss'``, or an
            :class:`~mmdiff.models.losses.AdversarialLoss` of your own.
        bn_mode: What normalises while the model is attacked: ``'running'`` statistics,
            as in a test, or those of the ``'batch'``, which are not tracked (DM-AT,
            Wang et al. 2023). Of a detector, backbone and neck alone see a batch:
            heads keep to running ones, so that no loss depends on other images.
        data_preprocessor: See :class:`TrainingWrapper`.

    Raises:
        ValueError: If attack, loss and model do not go together.

    Example:
        >>> from mmengine.registry import DefaultScope
        >>> classifier = dict(type='ImageClassifier', backbone=dict(type='LeNet5'),
        ...     head=dict(type='ClsHead'))
        >>> with DefaultScope.overwrite_default_scope('mmpretrain'):
        ...     model = AdversarialModel(classifier, dict(type='mmdiff.PGD', eps=8))
        >>> next(iter(model.state_dict()))
        'backbone.features.0.weight'
    """

    def __init__(
        self,
        model: dict | nn.Module,
        attack: Any,
        loss: dict | nn.Module | None = None,
        bn_mode: str = 'running',
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(model, data_preprocessor)
        if isinstance(self.model, TrainingWrapper):
            raise ValueError(
                f'AdversarialModel is around {type(self.model).__name__}; swap the '
                'two: the attack is on the bare model.'
            )
        if bn_mode not in BN_MODES:
            raise ValueError(f'bn_mode={bn_mode!r} must be one of {BN_MODES}.')
        self.bn_mode = bn_mode
        if isinstance(attack, dict):
            # Attacks are of no other scope, whichever the config has.
            attack = ATTACKS.build({**attack, '_scope_': 'mmdiff'})
        self.attack = attack
        if not isinstance(loss, nn.Module):
            loss = MODELS.build(loss or {'type': 'mmdiff.MadryLoss'})
        self.adversarial_loss = loss
        self.attack.check_model(self.model)
        loss.check(self.model, self.attack)
        self._watch = Stopwatch()
        self._last = (-1, 0)
        self._in_vain = 0

    @property
    def replays(self) -> int:
        return self.adversarial_loss.replays

    @property
    def sides(self) -> tuple[str, ...]:
        """Sides of images that a pass with gradients is made on."""
        return self.adversarial_loss.sides

    def compute_losses(
        self, batch: dict, observe: Observer = unobserved
    ) -> dict[str, Tensor | list[Tensor]]:
        self._watch.start()
        with self._statistics():
            perturbed = self.adversarial_loss.perturb(
                self._attack_of_step(), self.model, batch
            )
        self._watch.stop()
        losses = self.adversarial_loss(
            Passes(self.model, batch, perturbed.inputs, observe)
        )
        device = device_of(self.model)
        self._look_at(perturbed.logged)
        for name, value in {**perturbed.logged, **self._watch.logged()}.items():
            losses[name] = Tensor([value]).to(device)
        return losses

    def _look_at(self, logged: dict[str, float]) -> None:
        """Say so, once, if attacks raise nothing: training would be a plain one."""
        after = logged.get('inner_after')
        if after is None or after > logged['inner_before']:
            self._in_vain = 0
            return
        self._in_vain += 1
        if self._in_vain == PATIENCE:
            print_log(
                f'In {PATIENCE} steps on end the attack has not raised its objective '
                f'(now {after:.4g}), so nothing robust is learnt: is '
                'there a gradient to the image, and were weights loaded (load_from)?',
                'current',
                logging.WARNING,
            )

    def train(self, mode: bool = True) -> AdversarialModel:
        """Set the mode; time passes uncounted while the model does not train."""
        if not mode and '_watch' in vars(self):
            self._watch.reset()
        return super().train(mode)

    def _attack_of_step(self) -> Any:
        """Return the attack with a seed of its own for this step."""
        # The Runner's number of the step: a resumed training draws the same. Without
        # a Runner, and in replays, it stands still.
        step = MessageHub.get_current_instance().get_info('iter') or 0
        again = self._last[1] + 1 if step == self._last[0] else 0
        self._last = (step, again)
        attack = copy.copy(self.attack)
        attack.seed = mix_seed(self.attack.seed, step, again)
        return attack

    def _statistics(self) -> AbstractContextManager[None]:
        """Normalise as ``bn_mode`` says while the model is attacked."""
        if self.bn_mode == 'running':
            return nullcontext()
        if task_of(type(self.model)) == 'classification':
            return batch_statistics(self.model)
        parts = (getattr(self.model, name, None) for name in ('backbone', 'neck'))
        return batch_statistics(*(part for part in parts if part is not None))
