"""The feature that a head of classes reads."""

from torch import Tensor


def last_feature(feats: tuple[Tensor, ...], in_channels: int, pool: int) -> Tensor:
    """Return the last of a backbone's features, if it fits the head.

    Args:
        feats: Features, each (N, C, H, W).
        in_channels: Channels that the head was built for.
        pool: Side that the head pools to.

    Raises:
        ValueError: If it has other channels, or is smaller than ``pool``.
    """
    x = feats[-1] if isinstance(feats, (tuple, list)) else feats
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise ValueError(
            f'The head was built for in_channels={in_channels}, and the features are '
            f'{tuple(x.shape)}; make in_channels the channels of the last tap '
            '(DiffusionUNet logs them), and leave out the neck.'
        )
    if min(x.shape[-2:]) < pool:
        raise ValueError(
            f'pool={pool} is more than the features of {x.shape[-2]}x{x.shape[-1]}; '
            'make it at most their side.'
        )
    return x
