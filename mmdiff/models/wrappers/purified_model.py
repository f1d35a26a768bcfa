"""Any model of mmdet or mmpretrain behind a shield."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn

from mmdiff.registry import MODELS

from ..purifiers import Purifier
from .inner_model import build_inner
from .inner_weights import keep_inner_weights
from .shielded_preprocessor import CHANNEL_ORDERS, ShieldedPreprocessor

VOTES = ('mean', 'majority')


@MODELS.register_module()
class PurifiedModel(BaseModel):
    """A detector or classifier that sees images as a shield leaves them.

    An image of 0..255 goes through the shield and is one of 0..255 again; then the
    model's own preprocessor and the model follow, as they are without a shield. Its
    weights are untouched and its own checkpoint is loaded: checkpoints hold the model's
    weights, by its names, and nothing of the prior. Attacks of mmdiff see through the
    shield.

    Args:
        model: The model, or its config.
        purifier: The shield: a purifier of :mod:`mmdiff.models.purifiers`, or its
            config.
        channel_order: Order of the channels that the test pipeline loads: ``'bgr'``, as
            loaders of the mm packages do, or ``'rgb'``.
        num_samples: Of a classifier: how often each image is purified, each time with
            other noise, and classified.
        vote: Of several samples: ``'mean'`` of the probabilities, or a ``'majority'``
            of the classes. An attack follows the mean in both cases.
        data_preprocessor: The model's, if its own config has none: a Runner puts it
            here from the top of a config.
        init_cfg: As in mmengine.

    Raises:
        ValueError: For a model that has no one input to purify (test-time
            augmentation), no or several samples where they have no meaning, or an
            unknown order of channels or vote.
        TypeError: If it is no model of mmengine.

    Example:
        >>> import torch
        >>> model = dict(_scope_='mmpretrain', type='ImageClassifier',
        ...     data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
        ...     backbone=dict(type='ResNet', depth=18),
        ...     neck=dict(type='GlobalAveragePooling'),
        ...     head=dict(type='LinearClsHead', num_classes=10, in_channels=512))
        >>> shield = dict(type='mmdiff.OneStepDenoiser', model='mmdiff::toy_voc',
        ...     timestep=50)
        >>> self = PurifiedModel(model, shield).eval()
        >>> image = torch.zeros(3, 60, 64, dtype=torch.uint8)
        >>> (result,) = self.test_step(dict(inputs=[image], data_samples=None))
        >>> len(result.pred_score)
        10
    """

    def __init__(
        self,
        model: nn.Module | dict,
        purifier: Purifier | dict,
        channel_order: str = 'bgr',
        num_samples: int = 1,
        vote: str = 'mean',
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        check_samples(num_samples, vote)
        if channel_order not in CHANNEL_ORDERS:
            raise ValueError(
                f'channel_order={channel_order!r} is unknown; choose one of '
                f'{CHANNEL_ORDERS}.'
            )
        inner = build_inner(model, data_preprocessor)
        if not isinstance(purifier, nn.Module):
            purifier = MODELS.build(dict(purifier))
        shielded = ShieldedPreprocessor(
            inner.data_preprocessor, purifier, channel_order, num_samples
        )
        super().__init__(data_preprocessor=shielded, init_cfg=init_cfg)
        self.model, self.num_samples, self.vote = inner, num_samples, vote
        if num_samples > 1:
            self._check_votes()
        keep_inner_weights(self)

    @property
    def purifier(self) -> Purifier:
        """The shield."""
        return self.data_preprocessor.purifier

    def describe(self) -> dict:
        """Return what a report must name, as ``evaluation.shield.Shield`` takes it."""
        told = self.purifier.describe()
        if self.num_samples > 1:
            told['settings'].update(num_samples=self.num_samples, vote=self.vote)
        return told

    def _check_votes(self) -> None:
        """Complain about votes of what has no classes to vote on.

        Raises:
            ValueError: For a detector, or a classifier of several classes at once.
        """
        from_mmpretrain = any(
            kind.__module__.startswith('mmpretrain.')
            and kind.__name__.endswith('BaseClassifier')
            for kind in type(self.model).__mro__
        )
        head = type(getattr(self.model, 'head', None)).__name__
        if not from_mmpretrain or head.startswith('MultiLabel'):
            raise ValueError(
                f'num_samples={self.num_samples} samples vote on one class of an '
                f'image, which {type(self.model).__name__} does not tell; leave '
                'num_samples at 1: boxes of several samples have no vote.'
            )

    def forward(
        self,
        inputs: Any,
        data_samples: Sequence | None = None,
        mode: str = 'tensor',
        **kwargs: Any,
    ) -> Any:
        """Ask the model about purified, preprocessed inputs; see its own ``forward``.

        Of several samples, ``mode='tensor'`` gives the logarithm of the mean
        probabilities, (N, K), and ``mode='predict'`` their vote.
        """
        if self.num_samples == 1 or mode == 'loss':
            return self.model(inputs, data_samples, mode=mode, **kwargs)
        logits = self.model(inputs, mode='tensor', **kwargs)
        log_shares = logits.log_softmax(1).unflatten(0, (self.num_samples, -1))
        mean = log_shares.logsumexp(0) - math.log(self.num_samples)
        if mode == 'tensor':
            return mean
        return self._elect(log_shares, mean, data_samples)

    def _elect(
        self, log_shares: Tensor, mean: Tensor, data_samples: Sequence | None
    ) -> list:
        """Data samples with scores and a class by the vote of samples.

        Args:
            log_shares: Logarithms of probabilities, (S, N, K).
            mean: Logarithm of their mean, (N, K).
            data_samples: Samples to write to; ``None`` makes new ones.
        """
        from mmpretrain.structures import DataSample

        scores = mean.exp()
        if self.vote == 'majority':
            votes = nn.functional.one_hot(log_shares.argmax(2), scores.shape[1])
            # Among classes of as many votes, the mean decides.
            ranked = votes.sum(0) + scores.clamp(0, 1) / 2
            labels, scores = ranked.argmax(1), votes.float().mean(0)
        else:
            labels = scores.argmax(1)
        if data_samples is None:
            data_samples = [DataSample() for _ in scores]
        for sample, score, label in zip(data_samples, scores, labels):
            sample.set_pred_score(score).set_pred_label(label.view(1))
        return list(data_samples)


def check_samples(num_samples: int, vote: str) -> None:
    """Complain about a number of samples or a vote that there is not.

    Raises:
        ValueError: If so.
    """
    whole = isinstance(num_samples, Integral) and not isinstance(num_samples, bool)
    if not whole or num_samples < 1:
        raise ValueError(
            f'num_samples={num_samples!r} must be a whole number of at least 1.'
        )
    if vote not in VOTES:
        raise ValueError(f'vote={vote!r} is unknown; choose one of {VOTES}.')
