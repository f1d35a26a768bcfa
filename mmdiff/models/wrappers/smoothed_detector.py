"""Certified detection: medians of a detector's boxes on noisy copies of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmdiff.registry import MODELS
from mmdiff.utils.digests import (
    digest_code,
    digest_json,
    digest_model,
    digest_tensors,
)
from mmdiff.utils.modules import task_of
from mmdiff.utils.seeding import mix_seed

from ..purifiers import Purifier
from ..purifiers.matching_noise import NoiseRemover
from ..smoothing import (
    KeptCopies,
    NoisyDetections,
    SmoothingSettings,
    StateFolder,
    certify,
    smoothed_boxes,
)
from .inner_model import build_inner
from .inner_weights import keep_inner_weights
from .raw_images import RawImages
from .shielded_preprocessor import CHANNEL_ORDERS, ShieldedPreprocessor


@MODELS.register_module()
class SmoothedDetector(BaseModel):
    """Median smoothing of a detector (Chiang et al. 2020, "Detection as Regression").

    The detector sees ``num_copies`` noisy copies of an image. In each copy, boxes of
    one class and one cell of a grid (label and location binning) are sorted, and the
    k-th of them is one coordinate vector; a copy that has fewer has infinities there.
    What is reported is the median of every coordinate, and beside it order statistics
    that bound the median under any attack. Of the paper, this is binning by label or by
    label and location, sorting by location or by objectness, any one-step denoiser, and
    all of its thresholds of objectness from one run. Not here are bins of several
    labels, whose labels would have to be certified, too.

    What is guaranteed, for every change of the image as the detector's pipeline loads
    it, of an L2 norm of at most ``radius`` over all values of [0, 1]: a box with finite
    bounds is still reported, with the same label, and each of its corners is within its
    bounds; a box with infinite lower bounds does not appear. This is of the detector
    smoothed by all noise there is. What N copies tell of it is wrong with a probability
    of at most ``alpha`` for each box and radius by itself. Scores are not certified;
    thresholds are those of the detector in every copy. :class:`CertifiedAP` counts what
    is certified.

    Checkpoints hold the weights of the detector, by its names. There is no gradient
    through sorted medians, and attacks refuse the model.

    Args:
        model: The detector of mmdet, or its config.
        sigma: Standard deviation of the noise, of images in [0, 1] (0.1 is 25.5 of
            255). It is added to the pixels that the pipeline loads, and nothing is
            clipped.
        num_copies: Number of noisy copies.
        radii: L2 radii to certify, of images in [0, 1].
        alpha: Probability that any of the eight bounds of a box is wrong, at most.
        purifier: ``OneStepDenoiser`` or its config, which removes the noise from each
            copy: its time must be that of the noise, ``sigma_t / alpha_t = 2 sigma``,
            and its noise is not used. ``None``: the detector sees the noise.
        thresholds: Scores at which the detector's boxes are cut, each giving a
            detector of its own; boxes are reported at the lowest.
        sorting: Of boxes in a bin: ``'location'`` (of the centre) or ``'score'``.
        location_bins: Cells of the grid along each side of the image; 1: bins are
            classes alone.
        noise_seed: Seed of the noise, mixed with the image's content.
        batch_size: Most copies in one pass.
        channel_order: Order of the channels that the pipeline loads, for the purifier.
        state_dir: Folder that keeps what was found on the copies of each image, so
            that an interrupted test goes on, and other radii, thresholds and more
            copies begin from it; ``None`` keeps nothing.
        data_preprocessor: The model's, if its own config has none.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If a setting is out of range, there are too few copies for a radius,
            the denoiser expects another noise, or the model is no single detector
            (classifiers, test-time augmentation, a shield).
        TypeError: If it is no model of mmengine.

    Example:
        >>> from mmdet.structures import DetDataSample
        >>> from mmengine.hub import get_config
        >>> cfg = get_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py').model
        >>> cfg.backbone.init_cfg = None
        >>> cfg = dict(cfg, _scope_='mmdet')
        >>> self = SmoothedDetector(cfg, sigma=0.1, num_copies=15, radii=[0.01]).eval()
        >>> sample = DetDataSample(metainfo=dict(img_shape=(64, 64),
        ...     ori_shape=(64, 64), scale_factor=(1.0, 1.0)))
        >>> image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        >>> (sample,) = self.test_step(dict(inputs=[image], data_samples=[sample]))
        >>> sample.certified_instances.lower.shape[1:]
        torch.Size([1, 4])
    """

    def __init__(
        self,
        model: nn.Module | dict,
        sigma: float,
        num_copies: int,
        radii: Sequence[float],
        alpha: float = 0.001,
        purifier: Purifier | dict | None = None,
        thresholds: Sequence[float] = (0.1, 0.2, 0.4, 0.6, 0.8),
        sorting: str = 'location',
        location_bins: int = 3,
        noise_seed: int = 0,
        batch_size: int = 16,
        channel_order: str = 'bgr',
        state_dir: str | Path | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        settings = SmoothingSettings(
            sigma,
            num_copies,
            radii,
            alpha,
            thresholds,
            sorting,
            location_bins,
            noise_seed,
            batch_size,
        )
        state = StateFolder(state_dir, model, data_preprocessor)
        inner = _build_detector(model, data_preprocessor)
        super().__init__(RawImages(inner.data_preprocessor), init_cfg)
        self.model, self.settings, self.state = inner, settings, state
        if purifier is not None and not isinstance(purifier, nn.Module):
            purifier = MODELS.build(dict(purifier))
        self.purifier = purifier
        self.front = _denoised(inner.data_preprocessor, purifier, sigma, channel_order)
        keep_inner_weights(self)

    def forward(
        self,
        inputs: Sequence[Tensor] | Tensor,
        data_samples: Sequence | None = None,
        mode: str = 'tensor',
    ) -> list:
        """Smooth the detections of images.

        Args:
            inputs: Images as the pipeline loads them, (C, H, W), of 0..255, in a list
                or stacked.
            data_samples: Their data samples.
            mode: ``'predict'``: data samples with ``pred_instances``, the median boxes
                at the lowest threshold, and ``certified_instances``, what
                :func:`mmdiff.models.smoothing.certify` gives, with ``smoothing``
                (settings) in the meta information.

        Raises:
            ValueError: In another mode, or without data samples.
        """
        if mode != 'predict' or data_samples is None:
            raise ValueError(
                f'SmoothedDetector has no mode {mode!r}'
                + (' without data samples' if mode == 'predict' else '')
                + ': medians over sorted boxes have no loss or gradient; train and '
                'attack the detector in it.'
            )
        kept = self._kept()
        return [self._smooth(x, s, kept) for x, s in zip(inputs, data_samples)]

    @torch.no_grad()
    def _smooth(self, image: Tensor, sample: Any, kept: KeptCopies | None) -> Any:
        pixels = image.float()
        content = digest_tensors([(str(tuple(pixels.shape)), pixels)]).hex()
        known, wanted = NoisyDetections.none(), self.settings.num_copies
        name = _name_of(content, sample)
        if kept is not None:
            known = kept.load(name)
        if known.copies < wanted:
            more = self._detect(pixels, sample, content, known.copies)
            known = known.and_then(more)
            if kept is not None:
                kept.save(name, known)
        size = tuple(sample.get('ori_shape', pixels.shape[-2:]))[:2]
        certified = certify(known.first(wanted), size, self.settings)
        certified.set_metainfo({'smoothing': self.told()})
        lowest = min(self.settings.thresholds)
        sample.pred_instances = smoothed_boxes(certified, lowest).to(image.device)
        sample.certified_instances = certified
        return sample

    def told(self) -> dict[str, Any]:
        """Return the settings that certificates depend on, as JSON."""
        names = ('sigma', 'num_copies', 'radii', 'alpha', 'thresholds', 'noise_seed')
        return {name: getattr(self.settings, name) for name in names}

    def _detect(
        self, pixels: Tensor, sample: Any, content: str, start: int
    ) -> NoisyDetections:
        """Detect on the copies from number ``start`` on."""
        noisy = self._noisy(pixels, content, start)
        seen, lowest = NoisyDetections.none(), min(self.settings.thresholds)
        left = self.settings.num_copies - start
        while left > 0:
            size = min(left, self.settings.batch_size)
            copies = [next(noisy) for _ in range(size)]
            samples = [deepcopy(sample) for _ in copies]
            batch = self.front({'inputs': copies, 'data_samples': samples}, False)
            predicted = self.model(**batch, mode='predict')
            seen = seen.and_then(NoisyDetections.of(predicted, lowest))
            left -= size
        return seen

    def _noisy(self, pixels: Tensor, content: str, start: int) -> Iterator[Tensor]:
        """Noisy copies from number ``start`` on, each after the one before it."""
        seed = mix_seed(self.settings.noise_seed, content)
        generator = torch.Generator().manual_seed(seed)
        number = 0
        while True:
            # One by one: a draw must not depend on the size of the batch.
            noise = torch.randn(pixels.shape, generator=generator)
            if number >= start:
                yield pixels + 255 * self.settings.sigma * noise.to(pixels)
            number += 1

    def _kept(self) -> KeptCopies | None:
        """Where the copies of this model are kept, by all that they depend on."""
        if self.state.root is None:
            return None
        settings = self.settings
        depends = [
            None if self.purifier is None else self.purifier.describe(),
            getattr(self.front, 'channel_order', ''),
            [settings.sigma, settings.noise_seed, min(settings.thresholds)],
            digest_model(self),
            digest_code(type(module) for module in self.modules()),
        ]
        return self.state.copies_of(depends)


def _name_of(content: str, sample: Any) -> str:
    """Name an image and what else a detector is told of it."""
    proposals = sample.get('proposals')
    told = None if proposals is None else proposals.to_dict()
    return digest_json([content, dict(sample.metainfo_items()), told])


def _denoised(
    preprocessor: nn.Module, purifier: Purifier | None, sigma: float, order: str
) -> nn.Module:
    """Put a denoiser in front of a preprocessor, if there is one.

    Args:
        preprocessor: The detector's.
        purifier: The denoiser.
        sigma: Standard deviation of the noise, of images in [0, 1].
        order: Order of the channels that the pipeline loads.

    Raises:
        ValueError: If the denoiser expects another noise, or the order is unknown.
    """
    if order not in CHANNEL_ORDERS:
        raise ValueError(
            f'channel_order={order!r} is unknown; choose one of {CHANNEL_ORDERS}.'
        )
    if purifier is None:
        return preprocessor
    return ShieldedPreprocessor(preprocessor, NoiseRemover(purifier, sigma), order)


def _build_detector(model: nn.Module | dict, preprocessor: dict | None) -> nn.Module:
    """Build what is to be smoothed.

    Raises:
        ValueError: If it is a classifier, or see :func:`build_inner`.
        TypeError: See :func:`build_inner`.
    """
    inner = build_inner(model, preprocessor)
    if task_of(type(inner)) == 'classification':
        raise ValueError(
            f'{type(inner).__name__} tells classes of images and has no boxes to take '
            "medians of; certify it by dict(type='mmdiff.SmoothedClassifier', ...)."
        )
    return inner
