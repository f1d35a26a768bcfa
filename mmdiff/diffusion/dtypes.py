"""Precisions of weights by the names that people use."""

import torch

ALIASES = {
    'float32': torch.float32,
    'fp32': torch.float32,
    'float': torch.float32,
    'bfloat16': torch.bfloat16,
    'bf16': torch.bfloat16,
    'float16': torch.float16,
    'fp16': torch.float16,
    'half': torch.float16,
    'float64': torch.float64,
    'double': torch.float64,
}


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the precision that a name stands for.

    Args:
        dtype: ``'bfloat16'``, ``'bf16'``, ``'fp16'``, ..., or of torch itself.

    Raises:
        ValueError: If it is no precision of weights.

    Example:
        >>> parse_dtype('bf16')
        torch.bfloat16
    """
    known = ALIASES.get(str(dtype).removeprefix('torch.'))
    if known is None:
        raise ValueError(
            f'dtype={dtype!r} is no precision of weights; give one of '
            f'{", ".join(ALIASES)}.'
        )
    return known
