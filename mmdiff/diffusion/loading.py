"""How a prior is read, cast, identified and written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..utils.digests import digest_tensors
from .dtypes import parse_dtype

if TYPE_CHECKING:
    from .base import DiffusionModel


class Loadable(nn.Module, ABC):
    """Base of :class:`DiffusionModel`: from files to a module and back."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | dict,
        schedule: dict | None = None,
        patch_size: int | None = None,
        cache_dir: str | Path | None = None,
        random_weights: bool = False,
        dtype: str | torch.dtype | None = None,
        subfolder: str | None = None,
        variant: str | None = None,
        prompt: str | None = None,
        latent: str | None = None,
        time_ids: Sequence[int] | None = None,
        unet_weights: str | Path | None = None,
        config: str | Path | None = None,
    ) -> DiffusionModel:
        """Load a prior of any kind, in eval mode.

        Args:
            source: ``mmdiff::NAME`` (shipped), a diffusers folder (pixel or latent), a
                folder written by ``tools/convert_checkpoint.py``, a hub id, one
                safetensors file of Stable Diffusion (with ``config``), or a config with
                random weights: ``dict(type='UNet2DModel', ...)``,
                ``dict(type='EDMPrecond', ...)``,
                ``dict(type='LatentDiffusion', unet=dict(...), vae=dict(...))``.
            schedule: Arguments of ``DDPMScheduler`` that override those of the file
                beside the weights (the betas all together), or those of DDPM's linear
                schedule for random weights.
            patch_size: See :class:`DDPMDiffusionModel`.
            cache_dir: Where hub files and prompt embeddings are kept.
            random_weights: Take the network of ``source`` but not its weights, for a
                baseline from scratch.
            dtype: ``'bfloat16'`` runs the network in it; inputs, features and
                predictions stay fp32.
            subfolder: Folder of ``source`` that holds the prior.
            variant: Which of several copies of the weights to read (``'fp16'``).
            prompt: See :class:`LatentDiffusionModel`.
            latent: See :class:`LatentDiffusionModel`.
            time_ids: See :class:`SDXLDiffusionModel`.
            unet_weights: One safetensors file whose weights the U-Net gets in place of
                its own, by diffusers' names (as CleanDIFT's, Stracke et al. 2025);
                each name and shape must be the U-Net's.
            config: Pipeline folder or hub id with the settings and the prompt of a
                ``source`` that is one file.

        Raises:
            FileNotFoundError: If nothing is there, or the hub cannot be reached.
            ValueError: If the weights are damaged or of another architecture, or the
                schedule is wrong.
        """
        # It knows all kinds, as they know this module.
        from .build import Reading, Wanted, build_prior

        precision = None if dtype is None else parse_dtype(dtype)
        reading = Reading(
            schedule,
            cache_dir,
            random_weights,
            subfolder,
            variant,
            unet_weights,
            config,
            Wanted(cls, patch_size, prompt, latent, time_ids),
        )
        model = build_prior(source, reading)
        if precision is not None:
            model.cast(precision)
        return model.eval()

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that :meth:`from_pretrained` reads."""

    def cast(self, dtype: str | torch.dtype) -> None:
        """Run the networks in another precision (``'bfloat16'``, ``'float32'``, ...).

        Schedule, inputs and outputs stay as they are.

        Raises:
            ValueError: If it is no precision of weights.
        """
        precision = parse_dtype(dtype)
        for network in self.children():
            # Past the warning of diffusers' own to().
            nn.Module.to(network, precision)

    def fingerprint(self, dtype: torch.dtype | None = None) -> bytes:
        """Return the SHA-256 of all weights and their names, 32 bytes.

        Args:
            dtype: Precision that the weights are rounded to; ``None`` leaves them.
        """
        items = sorted(self.state_dict().items())
        if dtype is not None:
            items = [(k, v.to(dtype) if v.is_floating_point() else v) for k, v in items]
        return digest_tensors(items)
