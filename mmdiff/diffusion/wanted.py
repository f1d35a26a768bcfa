"""What is wanted of a prior beside its weights, checked before they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .base import DiffusionModel
from .ddpm import DDPMDiffusionModel
from .latent import LatentDiffusionModel, check_latent, check_prompt
from .sdxl import SDXLDiffusionModel, parse_time_ids


@dataclass(frozen=True)
class Wanted:
    """Arguments of :meth:`DiffusionModel.from_pretrained` that kinds take or do not.

    Args:
        kind: The class that is asked to load.
        patch_size: See :class:`DDPMDiffusionModel`.
        prompt, latent: See :class:`LatentDiffusionModel`.
        time_ids: See :class:`SDXLDiffusionModel`.

    Raises:
        TypeError: If the prompt is not one string, or ``time_ids`` are not six numbers.
        ValueError: If there is no such ``latent``.
    """

    kind: type = DiffusionModel
    patch_size: int | None = None
    prompt: str | None = None
    latent: str | None = None
    time_ids: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None:
            check_prompt(self.prompt)
        if self.latent is not None:
            check_latent(self.latent)
        parse_time_ids(self.time_ids)

    @property
    def latent_args(self) -> dict[str, Any]:
        """Arguments of a latent prior that are given."""
        names = ('prompt', 'latent', 'time_ids')
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def check(self, kind: type[DiffusionModel]) -> None:
        """Complain about what a source of this kind does not take.

        Raises:
            ValueError: If another kind is asked to load, or an argument is of another.
        """
        if not issubclass(kind, self.kind):
            raise ValueError(
                f'This source is a {kind.__name__}; load it as a DiffusionModel.'
            )
        pixels = issubclass(kind, DDPMDiffusionModel)
        if self.patch_size not in (None, 1) and not pixels:
            raise ValueError(
                f'patch_size={self.patch_size} belongs to a pixel U-Net; leave it out.'
            )
        given = self.latent_args
        if given and not issubclass(kind, LatentDiffusionModel):
            raise ValueError(
                f'{", ".join(given)} belongs to a latent prior (Stable '
                'Diffusion); this one has no prompt and no VAE: leave it out.'
            )
        if 'time_ids' in given and kind is not SDXLDiffusionModel:
            raise ValueError(
                'time_ids belongs to SDXL; this prior is told a prompt alone: leave it '
                'out.'
            )
