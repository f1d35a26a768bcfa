"""A frozen diffusion U-Net as the backbone of any mm model."""

from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdiff.diffusion import DenoisingError, DiffusionModel, FeatureInfo
from mmdiff.diffusion.dtypes import parse_dtype
from mmdiff.diffusion.noise import TILE, FixedNoise
from mmdiff.registry import MODELS

from ..priors import check_condition, chosen_time, prior_arguments

NOISES = ('none', 'fixed', 'fresh', 'shared')


@MODELS.register_module()
class DiffusionUNet(BaseModule):
    """Features of a diffusion prior at one noise level.

    ``x_t = alpha_t x + sigma_t eps`` runs through the U-Net up to the deepest tap.
    Inputs are RGB in [-1, 1]: set mean = std = 127.5 and ``bgr_to_rgb=True`` in the
    ``data_preprocessor``, and its ``pad_size_divisor`` to the total stride. Frozen
    means that the parameters take no gradient; gradients to the input always flow, so
    attacks see through it.

    Args:
        model: A prior (``mmdiff::NAME``, folder, hub id, or a ``UNet2DModel`` config
            for random weights), or the arguments of ``DiffusionModel.from_pretrained``
            as a dict with ``source``: ``dict(source=..., cache_dir=..., dtype=...)``.
        timestep: DDPM timestep of a prior trained with timesteps.
        sigma: Noise level of a prior trained with sigmas (EDM).
        out_indices: Tap names (``'up.1'``), or indices into ``feature_info``.
        noise: ``'fixed'``: a function of ``noise_seed`` and the position, the same for
            every image and batch size. ``'fresh'``: drawn anew in every pass; attack it
            with ``eot`` above 1. ``'shared'``: drawn anew in every pass, once for all
            images of a batch, as "Diffusion Models are Robust Pretrainers" publishes
            it. ``'none'``: ``alpha_t x`` alone.
        noise_seed: Seed of the fixed noise.
        num_noise: Number of noises that the features are averaged over.
        frozen: ``False`` trains the U-Net along (its dropout is then active).
        condition: The class that is asked of a class-conditional prior.
        with_cp: Checkpoint activations: less memory, more time.
        save_frozen: Keep frozen weights in checkpoints. By default they are left out if
            they were loaded from somewhere; a fingerprint is kept, and compared on
            loading.
        init_cfg: As in mmengine, for checkpoints of mm models.

    Raises:
        ValueError: If a tap or the noise is unknown, or of ``timestep`` and ``sigma``
            anything is given but the one that the prior has.

    Example:
        >>> source = dict(type='UNet2DModel', block_out_channels=(4, 8),
        ...     down_block_types=('DownBlock2D', 'DownBlock2D'), sample_size=32,
        ...     up_block_types=('UpBlock2D', 'UpBlock2D'), norm_num_groups=2)
        >>> self = DiffusionUNet(source, timestep=10, out_indices=('mid', 'up.1'))
        >>> [tuple(f.shape) for f in self(torch.zeros(1, 3, 32, 32))]
        [(1, 4, 32, 32), (1, 8, 16, 16)]
        >>> self.out_channels, self.out_strides
        ([4, 8], [1, 2])
    """

    def __init__(
        self,
        model: str | Path | dict,
        timestep: int | None = None,
        sigma: float | None = None,
        out_indices: Sequence[str | int] | str | int = (-1,),
        noise: str = 'fixed',
        noise_seed: int = 0,
        num_noise: int = 1,
        frozen: bool = True,
        condition: int | None = None,
        with_cp: bool = False,
        save_frozen: bool | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self._check_noise(noise, num_noise, noise_seed)
        self.noise, self.noise_seed, self.num_noise = noise, noise_seed, num_noise
        self.condition, self.frozen = condition, _checked('frozen', frozen)
        # Called in place of the U-Net, as ``cache(self, x, compute)``.
        self.feature_cache: Callable | None = None
        model = prior_arguments(model)
        self._load(model)
        self._set_time(chosen_time(self.model, 'DiffusionUNet', timestep, sigma))
        check_condition(self.model, condition)
        if noise == 'fixed':
            self.fixed_noise = self._build_noise()
        self._set_taps(out_indices)
        if _checked('with_cp', with_cp):
            self.model.enable_gradient_checkpointing()
        if frozen:
            self.model.requires_grad_(False)
        if save_frozen is None:  # random weights are nowhere else
            source, random = model['source'], model.get('random_weights', False)
            save_frozen = isinstance(source, dict) or bool(random)
        self._leave_weights_out(save_frozen)
        if self.cast_to is not None:
            self.model.cast(self.cast_to)
        self.train(self.training)

    def _load(self, model: dict) -> None:
        """Load the prior; it is cast last, as its fingerprint is that of what is read.

        Args:
            model: Arguments of ``DiffusionModel.from_pretrained``.
        """
        precision = model.get('dtype')
        self.cast_to = None if precision is None else parse_dtype(precision)
        arguments = dict(model, dtype=None)
        self.source = arguments
        # Loaded when it is asked for, and no module of this one: no checkpoint has it.
        self._whole: list[DiffusionModel] = []
        self.model = DiffusionModel.from_pretrained(**arguments)

    def _set_time(self, time: int | float) -> None:
        """Keep the time: exact, whatever the precision of the module is."""
        kind = torch.float32 if isinstance(time, float) else torch.int64
        self.register_buffer('time', torch.tensor(time, dtype=kind), persistent=False)

    def _set_taps(self, out_indices: Sequence[str | int] | str | int) -> None:
        """Choose the taps and log what a neck needs to know of them."""
        if isinstance(out_indices, (str, int)):
            out_indices = (out_indices,)
        # Low stride first, as mmdet's necks expect; of equal strides, as given.
        self.out_taps: list[FeatureInfo] = sorted(
            self.model.resolve_taps(out_indices), key=lambda info: info.stride
        )
        self.feature_info = self.model.feature_info
        self.model.truncate([info.name for info in self.out_taps])
        names = ', '.join(info.name for info in self.out_taps)
        print_log(
            f'DiffusionUNet gives the taps {names}; what fits them is '
            f'neck=dict(in_channels={self.out_channels}, '
            f'in_strides={self.out_strides})',
            logger='current',
        )

    def _leave_weights_out(self, save_frozen: bool) -> None:
        """Put a fingerprint in the place of frozen weights in checkpoints."""
        self.save_frozen = save_frozen
        if self.leaves_weights_out:
            self.register_buffer('fingerprint', self._fingerprint())
        self._register_state_dict_hook(_drop_frozen)
        self._loading_prefix = ''
        self.register_load_state_dict_post_hook(_forgive_frozen)

    @property
    def out_channels(self) -> list[int]:
        """Channels of each output: a neck's ``in_channels``."""
        return [info.channels for info in self.out_taps]

    @property
    def out_strides(self) -> list[int]:
        """Stride of each output: a neck's ``in_strides``."""
        return [info.stride for info in self.out_taps]

    @staticmethod
    def _check_noise(noise: str, num_noise: int, seed: int) -> None:
        if not isinstance(seed, Integral):
            raise ValueError(f'noise_seed={seed!r} must be a whole number.')
        if noise not in NOISES:
            raise ValueError(f'noise={noise!r} is unknown; choose one of {NOISES}.')
        whole = isinstance(num_noise, Integral)
        if not whole or num_noise < 1 or (noise == 'none' and num_noise > 1):
            raise ValueError(
                f'num_noise={num_noise} with noise={noise!r} makes no sense; average '
                "at least one noise, and exactly one (of none) with noise='none'."
            )

    def _build_noise(self) -> FixedNoise:
        """Hold the noise for images up to the size of the prior's own."""
        try:
            shape = self.model.image_shape
        except ValueError:  # it does not say
            shape = (0, 0)
        stride = self.model.encoder_stride
        height, width = (max(-(-side // stride), TILE) for side in shape)
        # Room for 65,536 noises before two seeds share one.
        first = self.noise_seed << 16
        seeds = range(first, first + self.num_noise)
        return FixedNoise(self.model.noise_channels, (height, width), seeds)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: bool) -> nn.Module:
        """Move the time with the module, but never cast it: it stays exact."""
        exact = self.time
        super()._apply(fn, *args)
        self.time = exact.to(self.time.device)
        return self

    @property
    def leaves_weights_out(self) -> bool:
        """Whether checkpoints carry a fingerprint in place of the U-Net."""
        return self.frozen and not self.save_frozen

    def _is_same_prior(self, fingerprint: Tensor) -> bool:
        """Tell whether a checkpoint's prior is this one, in whatever precision."""
        if torch.equal(fingerprint, self.fingerprint.cpu()):
            return True
        # Of checkpoints that were written when only the cast weights were known.
        rounded = (self.model.fingerprint(d) for d in (torch.bfloat16, torch.float16))
        return bytes(fingerprint.tolist()) in rounded

    def _fingerprint(self) -> Tensor:
        """Return the SHA-256 of the prior's weights, (32,) uint8."""
        return torch.tensor(list(self.model.fingerprint()), dtype=torch.uint8)

    def init_weights(self) -> None:
        """Apply ``init_cfg``; the prior's own weights stay as they were loaded."""
        super().init_weights()
        if self.leaves_weights_out:  # init_cfg may have brought other weights
            loaded = self.init_cfg is not None
            if loaded or self.cast_to is None:
                self.fingerprint.copy_(self._fingerprint())

    def train(self, mode: bool = True) -> 'DiffusionUNet':
        """Set the mode; a frozen prior stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract the features of images, low stride first.

        Args:
            x: Images, (N, 3, H, W) in [-1, 1].

        Raises:
            ValueError: If H or W do not divide by the total stride.
        """
        cache = self.feature_cache
        differentiated = torch.is_grad_enabled() and x.requires_grad
        if cache is None or differentiated or not self.gives_constant_features:
            return self._compute(x)
        return cache(self, x, self._compute)

    @property
    def gives_constant_features(self) -> bool:
        """Whether the features of an image are the same in every pass."""
        return self.frozen and not self.draws_noise

    @property
    def draws_noise(self) -> bool:
        """Whether noise is drawn anew in every pass."""
        return self.noise in ('fresh', 'shared')

    def _compute(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the U-Net."""
        cond = None
        if self.condition is not None:
            cond = torch.full((len(x),), self.condition, device=x.device)
        names = [info.name for info in self.out_taps]
        sums: list[Tensor] | None = None
        self.model.check_images(x)
        x0 = self.model.encode(x)
        for k in range(self.num_noise):
            x_t = self.model.add_noise(x0, self.time, self._draw(x0, k))
            out = self.model.features(x_t, self.time, names, cond)
            values = [out[name] for name in names]
            sums = values if sums is None else [a + b for a, b in zip(sums, values)]
        return tuple((value / self.num_noise).to(x.dtype) for value in sums)

    def denoising_error(
        self, num_levels: int, times: Sequence[float] | None, noise_seed: int
    ) -> DenoisingError:
        """Return what tells how badly the frozen prior explains images.

        The prior is loaded once more, as this one has no blocks past its taps.

        Args:
            num_levels, times, noise_seed: See
                :class:`mmdiff.diffusion.DenoisingError`.

        Raises:
            ValueError: If the prior has random weights, or no such noise levels.
        """
        if not self._whole:
            self._whole.append(self._load_whole())
        prior = self._whole[0].to(self.time.device)
        return DenoisingError.of(prior, num_levels, times, noise_seed, self.condition)

    def _load_whole(self) -> DiffusionModel:
        source = self.source
        if isinstance(source['source'], dict) or source.get('random_weights'):
            raise ValueError(
                'This DiffusionUNet has random weights and kept those up to its taps '
                'alone: it explains no image; give it a trained prior.'
            )
        prior = DiffusionModel.from_pretrained(**source).requires_grad_(False)
        return prior.eval()

    def _draw(self, x: Tensor, k: int) -> Tensor:
        """Draw the noise number ``k`` for ``x``."""
        if self.noise == 'none':
            return torch.zeros_like(x)
        if self.noise == 'fresh':
            return torch.randn_like(x)
        if self.noise == 'shared':
            return torch.randn_like(x[:1])
        return self.fixed_noise(x, k)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        key = f'{prefix}fingerprint'
        self._loading_prefix = prefix
        if self.leaves_weights_out and key in state_dict:
            if not self._is_same_prior(state_dict[key].cpu()):
                raise ValueError(
                    'The checkpoint was trained on another frozen prior than the one '
                    'that the config loads: give the same model=... as in training.'
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _checked(name: str, flag: Any) -> bool:
    """Return a flag; a word would be taken for True."""
    if not isinstance(flag, bool):
        raise ValueError(f'{name}={flag!r} must be True or False.')
    return flag


def _drop_frozen(
    module: nn.Module, state_dict: dict, prefix: str, _metadata: dict
) -> None:
    """State-dict hook: leave the frozen U-Net out."""
    if module.leaves_weights_out:
        for key in [k for k in state_dict if k.startswith(f'{prefix}model.')]:
            del state_dict[key]


def _forgive_frozen(module: nn.Module, incompatible: Any) -> None:
    """Load hook: do not call missing what was left out on purpose."""
    if module.leaves_weights_out:
        left_out = f'{module._loading_prefix}model.'
        incompatible.missing_keys[:] = [
            key for key in incompatible.missing_keys if not key.startswith(left_out)
        ]
