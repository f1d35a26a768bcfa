"""The contract of every attack: what goes in, what comes out, what is left alone."""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmdiff.utils.modules import differentiable, frozen_parameters, unwrap
from .objectives import to_input_scale

NORMS = ('linf', 'l2')


@dataclass
class AttackStats:
    """What happened to the images since the last reset; sums unless named otherwise.

    Args:
        images: Images attacked.
        changed: Images of which at least one pixel changed.
        max_delta: Largest change of a pixel value, in 0..255.
        max_l2: Largest L2 norm of a change.
        pixel_min: Smallest value handed on.
        pixel_max: Largest value handed on.
        grad_evals: Gradients computed, counted per image.
        queries: Passes without a gradient, counted per image.
        zero_grads: Of those, all-zero ones.
        nonfinite_grads: Of those, ones with NaN or infinity.
        losses: Objective before each step and after the last, summed over images.
    """

    images: int = 0
    changed: int = 0
    max_delta: float = 0.0
    max_l2: float = 0.0
    pixel_min: float = 255.0
    pixel_max: float = 0.0
    grad_evals: int = 0
    queries: int = 0
    zero_grads: int = 0
    nonfinite_grads: int = 0
    losses: dict[int, float] = field(default_factory=dict)

    def record(self, clean: list[Tensor], adversarial: list[Tensor]) -> None:
        for x, adv in zip(clean, adversarial):
            delta = adv - x
            self.images += 1
            self.changed += int(delta.abs().max() > 0)
            self.max_delta = max(self.max_delta, delta.abs().max().item())
            self.max_l2 = max(self.max_l2, delta.norm().item())
            self.pixel_min = min(self.pixel_min, adv.min().item())
            self.pixel_max = max(self.pixel_max, adv.max().item())


