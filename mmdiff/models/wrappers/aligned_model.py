"""Training that aligns a model's features with those of a frozen prior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdiff.registry import MODELS
from mmdiff.utils.modules import training_flags

from ..backbones import DiffusionUNet
from ..losses.passes import Observer, preprocess, unobserved
from .positions import box_cells, image_cells
from .training_wrapper import TrainingWrapper

SIDES = ('adversarial', 'clean', 'both')
REGIONS = ('image', 'boxes')


class SharedPrior:
    """Keeps a frozen prior out of the modules of a model.

    So no optimizer, checkpoint, moving average or DDP sees it, and copies of the model
    share it.

    Args:
        module: The prior.
    """

    def __init__(self, module: DiffusionUNet) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict) -> SharedPrior:
        return self


class LayerOutputs:
    """Keeps what a layer gives, by the side of the pass; an observer of passes.

    Args:
        layer: The layer.
        level: Which of several outputs is kept.
    """

    def __init__(self, layer: nn.Module, level: int) -> None:
        self.layer, self.level = layer, level
        self.features: dict[str, Tensor] = {}

    @contextmanager
    def __call__(self, side: str) -> Iterator[None]:
        def keep(module: nn.Module, args: tuple, output: Any) -> None:
            self.features[side] = self._one_of(output)

        handle = self.layer.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def _one_of(self, output: Tensor | Sequence[Tensor]) -> Tensor:
        if isinstance(output, Tensor):
            return output
        if not -len(output) <= self.level < len(output):
            raise ValueError(
                f'level={self.level} is out of range; the aligned layer gives '
                f'{len(output)} outputs.'
            )
        return output[self.level]


@MODELS.register_module()
class AlignedModel(TrainingWrapper):
    """Diffusion representation alignment, DRA (Huang et al. 2026), around a training.

    ``L = L_model + lambda (1 - cos(g(h(x')), stopgrad r(x)))``: r are features of the
    clean image x, augmented as it is, in a frozen prior at one time and tap; h those of
    the model in the passes of its training. Around an
    :class:`~mmdiff.models.AdversarialModel` x' is the adversarial image; around a bare
    model, x itself. The prior costs one pass without gradients per batch;
    ``mmdiff.FeatureCacheHook`` saves it where images repeat.

    Prior and projector are gone when the model is deployed: checkpoints have the
    projector beside the weights of the bare model, to resume from, and no prior.

    Args:
        model: An AdversarialModel, a classifier or a detector; or its config.
        prior: Arguments of :class:`mmdiff.DiffusionUNet` with one tap:
            ``dict(model=dict(source=...), timestep=50, out_indices=('mid',))``.
        alignment: Arguments of
            :class:`~mmdiff.models.losses.RepresentationAlignmentLoss`;
            ``out_channels`` is that of the tap.
        layer: Name of the module in the bare model that gives h.
        level: Which of its outputs, if there are several.
        side: Whose features are aligned: of ``'adversarial'`` images, of ``'clean'``
            ones, or of ``'both'`` (their mean).
        region: Positions that count: of the whole ``'image'``, without padding, or
            those that ground-truth ``'boxes'`` touch.
        prior_scale: Scale at which the prior sees the images, rounded so that its
            stride divides them: 0.4 shows a prior of 128 px those of 320 px at its own
            size, for a sixth of the time.
        bgr_to_rgb: Whether images are loaded as BGR, as all files are by mm packages
            (mmpretrain's CIFAR10 has RGB).
        data_preprocessor: See :class:`TrainingWrapper`.

    Raises:
        ValueError: If the prior trains along, has several taps or another width than
            the projector, if no pass is made on a side, or for an unknown layer, side
            or region. In training, if the prior does not take images of this size.
    """

    own_parts: ClassVar[tuple[str, ...]] = ('alignment',)

    def __init__(
        self,
        model: dict | nn.Module,
        prior: dict,
        alignment: dict,
        layer: str = 'backbone',
        level: int = -1,
        side: str = 'adversarial',
        region: str = 'image',
        prior_scale: float = 1.0,
        bgr_to_rgb: bool = True,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(model, data_preprocessor)
        self._check_choice('side', side, SIDES)
        self._check_choice('region', region, REGIONS)
        self.layer, self.level, self.region = layer, level, region
        if not prior_scale > 0:
            raise ValueError(f'prior_scale={prior_scale} must be above 0.')
        self.prior_scale, self.bgr_to_rgb = prior_scale, bgr_to_rgb
        self.sides = SIDES[:2] if side == 'both' else (side,)
        self._check_sides()
        self._check_layer()
        self._shared = SharedPrior(_build_prior(prior))
        self.alignment = self._build_alignment(alignment)
        self._target: Tensor | None = None
        self._fits = False

    @property
    def prior(self) -> DiffusionUNet:
        """The frozen prior, which is no module of this one."""
        return self._shared.module

    def compute_losses(
        self, batch: dict, observe: Observer = unobserved
    ) -> dict[str, Tensor | list[Tensor]]:
        outputs = LayerOutputs(self.deployed.get_submodule(self.layer), self.level)
        target = self._target_of(batch)
        self._check_features(batch)
        if isinstance(self.model, TrainingWrapper):
            losses = self.model.compute_losses(batch, outputs)
        else:
            data = preprocess(self.model, batch['inputs'], batch['data_samples'])
            with outputs('clean'):
                losses = self.model(**data, mode='loss')
        parts = [self._align(outputs, side, target, batch) for side in self.sides]
        for name in parts[0]:
            losses[name] = torch.stack([part[name] for part in parts]).mean()
        return losses

    def _check_features(self, batch: dict) -> None:
        """Complain before the first attack about features that cannot be aligned.

        Known without a pass on the losses are those of backbone and neck; others are
        checked when they come.

        Raises:
            ValueError: If the projector does not take them, or there is no such level.
        """
        if self._fits or self.layer.partition('.')[0] not in ('backbone', 'neck'):
            return
        bare = self.deployed
        outputs = LayerOutputs(bare.get_submodule(self.layer), self.level)
        data = preprocess(bare, batch['inputs'][:1], batch['data_samples'][:1])
        with training_flags(bare, False), torch.no_grad(), outputs('clean'):
            bare.extract_feat(data['inputs'])
        for features in outputs.features.values():
            self.alignment.check_width(features)
        self._fits = True

    def _align(
        self, outputs: LayerOutputs, side: str, target: Tensor, batch: dict
    ) -> dict[str, Tensor]:
        """Loss of one side."""
        if side not in outputs.features:
            raise ValueError(
                f'layer={self.layer!r} was not run on {side} images; name a module '
                "that the model calls, as 'backbone' or 'neck'."
            )
        features, weights = outputs.features[side], None
        if features.ndim == 4:
            weights = self._weights(features, batch)
        return self.alignment(features, target, weights)

    def _weights(self, features: Tensor, batch: dict) -> Tensor:
        """Positions of a map that count, (N, 1, H, W)."""
        canvas, size = self._canvas(batch['inputs']), features.shape[-2:]
        if self.region == 'boxes':
            cells = box_cells(batch['data_samples'], canvas, size)
        else:
            shapes = [x.shape[-2:] for x in batch['inputs']]
            cells = image_cells(shapes, canvas, size)
        return cells[:, None].to(features.device)

    def _target_of(self, batch: dict) -> Tensor:
        """Features of the clean images, (N, D, H, W); of a replay those of before."""
        if self.replay > 0 and self._target is not None:
            return self._target
        images = self._images(batch['inputs'])
        with torch.no_grad():
            (target,) = self.prior(images)
        self._target = target if self.replays > 1 and self.replay >= 0 else None
        return target

    def repeat(self, step: Callable[[], Any], optim_wrapper: Any) -> Any:
        """See :meth:`TrainingWrapper.repeat`."""
        try:
            return super().repeat(step, optim_wrapper)
        finally:
            self._target = None

    def _images(self, inputs: Any) -> Tensor:
        """Clean images as the prior takes them: RGB in [-1, 1], padded as the model's.

        Raises:
            ValueError: If the prior does not take images of this size.
        """
        height, width = self._canvas(inputs)
        stride = self.prior.model.total_stride
        if stride > self.prior_scale * min(height, width):
            raise ValueError(
                f'The prior has the stride {stride} and an image is {height}x{width} '
                f'at the scale {self.prior_scale:g}: there is nothing to align; take '
                'another prior, or larger images.'
            )
        padded = []
        for x in inputs:
            x = x.flip(0) if self.bgr_to_rgb else x
            right, below = width - x.shape[-1], height - x.shape[-2]
            padded.append(F.pad(x.float() / 127.5 - 1, (0, right, 0, below)))
        images = torch.stack(padded)
        if self.prior_scale == 1:
            return images
        sides = [
            round(self.prior_scale * side / stride) * stride for side in (height, width)
        ]
        return F.interpolate(images, sides, mode='bilinear', antialias=True)

    def _canvas(self, inputs: Any) -> tuple[int, int]:
        """Height and width that the model's preprocessor pads a batch to."""
        divisor = getattr(self.deployed.data_preprocessor, 'pad_size_divisor', 1) or 1
        height, width = (max(x.shape[axis] for x in inputs) for axis in (-2, -1))
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def _build_alignment(self, alignment: dict) -> nn.Module:
        width = self.prior.out_channels[0]
        given = alignment.get('out_channels', width)
        if given != width:
            raise ValueError(
                f'The projector has out_channels={given} and the tap of the prior '
                f'{width} channels; leave out_channels out.'
            )
        return MODELS.build(
            {
                'type': 'mmdiff.RepresentationAlignmentLoss',
                **alignment,
                'out_channels': width,
            }
        )

    @staticmethod
    def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise ValueError(f'{name}={value!r} must be one of {allowed}.')

    def _check_sides(self) -> None:
        """Complain about a side that the training makes no pass on."""
        made = getattr(self.model, 'sides', ('clean',))
        for side in self.sides:
            if side not in made:
                raise ValueError(
                    f'No pass is made on {side} images, whose features are to be '
                    f'aligned; set side={made[0]!r}, or a loss with such a pass '
                    '(mmdiff.AdversarialModel; MadryLoss with clean_weight, TRADES).'
                )

    def _check_layer(self) -> None:
        """Complain about a layer that the bare model does not have."""
        try:
            self.deployed.get_submodule(self.layer)
        except AttributeError:
            parts = ', '.join(name for name, _ in self.deployed.named_children())
            raise ValueError(
                f'layer={self.layer!r} is no module of {type(self.deployed).__name__}; '
                f'name one of {parts}, or of theirs.'
            ) from None

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> nn.Module:
        """Move the prior along."""
        super()._apply(fn, *args, **kwargs)
        self.prior._apply(fn, *args, **kwargs)
        return self


def _build_prior(prior: dict) -> DiffusionUNet:
    """Build a frozen prior with one tap.

    Raises:
        ValueError: If it trains along or has several taps.
    """
    if not prior.get('frozen', True):
        raise ValueError(
            'The prior of an alignment is frozen: it is in no optimizer, checkpoint or '
            'moving average; leave frozen=False out, or train the prior by '
            'mmdiff.DiffusionPretrainer.'
        )
    built = MODELS.build({'type': 'mmdiff.DiffusionUNet', **prior})
    if len(built.out_taps) != 1:
        names = ', '.join(info.name for info in built.out_taps)
        raise ValueError(
            f'The prior gives the taps {names} and features are aligned with one; name '
            'one in out_indices.'
        )
    if prior.get('init_cfg'):
        built.init_weights()
    return built.eval()
