"""What surrounds a model while it trains, and is gone when it is deployed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmdiff.registry import MODELS
from mmdiff.utils.modules import unwrap

from ..losses.passes import Observer, unobserved


class RawImages(BaseDataPreprocessor):
    """Hands batches on in pixel units for training, and preprocessed for anything else.

    Args:
        preprocessor: That of the model.
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        super().__init__()
        self.preprocessor = preprocessor

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move a batch to the device, with its values of 0..255; or preprocess it."""
        return self.cast_data(data) if training else self.preprocessor(data, False)


class TrainingWrapper(BaseModel):
    """A model with another loss: it trains as the subclass says, and is itself else.

    Validation, testing and whatever hooks ask of it (``model.bbox_head``) go to the
    model inside. So do the names in checkpoints: what training saves loads into the
    config of the bare model, and weights of the bare model are a start. Parts of the
    wrapper alone (``own_parts``) are saved beside them, for resuming.

    It trains by its ``forward`` in mode ``'loss'``, so DDP, mixed precision,
    accumulated and clipped gradients are the Runner's as ever.

    Args:
        model: A classifier of mmpretrain, a detector of mmdet, or another wrapper; or
            its config.
        data_preprocessor: That of a model whose config has none: the Runner hands on
            what a config says beside the model.

    Raises:
        ValueError: If batches are augmented behind the preprocessor.
    """

    own_parts: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, model: dict | nn.Module, data_preprocessor: dict | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            if data_preprocessor is not None:
                model = {'data_preprocessor': data_preprocessor, **model}
            model = MODELS.build(model)
        super().__init__(data_preprocessor=RawImages(model.data_preprocessor))
        self.model = model
        _check_augments(self.deployed)
        self.replay = -1  # number of the replay that runs now
        self._register_state_dict_hook(_to_deployed)

    @property
    def deployed(self) -> nn.Module:
        """The bare model."""
        return unwrap(self.model)

    @property
    def replays(self) -> int:
        """Number of optimisation steps on each batch: 1, but for FreeAT."""
        return getattr(self.model, 'replays', 1)

    def compute_losses(
        self, batch: dict, observe: Observer = unobserved
    ) -> dict[str, Tensor | list[Tensor]]:
        """Return what is trained on: losses by name, and values to log.

        Args:
            batch: ``inputs`` in 0..255, as the dataloader gives them, and
                ``data_samples``; on the device of the model.
            observe: Entered around each pass whose gradient trains the model.
        """
        raise NotImplementedError

    def forward(
        self, inputs: Any, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Return the losses of raw images (mode ``'loss'``), or ask the bare model."""
        if mode != 'loss':
            return self.deployed(inputs, data_samples, mode=mode)
        if self.replays > 1 and self.replay < 0:
            raise ValueError(
                f'This loss takes {self.replays} steps on each batch, which '
                'MMDistributedDataParallel does not know; set model_wrapper_cfg='
                "dict(type='mmdiff.ReplayedDataParallel')."
            )
        return self.compute_losses({'inputs': inputs, 'data_samples': data_samples})

    def repeat(self, step: Callable[[], Any], optim_wrapper: OptimWrapper) -> Any:
        """Run a step as often as the loss asks, and return its last result.

        Raises:
            ValueError: If gradients of several batches are to be accumulated, which a
                loss with replays does not allow.
        """
        counts = getattr(optim_wrapper, '_accumulative_counts', 1)
        if self.replays > 1 and counts > 1:
            raise ValueError(
                f'accumulative_counts={counts} would mix the {self.replays} replays of '
                'a batch, each of which is a step of its own; leave it at 1.'
            )
        try:
            for number in range(self.replays):
                self.replay = number
                result = step()
        finally:
            self.replay = -1
        return result

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Take the step, or the steps, on one batch; return what is logged."""
        step = super().train_step
        return self.repeat(lambda: step(data, optim_wrapper), optim_wrapper)

    def val_step(self, data: Any) -> list:
        """Predict, as the bare model does."""
        return self.deployed.val_step(data)

    def test_step(self, data: Any) -> list:
        """Predict, as the bare model does."""
        return self.deployed.test_step(data)

    def parse_losses(self, losses: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum losses as the bare model does."""
        return self.deployed.parse_losses(losses)

    def __getattr__(self, name: str) -> Any:
        """Find what is no part of the wrapper in the model: hooks of mm packages do."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'model' or name.startswith('__'):
                raise
        return getattr(self.model, name)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key[len(prefix) :]
            if name.partition('.')[0] not in self.own_parts:
                state_dict[f'{prefix}model.{name}'] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _to_deployed(
    module: nn.Module, state_dict: dict, prefix: str, _metadata: dict
) -> None:
    """State-dict hook: name what is the model's as the bare model would."""
    doubled, inner = f'{prefix}data_preprocessor.', f'{prefix}model.'
    for key in [key for key in state_dict if key.startswith((doubled, inner))]:
        value = state_dict.pop(key)
        if key.startswith(inner):
            state_dict[f'{prefix}{key[len(inner) :]}'] = value


def _check_augments(model: nn.Module) -> None:
    """Complain about augmentations that would change images after the attack."""
    augments = getattr(model.data_preprocessor, 'batch_augments', None)
    if augments:
        raise ValueError(
            f'The data_preprocessor of {type(model).__name__} augments batches '
            '(batch_augments), after the attack and unseen by it; set '
            'batch_augments=None, and augment in the training pipeline.'
        )
