"""A class-conditional diffusion prior as a classifier, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmdiff.diffusion import (
    ClassLikelihood,
    DenoisingError,
    DiffusionModel,
    choose_levels,
)
from mmdiff.diffusion.denoising import OneStep
from mmdiff.diffusion.elimination import Elimination, eliminate
from mmdiff.registry import MODELS

from ..priors import prior_arguments

PREPROCESSOR = dict(
    type='mmpretrain.ClsDataPreprocessor',
    mean=[127.5] * 3,
    std=[127.5] * 3,
    to_rgb=True,
)


@MODELS.register_module()
class DiffusionClassifier(BaseClassifier):
    """The class under which a prior predicts the noise in an image best.

    ``logit_y = -sum_t w_t |eps_theta(x_t, t, y) - eps|^2`` (Chen et al. 2024, "Robust
    Classification via a Single Diffusion Model"; Li et al. 2023, "Your Diffusion Model
    is Secretly a Zero-Shot Classifier"). Nothing is trained: the prior is frozen, and
    gradients of its T x K passes flow to the image, exactly and with memory that does
    not grow with T and K; attacks see through it. Inputs are RGB in [-1, 1].

    Args:
        model: A class-conditional prior, as in :class:`DiffusionUNet`: a source, or a
            dict of ``from_pretrained``'s arguments.
        num_classes: Number of classes of the data set, to be compared with the prior's.
        levels: Arguments of :func:`mmdiff.diffusion.choose_levels`: ``num_levels``,
            ``grid``, ``weighting``, ``times``, ``sigma_range``, ``num_noise``.
        noise: ``'fixed'``: a function of ``noise_seed``, level and position, the same
            for every image and batch size. ``'fresh'``: drawn anew in every pass, for
            every image; attack it with ``eot`` above 1.
        noise_seed: Seed of the fixed noise.
        logit_scale: What logits are multiplied by. ``None`` is the number of values of
            an image, so that ``|.|^2`` is the squared norm of the formula. With 1 it is
            their mean, as in the code of the paper: logits differ by little then, the
            cross-entropy of all images is nearly ``log K``, and what is lost in
            rounding weakens attacks. DLR does not change with the scale.
        chunk_size: Most noised images in one pass of the U-Net: memory against speed.
        elimination: Arguments of :class:`mmdiff.diffusion.elimination.Elimination`, or
            True for its own: predictions drop classes that cannot win. Neither logits
            (mode ``'tensor'``) nor gradients do.
        guidance: Of a multi-head prior; see
            :meth:`MultiHeadDiffusionModel.predict_noises`.
        denoise_sigma: For inputs with noise of this standard deviation in pixel units
            (:class:`SmoothedClassifier`): they are denoised in one step without a class
            first, by the timestep with as much noise or a little less.
        data_preprocessor: As in mmpretrain; by default that of BGR files.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If the prior has no classes or another number of them, a level is
            out of range, there is none, or the preprocessor gives no images in [-1, 1].

    Example:
        >>> source = dict(type='UNet2DModel', block_out_channels=(4, 8),
        ...     down_block_types=('DownBlock2D',) * 2, sample_size=16,
        ...     up_block_types=('UpBlock2D',) * 2, norm_num_groups=2,
        ...     num_class_embeds=3)
        >>> self = DiffusionClassifier(source, levels=dict(num_levels=5))
        >>> self(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 3])
        >>> sample = self(torch.zeros(1, 3, 16, 16), mode='predict')[0]
        >>> sample.pred_score.shape, sample.unet_calls
        (torch.Size([3]), 15)
    """

    def __init__(
        self,
        model: str | Path | dict,
        num_classes: int | None = None,
        levels: dict | None = None,
        noise: str = 'fixed',
        noise_seed: int = 0,
        logit_scale: float | None = None,
        chunk_size: int = 64,
        elimination: dict | bool | None = None,
        guidance: float = 0.0,
        denoise_sigma: float | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg, _build_preprocessor(data_preprocessor))
        _check_preprocessor(self.data_preprocessor)
        if logit_scale is not None and not logit_scale > 0:
            raise ValueError(
                f'logit_scale={logit_scale} must be above 0, or the worst class wins.'
            )
        self.logit_scale = logit_scale
        self.prior = self._load(model)
        self._check_classes(num_classes)
        self.likelihood = ClassLikelihood(
            self.prior,
            choose_levels(self.prior, **(levels or {})),
            noise,
            noise_seed,
            chunk_size,
            guidance,
        )
        self.elimination = self._build_rule(elimination)
        self.denoiser = None
        if denoise_sigma is not None:
            self.denoiser = OneStep(self.prior, denoise_sigma / 127.5)
        self.head = ClsHead()
        self.head.num_classes = self.prior.num_classes
        self.train(self.training)

    @staticmethod
    def _load(model: str | Path | dict) -> DiffusionModel:
        arguments = prior_arguments(model)
        return DiffusionModel.from_pretrained(**arguments).requires_grad_(False)

    def _check_classes(self, num_classes: int | None) -> None:
        known = self.prior.num_classes
        # Without any, the likelihood says what is wrong.
        if known and num_classes not in (None, known):
            raise ValueError(
                f'num_classes={num_classes} and the prior has {known} classes; the '
                'classes of the data set must be those that the prior was trained on, '
                'in their order.'
            )

    def _build_rule(self, elimination: dict | bool | None) -> Elimination | None:
        if not elimination:
            return None
        if self.likelihood.multihead:
            raise ValueError(
                'A multi-head prior predicts for all classes in one pass, and '
                'elimination saves nothing: leave it out.'
            )
        return Elimination() if elimination is True else Elimination(**elimination)

    def train(self, mode: bool = True) -> DiffusionClassifier:
        """Set the mode; the prior stays in eval mode."""
        super().train(mode)
        self.prior.eval()
        return self

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[DataSample] | None = None,
        mode: str = 'tensor',
    ) -> Tensor | dict[str, Tensor] | list[DataSample]:
        """Classify images.

        Args:
            inputs: Images, (N, 3, H, W) in [-1, 1].
            data_samples: Of the images; with labels in mode ``'loss'``.
            mode: ``'tensor'``: class logits, (N, K). ``'loss'``: the cross-entropy.
                ``'predict'``: data samples with ``pred_score``, ``pred_label``, and
                ``unet_calls``, the passes of the U-Net that an image took.

        Raises:
            ValueError: If there is no such mode.
        """
        if mode == 'tensor':
            return self.head(self.extract_feat(inputs))
        if mode == 'loss':
            return self.loss(inputs, data_samples or [])
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        raise ValueError(
            f"mode={mode!r} is unknown; it is 'tensor', 'loss' or 'predict'."
        )

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor]:
        """Return the class logits, all that there is of features.

        Args:
            inputs: Images, (N, 3, H, W) in [-1, 1].

        Returns:
            A tuple of (N, K), as heads take it.
        """
        inputs = self._denoised(inputs)
        return (self._scaled(self.likelihood.class_logits(inputs), inputs),)

    def _denoised(self, inputs: Tensor) -> Tensor:
        return inputs if self.denoiser is None else self.denoiser(inputs)

    def denoising_error(
        self, num_levels: int, times: Sequence[float] | None, noise_seed: int
    ) -> DenoisingError:
        """Return what tells how badly the prior explains images, whatever their class.

        Args:
            num_levels, times, noise_seed: See
                :class:`mmdiff.diffusion.DenoisingError`.

        Raises:
            ValueError: If the prior has no such noise levels.
        """
        return DenoisingError.of(self.prior, num_levels, times, noise_seed)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Return the cross-entropy; gradients reach the images alone.

        Args:
            inputs: Images, (N, 3, H, W) in [-1, 1].
            data_samples: With ``gt_label``.
        """
        return self.head.loss(self.extract_feat(inputs), data_samples)

    @torch.no_grad()
    def predict(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None
    ) -> list[DataSample]:
        """Return data samples with scores, labels and the passes that they took.

        Args:
            inputs: Images, (N, 3, H, W) in [-1, 1].
            data_samples: That get the predictions; ``None`` makes new ones.
        """
        if self.elimination is None:
            (logits,) = self.extract_feat(inputs)
            calls = [self.likelihood.passes] * len(inputs)
        else:
            inputs = self._denoised(inputs)
            result = eliminate(self.likelihood, inputs, self.elimination)
            logits, calls = self._scaled(result.logits, inputs), result.calls.tolist()
        samples = self.head.predict((logits,), data_samples)
        once = int(self.denoiser is not None)
        for sample, label, count in zip(samples, logits.argmax(1), calls):
            # Scores of full precision may be equal where logits are not.
            sample.set_pred_label(label)
            sample.set_field(count + once, 'unet_calls', field_type='metainfo')
        return samples

    def _scaled(self, logits: Tensor, inputs: Tensor) -> Tensor:
        if self.logit_scale is None:
            return logits * inputs[0].numel()
        return logits * self.logit_scale


def _build_preprocessor(config: dict | nn.Module | None) -> Any:
    """Fill what is left out of the preprocessor's config."""
    if isinstance(config, nn.Module):
        return config
    args = dict(PREPROCESSOR) if config is None else dict(config)
    args.setdefault('type', PREPROCESSOR['type'])
    return MODELS.build(args)


def _check_preprocessor(preprocessor: nn.Module) -> None:
    """Refuse one that gives other images than those of the prior, in [-1, 1]."""
    for name in ('mean', 'std'):
        values = getattr(preprocessor, name, None)
        if values is None or not bool((values == 127.5).all()):
            raise ValueError(
                'A prior takes images in [-1, 1]: set mean=[127.5] * 3 and '
                f'std=[127.5] * 3 of the data_preprocessor (its {name} is '
                f'{None if values is None else values.flatten().tolist()}).'
            )
