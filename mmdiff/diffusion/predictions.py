"""What a denoiser may predict, and the estimates that follow from it.

Of ``x_t = alpha x_0 + sigma eps`` it predicts the noise eps (``'epsilon'``), the image
x_0 (``'sample'``), or ``v = alpha eps - sigma x_0`` (``'v_prediction'``; Salimans and
Ho 2022).
"""

from torch import Tensor

PREDICTIONS = ('epsilon', 'v_prediction', 'sample')


def noise_from(
    prediction_type: str, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Estimate the noise in ``x_t`` from the prediction ``out``."""
    if prediction_type == 'epsilon':
        return out
    if prediction_type == 'v_prediction':
        return alpha * out + sigma * x_t
    return (x_t - alpha * out) / sigma


def x0_from(
    prediction_type: str, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Estimate the clean image from the prediction ``out`` for ``x_t``."""
    if prediction_type == 'epsilon':
        return (x_t - sigma * out) / alpha
    if prediction_type == 'v_prediction':
        return alpha * x_t - sigma * out
    return out


def target_of(
    prediction_type: str, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Return what a perfect denoiser predicts for ``alpha x_0 + sigma noise``."""
    if prediction_type == 'epsilon':
        return noise
    if prediction_type == 'v_prediction':
        return alpha * noise - sigma * x0
    return x0
