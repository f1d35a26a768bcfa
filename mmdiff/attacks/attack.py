"""The contract of every attack: what goes in, what comes out, what is left alone."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmdiff.utils.seeding import mix_seed

from .budget import BALLS, Budget, as_number
from .masks import build_mask
from .oracle import Frame, ImageGroup, Oracle, oracle_of
from .result import AttackResult, AttackStats


@dataclass(eq=False)
class Attack(ABC):
    """Perturb the images of a batch, in pixel units, before the preprocessor.

    A subclass says how (:meth:`perturb`) and is a dataclass too (``eq=False``): its
    fields are its settings, which reports name and :func:`dataclasses.replace` varies.
    An attack is a value: nothing about a run is kept in it.

    This class keeps the promises: values stay in 0..255 and within ``eps``; only pixels
    of the image change, never padding; training flags, buffers, ``requires_grad`` and
    ``.grad`` of the model and the ground truth are afterwards as before, also after an
    exception; the result of an image does not depend on the rest of its batch (unless
    the model itself draws fresh noise).

    Args:
        eps: Budget in pixel units: 8 is 8/255. ``None`` is no budget, for attacks that
            have none.
        norm: ``'linf'``, or ``'l2'`` over all pixel values of an image; ``'flow'`` of
            attacks that displace pixels, whose ``eps`` is how far, in pixels.
        quantize: Round the result to whole pixel values, as writing it to a file would;
            towards the clean image where rounding would leave the budget.
        mask: Where pixels may change: ``'boxes'``, ``'background'``, four numbers
            (left, top, right, bottom as shares of the image), a ``.png`` or ``.npy``
            file, a :class:`mmdiff.attacks.Mask` or its config; ``None``: everywhere.
            All other pixels stay as they are; an image without any is left out.
        seed: With an image's id, decides everything random about it.

    Raises:
        ValueError: For a negative ``eps``, an unknown ``norm`` or ``mask``, or a
            ``norm`` that the attack does not have.
        FileNotFoundError: If the file of a mask does not exist.
        TypeError: For a subclass with fields that is no dataclass itself, or with an
            ``__init__`` of its own.
    """

    eps: float | None = None
    _: KW_ONLY
    norm: str = 'linf'
    quantize: bool = False
    mask: Any = None
    seed: int = 0
    # Norms of the budgets that the attack can have.
    norms: ClassVar[tuple[str, ...]] = BALLS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if '__dataclass_fields__' in vars(cls):  # made anew by dataclass(slots=True)
            return
        # The decorator has not run yet: these are written by hand.
        for kind in cls.__mro__[:-1]:  # the last is object
            if '__init__' in vars(kind) and (
                kind is cls or not issubclass(kind, Attack)
            ):
                whose = 'its own' if kind is cls else f'{kind.__name__}, no attack'
                raise TypeError(
                    f'{cls.__name__} has an __init__ of {whose}, and the settings of '
                    'an attack are its fields: declare them as fields of a dataclass, '
                    'and check them in __post_init__.'
                )

    def __post_init__(self) -> None:
        names = {field.name for field in fields(self)}
        for kind in type(self).__mro__:
            declared = vars(kind).get('__annotations__', {}).items()
            declared = {name for name, what in declared if 'ClassVar' not in str(what)}
            if declared - names - {'_'}:
                raise TypeError(
                    f'{kind.__name__} has fields and is no dataclass; decorate it with '
                    '@dataclass(eq=False).'
                )
        if self.eps is not None and not isinstance(self.eps, int | float):
            self.eps = as_number(self.eps)  # of numpy or torch: reports are JSON
        self.mask = build_mask(self.mask)
        self.budget  # noqa: B018 (it is checked)
        if self.norm not in self.norms:
            raise ValueError(
                f'{type(self).__name__} has budgets of norm='
                f'{" or ".join(self.norms)}, not of {self.norm!r}.'
            )

    @property
    def budget(self) -> Budget:
        """Where the attack must stay."""
        mask = '' if self.mask is None else str(self.mask)
        return Budget(self.eps, self.norm, mask)

    @property
    def name(self) -> str:
        """Name of the attack in reports: ``'pgd'``, ``'random_noise'``."""
        words = r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])'
        return re.sub(words, '_', type(self).__name__).lower()

    def threat_model(self) -> dict[str, Any]:
        """Return the settings that a report must name: the attack and its fields."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        settings['mask'] = self.budget.mask or None
        return {'attack': self.name, **settings}

    @abstractmethod
    def perturb(
        self, oracle: Oracle, group: ImageGroup, stats: AttackStats
    ) -> tuple[list[Tensor], list[float]]:
        """Return adversarial images and their final objectives.

        The images may leave the budget: they are projected afterwards.

        Args:
            oracle: Answers about the model; its parameters take no gradient now.
            group: Images of one padded size.
            stats: Account in which the work is counted.
        """

    def choose_oracle(self, oracle: Oracle) -> Oracle:
        """Return the oracle to ask: that of the model under test, unless overridden."""
        return oracle

    def check_applies(self, oracle: Oracle) -> None:  # noqa: B027 (most apply)
        """Complain about a model that the attack has no meaning for.

        Raises:
            NotApplicable: If it is a model of another task, say.
        """

    def gather(self, oracle: Oracle, data_batch: dict) -> ImageGroup:
        """Read the images of a batch, with the mask of each.

        Raises:
            NotApplicable: If the mask has no meaning for the model.
            ValueError: See :meth:`Oracle.gather`.
        """
        images = oracle.gather(data_batch)
        return images if self.mask is None else self.mask.on(images)

    def run(
        self, oracle: Oracle, data_batch: dict, skip: Sequence[bool] | None = None
    ) -> AttackResult:
        """Attack one batch as the dataloader gives it.

        Args:
            oracle: Oracle of the model (:func:`mmdiff.attacks.oracle_of`).
            data_batch: ``inputs`` (list of (C, H, W), or (N, C, H, W)) and
                ``data_samples``. Left as it is.
            skip: Flags of images to leave out (already fooled, say): they come back
                clean and cost nothing. So do images without a pixel in the mask.

        Returns:
            Adversarial inputs (float32, 0..255, in the container of the inputs), final
            objectives and an account of the work.

        Raises:
            ValueError: If ``skip`` does not fit, if there is no ground truth, or if the
                model has no such objective.
            GradientBlocked: If no gradient reaches the images.
        """
        oracle, stats = self.choose_oracle(oracle), AttackStats()
        images = self.gather(oracle, data_batch)
        clean = [frame.canvas for frame in images.frames]
        adversarial, losses = [x.clone() for x in clean], [math.nan] * len(clean)
        attacked = _not_skipped(skip, len(clean))
        stats.record_masks(images.frames[i] for i in attacked)
        attacked = [i for i in attacked if images.frames[i].mask_share]
        if self.eps != 0:
            with oracle.attacked():
                for chosen in oracle.split(images, attacked):
                    group = images.take(chosen)
                    perturbed, ends = self.perturb(oracle, group, stats)
                    for i, adv, end in zip(chosen, perturbed, ends):
                        adversarial[i] = self._finish(adv.detach(), images.frames[i])
                        losses[i] = end
        stats.record_images(
            [clean[i] for i in attacked], [adversarial[i] for i in attacked]
        )
        inputs = data_batch['inputs']
        stacked = isinstance(inputs, Tensor)
        handed_on = torch.stack(adversarial) if stacked else type(inputs)(adversarial)
        return AttackResult(handed_on, losses, stats)

    def check_model(self, model: nn.Module) -> None:
        """Complain about a model before there is any batch.

        Raises:
            NotApplicable: See :meth:`check_applies`.
            ValueError, TypeError: See :func:`mmdiff.attacks.oracle_of`.
        """
        self.check_applies(self.choose_oracle(oracle_of(model)))

    def run_on(
        self, model: nn.Module, data_batch: dict, gt_scale: str = 'original'
    ) -> AttackResult:
        """Attack one batch, of a model in place of its oracle (see :meth:`run`)."""
        return self.run(oracle_of(model, gt_scale), data_batch)

    def gather_from(
        self, model: nn.Module, data_batch: dict, gt_scale: str = 'original'
    ) -> ImageGroup:
        """Read the images of a batch, without attacking them (see :meth:`gather`)."""
        return self.gather(oracle_of(model, gt_scale), data_batch)

    def __call__(
        self, model: nn.Module, data_batch: dict, gt_scale: str = 'original'
    ) -> list[Tensor] | Tensor:
        """Attack one batch and return its adversarial inputs: the short form.

        Args:
            model: An mm model, or a DDP wrapper around one.
            data_batch: See :meth:`run`.
            gt_scale: See :func:`mmdiff.attacks.oracle_of`.
        """
        return self.run_on(model, data_batch, gt_scale).inputs

    def _finish(self, adv: Tensor, frame: Frame) -> Tensor:
        """Return the whole input, its image within the budget."""
        clean = frame.cut()
        adv = self.budget.project(frame.masked(adv), clean)
        if self.quantize:
            adv = self.budget.round(adv, clean)
        return frame.paste(adv)

    def seed_of(self, image_id: str, *choice: int | str) -> int:
        """Return the seed of one random choice about one image."""
        return mix_seed(self.seed, image_id, *choice)


def _not_skipped(skip: Sequence[bool] | None, count: int) -> list[int]:
    """Indices of the images to attack."""
    if skip is None:
        return list(range(count))
    if len(skip) != count:
        raise ValueError(
            f'skip has {len(skip)} flags for {count} images; give one each.'
        )
    return [i for i, left_out in enumerate(skip) if not left_out]