class Attack(ABC):
    """Perturb the images of a batch, in pixel units, before the preprocessor.

    A subclass says how (:meth:`perturb`). This class keeps the promises: values stay in
    0..255 and within ``eps``; only pixels of the image change, never padding;
    training flags, buffers, ``requires_grad`` and ``.grad`` of the model and the ground
    truth are afterwards as before, also after an exception; the result of an image does
    not depend on the rest of its batch (unless the model itself draws fresh noise).

    After a call, ``image_losses`` has the final objective of each image of the batch,
    as ascended; NaN for skipped images and attacks without an objective.

    Args:
        eps: Budget in pixel units: 8 is 8/255. ``None`` is no budget, for attacks that
            have none.
        norm: ``'linf'``, or ``'l2'`` over all pixel values of an image.
        quantize: Round the result to whole pixel values, as writing it to a file would;
            towards the clean image where rounding would leave the budget.
        gt_scale: ``'original'``: ground truth at the scale of the file, as in mmdet's
            test pipelines (``LoadAnnotations`` after ``Resize``); ``'input'``: at that
            of the input.
        seed: With an image's id, decides everything random about it.

    Raises:
        ValueError: For a negative ``eps`` or an unknown ``norm`` or ``gt_scale``.
    """

    def __init__(
        self,
        eps: float | None,
        norm: str = 'linf',
        quantize: bool = False,
        gt_scale: str = 'original',
        seed: int = 0,
    ) -> None:
        if eps is not None and not eps >= 0:
            raise ValueError(
                f'eps={eps} is negative; give the budget in pixel units (8 is 8/255).'
            )
        if norm not in NORMS:
            raise ValueError(f'norm={norm!r} is unknown; choose one of {NORMS}.')
        if gt_scale not in ('original', 'input'):
            raise ValueError(f"gt_scale={gt_scale!r} must be 'original' or 'input'.")
        self.eps = eps
        self.norm = norm
        self.quantize = quantize
        self.gt_scale = gt_scale
        self.seed = seed
        self.stats = AttackStats()
        self.image_losses: list[float] = []

    @abstractmethod
    def perturb(
        self, model: nn.Module, images: list[Tensor], samples: list, ids: list[str]
    ) -> tuple[list[Tensor], list[float]]:
        """Return adversarial images and their final objectives.

        Args:
            model: The model, unwrapped, its parameters without gradients.
            images: Float images (C, H, W) in 0..255 that pad to one and the same size.
            samples: Data samples with ground truth at the scale of the input.
            ids: What makes each image's random choices its own.
        """

    def threat_model(self) -> dict:
        """The settings that a report must name."""
        return {
            'attack': type(self).__name__.lower(),
            'norm': self.norm,
            'eps': self.eps,
            'quantize': self.quantize,
            'seed': self.seed,
        }

    def __call__(
        self, model: nn.Module, data_batch: dict, skip: Sequence[bool] | None = None
    ) -> list[Tensor] | Tensor:
        """Attack one batch as the dataloader gives it.

        Args:
            model: mm model, or a DDP wrapper around one.
            data_batch: ``inputs`` (list of (C, H, W), or (N, C, H, W)) and
                ``data_samples``. Left as it is.
            skip: Flags of images to leave out (already fooled, say): they come back
                clean and cost nothing.

        Returns:
            Adversarial inputs: float32, 0..255, in the container of the inputs.
        """
        model = unwrap(model)
        inputs, samples = data_batch['inputs'], data_batch['data_samples']
        device = next(model.parameters()).device
        clean = [x.detach().to(device, torch.float32) for x in inputs]
        scaled = [to_input_scale(sample, self.gt_scale) for sample in samples]
        ids = [self._id(sample, i) for i, sample in enumerate(samples)]
        adversarial = [x.clone() for x in clean]
        if skip is None:
            skip = [False] * len(clean)
        elif len(skip) != len(clean):
            raise ValueError(
                f'skip has {len(skip)} flags for {len(clean)} images; give one each.'
            )
        attacked = [i for i, left_out in enumerate(skip) if not left_out]
        self.image_losses = [math.nan] * len(clean)
        if self.eps != 0:
            with differentiable(device), frozen_parameters(model):
                for group in self._groups(model, clean, attacked):
                    self._attack_group(model, group, clean, scaled, ids, adversarial)
        self.stats.record(
            [clean[i] for i in attacked], [adversarial[i] for i in attacked]
        )
        if isinstance(inputs, Tensor):
            return torch.stack(adversarial)
        return type(inputs)(adversarial)

    def _attack_group(self, model, group, clean, samples, ids, adversarial) -> None:
        """Attack the images of one padded size; write into ``adversarial``."""
        found, losses = self.perturb(
            model,
            [clean[i] for i in group],
            [samples[i] for i in group],
            [ids[i] for i in group],
        )
        for i, adv, loss in zip(group, found, losses):
            self.image_losses[i] = loss
            adv = self.project(adv.detach(), clean[i])
            adversarial[i] = self._round(adv, clean[i]) if self.quantize else adv

    @staticmethod
    def _id(sample, position: int) -> str:
        """The image's id in its dataset, or its place in the batch if it has none."""
        meta = sample.metainfo
        return str(meta.get('img_id', meta.get('img_path', f'#{position}')))

    def seed_of(self, image_id: str, *what: int | str) -> int:
        """Seed of one random choice about one image, the same in every run."""
        return zlib.crc32('/'.join(map(str, (self.seed, image_id, *what))).encode())

    @staticmethod
    def _groups(
        model: nn.Module, images: list[Tensor], indices: list[int]
    ) -> list[list[int]]:
        """``indices``, those of images that pad to the same size together.

        A model sees an image differently on a larger canvas; attacked beside its equals
        only, an image's result does not depend on its batch.
        """
        divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1) or 1
        groups: dict[tuple, list[int]] = {}
        for i in indices:
            size = tuple(-(-side // divisor) for side in images[i].shape[-2:])
            groups.setdefault(size, []).append(i)
        return list(groups.values())

    def preprocess(self, model: nn.Module, images: list[Tensor], samples: list) -> dict:
        """Run the model's own preprocessor, differentiably, on copied samples."""
        copies = [sample.clone() for sample in samples]
        batch = {'inputs': list(images), 'data_samples': copies}
        return model.data_preprocessor(batch, training=False)

    def project(self, adv: Tensor, clean: Tensor) -> Tensor:
        """Nearest image within 0..255 and, if there is one, the budget."""
        if self.eps is None:
            return adv.clamp(0, 255)
        if self.norm == 'linf':
            lower = (clean - self.eps).clamp(min=0)
            upper = (clean + self.eps).clamp(max=255)
            return torch.minimum(torch.maximum(adv, lower), upper)
        delta = adv - clean
        delta = delta * (self.eps / delta.norm().clamp(min=self.eps))
        # Clipping to the pixel range moves towards the clean image: still inside.
        return (clean + delta).clamp(0, 255)

    def _round(self, adv: Tensor, clean: Tensor) -> Tensor:
        rounded = adv.round()
        if self.eps is None:
            return rounded
        if self.norm == 'linf':
            outside = (rounded - clean).abs() > self.eps
        else:
            outside = torch.full_like(adv, (rounded - clean).norm() > self.eps).bool()
        # Towards the clean image; a clean image of whole values stays in reach.
        inward = torch.where(adv > clean, adv.floor(), adv.ceil())
        return torch.where(outside, inward, rounded)
