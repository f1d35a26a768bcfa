"""One perturbation for all images, fitted on others."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mmdiff.registry import ATTACKS

from .attack import Attack
from .oracle import ImageGroup, Oracle
from .perturbation import Perturbation
from .result import AttackStats


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Universal(Attack):
    """Add one perturbation from a file to every image (Moosavi-Dezfooli et al. 2017).

    ``tools/fit_universal.py`` fits it on other images. The model is not asked. The
    perturbation is never scaled up; on an image it is cut to the range of pixels, to
    the mask and to the budget (in L2, where it repeats beyond its canvas).

    Args:
        file: The perturbation (:class:`mmdiff.attacks.Perturbation`).
        eps: Its budget in pixel units; ``None``: as the file says.
        norm, mask: Those that it was fitted with.
        quantize, seed: See :class:`Attack`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or unfinished, or was fitted within another budget.

    Example:
        >>> import tempfile, torch
        >>> from mmdiff.attacks import Budget, Perturbation
        >>> file = f'{tempfile.mkdtemp()}/delta.safetensors'
        >>> values = 8 * torch.ones(3, 64, 64)
        >>> Perturbation(values, Budget(8), order='bgr').save(file)
        >>> Universal(file=file).eps
        8
    """

    eps: float | None = field(default=None, kw_only=False)
    file: str = ''

    def __post_init__(self) -> None:
        if not self.file:
            raise ValueError(
                'The attack universal needs a perturbation; give file=... '
                '(tools/fit_universal.py writes one).'
            )
        self.file = str(self.file)
        self.perturbation = fitted = Perturbation.load(self.file)
        if self.eps is None:
            self.eps = fitted.budget.eps
        super().__post_init__()
        if fitted.epochs_done < fitted.epochs:
            raise ValueError(
                f'{self.file} is unfinished ({fitted.epochs_done} of {fitted.epochs} '
                'epochs); start tools/fit_universal.py again, which goes on with it.'
            )
        if fitted.budget != self.budget:
            raise ValueError(
                f'{self.file} was fitted within {fitted.budget}, and the attack is to '
                f'be within {self.budget}; give the same eps, norm and mask, or fit '
                'another one.'
            )

    def threat_model(self) -> dict[str, Any]:
        name = f'{Path(self.file).name} {self.perturbation.digest}'
        fitted_on = self.perturbation.fitted_on
        return {**super().threat_model(), 'file': name, 'fitted_on': fitted_on}

    def perturb(
        self, oracle: Oracle, group: ImageGroup, stats: AttackStats
    ) -> tuple[list[Tensor], list[float]]:
        changed = [x + self.perturbation.on(x) for x in group.pixels]
        return changed, [math.nan] * len(changed)
