"""Votes of a classifier on noisy copies: what certificates are made of."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmdiff.registry import MODELS
from mmdiff.utils.seeding import mix_seed


@MODELS.register_module()
class SmoothedClassifier(BaseClassifier):
    """Randomised smoothing of a classifier (Cohen et al. 2019, Algorithm 1).

    A class is chosen by the votes on some noisy copies of the image, and its votes are
    counted on others; :class:`CertifiedAccuracy` makes a radius of them. With a
    diffusion classifier that denoises its input (``denoise_sigma``), it is the noised
    diffusion classifier of Chen et al. 2024 ("Diffusion Models are Certifiably Robust
    Classifiers"), the one with the approximated posterior.

    Args:
        classifier: Config of the classifier; its preprocessor is used.
        sigma: Standard deviation of the noise, in pixel units of 0..255.
        num_selection: Copies that choose the class.
        num_copies: Copies that its votes are counted on.
        noise_seed: Seed of the noise, mixed with the image's name.
        chunk_size: Most copies in one pass of the classifier.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If there is no noise or there are no copies.

    Example:
        >>> source = dict(type='UNet2DModel', block_out_channels=(4, 8),
        ...     down_block_types=('DownBlock2D',) * 2, sample_size=16,
        ...     up_block_types=('UpBlock2D',) * 2, norm_num_groups=2,
        ...     num_class_embeds=3)
        >>> inner = dict(type='mmdiff.DiffusionClassifier', model=source,
        ...     levels=dict(num_levels=2))
        >>> self = SmoothedClassifier(inner, sigma=32, num_selection=4, num_copies=8)
        >>> sample = self(torch.zeros(1, 3, 16, 16), mode='predict')[0]
        >>> sample.copies, sample.votes <= 8
        (8, True)
    """

    def __init__(
        self,
        classifier: dict | nn.Module,
        sigma: float,
        num_selection: int = 100,
        num_copies: int = 1000,
        noise_seed: int = 0,
        chunk_size: int = 64,
        init_cfg: dict | None = None,
    ) -> None:
        for name, value in (
            ('sigma', sigma),
            ('num_selection', num_selection),
            ('num_copies', num_copies),
            ('chunk_size', chunk_size),
        ):
            if not value > 0:
                raise ValueError(
                    f'{name}={value} must be above 0: votes are those of noisy copies.'
                )
        inner = classifier
        if not isinstance(inner, nn.Module):
            inner = MODELS.build(classifier)
        super().__init__(init_cfg, inner.data_preprocessor)
        self.classifier = inner
        self.sigma, self.noise_seed = float(sigma), noise_seed
        self.num_selection, self.num_copies = num_selection, num_copies
        self.chunk_size = chunk_size

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[DataSample] | None = None,
        mode: str = 'tensor',
    ) -> list[DataSample]:
        """Count votes.

        Args:
            inputs: Images as the classifier's preprocessor gives them, (N, C, H, W).
            data_samples: That get the predictions; ``None`` makes new ones.
            mode: ``'predict'``: data samples with ``pred_score`` (shares of the votes
                of all copies), ``pred_label``, and ``smoothed_label``, ``votes``,
                ``copies`` and ``noise_sigma`` in their meta information.

        Raises:
            ValueError: In another mode: votes have no gradient.
        """
        if mode != 'predict':
            raise ValueError(
                f'SmoothedClassifier has no mode {mode!r}: votes have no gradient, and '
                'certificates no need of attacks; attack the classifier in it.'
            )
        samples = data_samples or [DataSample() for _ in inputs]
        return [self._certify(x, s, i) for i, (x, s) in enumerate(zip(inputs, samples))]

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> None:
        """Refuse to give a loss; see :meth:`forward`.

        Args:
            inputs: Images.
            data_samples: Their data samples.

        Raises:
            ValueError: Always.
        """
        self.forward(inputs, data_samples, mode='loss')

    @torch.no_grad()
    def _certify(self, x: Tensor, sample: DataSample, position: int) -> DataSample:
        key = sample.get('img_path', sample.get('img_id', position))
        seed = mix_seed(self.noise_seed, str(key).rsplit('/', 1)[-1])
        generator = torch.Generator().manual_seed(seed)
        first = self._votes(x, self.num_selection, generator)
        label = int(first.argmax())
        votes = self._votes(x, self.num_copies, generator)
        total = (first + votes).float()
        sample.set_pred_score(total / total.sum()).set_pred_label(label)
        facts = dict(
            smoothed_label=label,
            votes=int(votes[label]),
            copies=self.num_copies,
            noise_sigma=self.sigma,
        )
        sample.set_metainfo(facts)
        return sample

    def _votes(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Count the predictions of noisy copies by class, (K,)."""
        labels: list[Tensor] = []
        scale = self.sigma / self._pixel_scale()
        classes = 0
        for start in range(0, count, self.chunk_size):
            size = min(self.chunk_size, count - start)
            noise = torch.randn(size, *x.shape, generator=generator).to(x)
            predicted = self.classifier(x + scale * noise, mode='predict')
            classes = len(predicted[0].pred_score)
            labels += [p.pred_label.reshape(-1)[:1].cpu() for p in predicted]
        return torch.bincount(torch.cat(labels), minlength=classes)

    def _pixel_scale(self) -> Any:
        """Pixel units per unit of the classifier's input, by channel."""
        return getattr(self.data_preprocessor, 'std', 1.0)
