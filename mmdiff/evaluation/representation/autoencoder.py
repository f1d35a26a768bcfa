"""A sparse autoencoder with exactly k active latents (TopK; Gao et al. 2024).

::

    z = ReLU(TopK(W_enc (x - b_pre) + b_enc)),    x' = W_dec z + b_pre
    fraction of variance unexplained = sum |x - x'|^2 / sum |x - mean|^2

The mean is that of the images that it is fitted on, and the sums are over others. All
representations get the same number of latents ``m`` and of active ones ``k``: sparsity
is equal by construction, whatever their width. Directions of the decoder have length 1
and begin as those of the encoder; latents that are never active are led back by the
auxiliary loss of the paper (appendix A.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AUXILIARY = 1 / 32  # weight of the auxiliary loss
DEAD_AFTER = 20  # steps without being active


@dataclass(frozen=True)
class SparseSettings:
    """How an autoencoder is fitted.

    Args:
        latents: Number of latents, m.
        active: Active ones of an image, k, below the width of the features.
        steps: Steps of Adam.
        batch_size: Images of a step.
        rate: Learning rate, which falls to 0 over the last fifth of the steps.
        seed: Of the first directions and of the order of images.
    """

    latents: int = 256
    active: int = 8
    steps: int = 1000
    batch_size: int = 256
    rate: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.active < self.latents:
            raise ValueError(
                f'{self.active} active of {self.latents} latents is no sparse code; '
                'give at least one active latent, and fewer than all.'
            )


class TopKAutoencoder(nn.Module):
    """A sparse code of features, and back.

    Args:
        width: Number of features, d.
        settings: Numbers of latents, and the seed.

    Example:
        >>> self = TopKAutoencoder(8, SparseSettings(latents=12, active=2))
        >>> codes = self.encode(torch.ones(1, 8))
        >>> codes.shape, bool((codes > 0).sum() <= 2)
        (torch.Size([1, 12]), True)
    """

    def __init__(self, width: int, settings: SparseSettings) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(settings.seed)
        directions = torch.randn(settings.latents, width, generator=generator)
        directions = F.normalize(directions, dim=1)
        self.active = settings.active
        self.encoder = nn.Parameter(directions.clone())
        self.decoder = nn.Parameter(directions)
        self.encoder_bias = nn.Parameter(torch.zeros(settings.latents))
        self.bias = nn.Parameter(torch.zeros(width))

    def latents(self, x: Tensor) -> Tensor:
        """All latents before any is chosen, (N, m), of features (N, d)."""
        return (x - self.bias) @ self.encoder.T + self.encoder_bias

    def encode(self, x: Tensor) -> Tensor:
        """The k highest latents, others 0, (N, m)."""
        return _highest(self.latents(x), self.active)

    def forward(self, x: Tensor) -> Tensor:
        """Features from their code, (N, d)."""
        return self.encode(x) @ self.decoder + self.bias

    @torch.no_grad()
    def normalise(self) -> None:
        """Give the directions of the decoder length 1."""
        self.decoder.copy_(F.normalize(self.decoder, dim=1))


def _highest(latents: Tensor, count: int) -> Tensor:
    values, places = latents.topk(count, dim=1)
    return torch.zeros_like(latents).scatter(1, places, values.relu())


@dataclass
class FittedAutoencoder:
    """An autoencoder in the units of the features.

    Args:
        network: The autoencoder of features less ``mean``, divided by ``scale``.
        mean: Mean of the features that it is fitted on, (d,).
        scale: Root of their mean squared deviation.
        never_active: Share of latents that none of these features makes active.
    """

    network: TopKAutoencoder
    mean: Tensor
    scale: Tensor
    never_active: float

    @torch.no_grad()
    def errors(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error and squared deviation from the mean of each image, (N,) each.

        Args:
            features: (N, d).
        """
        centred = features - self.mean
        rebuilt = self.network(centred / self.scale) * self.scale
        error = (centred - rebuilt).double().square().sum(1)
        return error, centred.double().square().sum(1)


def fit_autoencoder(features: Tensor, settings: SparseSettings) -> FittedAutoencoder:
    """Fit a sparse autoencoder.

    Args:
        features: (N, d), float32.
        settings: How it is fitted.

    Raises:
        ValueError: If there are no fewer active latents than features of an image, so
            that a code need not be sparse, or if all features are the same.
    """
    width = features.shape[1]
    if settings.active >= width:
        raise ValueError(
            f'{settings.active} active latents are no sparse code of {width} features; '
            'give fewer active ones.'
        )
    mean = features.mean(0)
    scale = (features - mean).square().mean().sqrt()
    if scale <= 1e-6 * features.abs().max():
        raise ValueError(
            'The features are the same for every image, so there is nothing to code.'
        )
    values = (features - mean) / scale
    network = TopKAutoencoder(width, settings)
    with torch.enable_grad():
        _train(network, values, settings)
    with torch.no_grad():
        ever = (network.encode(values) > 0).any(0)
    return FittedAutoencoder(network, mean, scale, float((~ever).float().mean()))


def _train(network: TopKAutoencoder, values: Tensor, settings: SparseSettings) -> None:
    generator = torch.Generator().manual_seed(settings.seed + 1)
    optimizer = torch.optim.Adam(network.parameters(), settings.rate)
    falling = settings.steps / 5
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (settings.steps - step) / falling)
    )
    idle = torch.zeros(settings.latents)
    for _ in range(settings.steps):
        chosen = torch.randint(len(values), (settings.batch_size,), generator=generator)
        x = values[chosen]
        latents = network.latents(x)
        codes = _highest(latents, settings.active)
        rest = x - (codes @ network.decoder + network.bias)
        loss = rest.square().mean()
        dead = idle > DEAD_AFTER
        if dead.any():
            loss = loss + AUXILIARY * _auxiliary(network, latents, rest.detach(), dead)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        network.normalise()
        idle = torch.where((codes > 0).any(0), 0, idle + 1)


def _auxiliary(
    network: TopKAutoencoder, latents: Tensor, rest: Tensor, dead: Tensor
) -> Tensor:
    """Error of what dead latents make of the error of the others."""
    count = min(int(dead.sum()), max(1, latents.shape[1] // 2), rest.shape[1])
    codes = _highest(latents.masked_fill(~dead, -torch.inf), count)
    return (rest - codes @ network.decoder).square().mean()
