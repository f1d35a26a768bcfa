"""A shield in front of a model's own preprocessor."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from ..purifiers import Purifier

CHANNEL_ORDERS = ('bgr', 'rgb')


class ShieldedPreprocessor(BaseDataPreprocessor):
    """Purify the images of a batch, in 0..255, then preprocess as the model does.

    All else that is asked of it (``pad_size_divisor``, say) is the model's own.

    Args:
        inner: The model's own preprocessor.
        purifier: The shield.
        channel_order: Order of the channels that the pipeline loads.
        num_samples: How often each image is purified in a test; the model gets them
            all, sample by sample: all images of the first one, then of the second.
    """

    def __init__(
        self,
        inner: nn.Module,
        purifier: Purifier,
        channel_order: str = 'bgr',
        num_samples: int = 1,
    ) -> None:
        super().__init__()
        self.inner, self.purifier = inner, purifier
        self.channel_order, self.num_samples = channel_order, num_samples

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('inner'), name)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Purify and preprocess a batch, as the dataloader gives it.

        Args:
            data: ``inputs``: images (C, H, W) of 0..255, in a list or stacked, and
                what else the model's preprocessor takes.
            training: As of any preprocessor; in training there is one sample.

        Raises:
            ValueError: If the images are not in one list (batches of several branches).
        """
        data = self.cast_data(data)
        inputs = data['inputs']
        if not isinstance(inputs, Tensor | Sequence):
            raise ValueError(
                f'A shield takes images in a list or a tensor, not in a '
                f'{type(inputs).__name__} (of several branches): train the detector '
                'without it.'
            )
        purified: list[Tensor] = []
        for sample in range(1 if training else self.num_samples):
            purified += self.purify(list(inputs), sample)
        stacked = isinstance(inputs, Tensor)
        handed_on = torch.stack(purified) if stacked else purified
        return self.inner({**data, 'inputs': handed_on}, training)

    def purify(self, images: Sequence[Tensor], sample: int = 0) -> list[Tensor]:
        """Purify images of any sizes, those of one size together.

        Args:
            images: (C, H, W) each, in 0..255.
            sample: Number of the sample.

        Returns:
            Images like them, float, in 0..255; differentiable.
        """

        def pixels(x: Tensor) -> Tensor:
            return self._in_order((self.purifier(x, sample) + 1) * 127.5)

        return self._by_size(images, pixels)

    def measure(
        self, images: Sequence[Tensor], value: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Measure images of any sizes as the shield sees them.

        Args:
            images: (C, H, W) each, in 0..255.
            value: Of images of one size, (N, 3, H, W), RGB in [-1, 1]: (N,).

        Returns:
            (N,), differentiable.
        """
        return torch.stack(self._by_size(images, value))

    def _by_size(
        self, images: Sequence[Tensor], ask: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Ask about images of one size at a time; return an answer for each image."""
        places: dict[tuple, list[int]] = {}
        for i, image in enumerate(images):
            places.setdefault(tuple(image.shape), []).append(i)
        answers: dict[int, Tensor] = {}
        for indices in places.values():
            x = self._to_prior(torch.stack([images[i] for i in indices]))
            answers.update(zip(indices, ask(x)))
        return [answers[i] for i in range(len(images))]

    def _to_prior(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W) in 0..255 as a prior takes them: RGB in [-1, 1]."""
        if not images.is_floating_point():
            images = images.float()
        return self._in_order(images) / 127.5 - 1

    def _in_order(self, images: Tensor) -> Tensor:
        """Turn BGR into RGB, and back."""
        return images.flip(1) if self.channel_order == 'bgr' else images
