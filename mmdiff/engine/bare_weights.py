"""Weights of a model, without what trained it."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from mmdiff.models import AlignedModel
from mmdiff.utils.files import whole_file

SUFFIXES = ('.pth', '.safetensors')


def export_weights(checkpoint: str | Path, out: str | Path) -> int:
    """Write the weights of the bare model in a checkpoint of a training.

    Checkpoints of :class:`~mmdiff.models.AdversarialModel` and
    :class:`~mmdiff.models.AlignedModel` name weights as the bare model does; what is
    left out is the projector, the optimizer and the averaged weights' counterpart. If
    the training averaged (``EMAHook``), the average is what is written.

    Args:
        checkpoint: A checkpoint of the Runner.
        out: ``FILE.pth``, with the names of classes, or ``FILE.safetensors``.

    Returns:
        The number of tensors.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is no checkpoint, or for another suffix.
    """
    out = Path(out).expanduser()
    if out.suffix not in SUFFIXES:
        raise ValueError(f'{out} must end with one of {", ".join(SUFFIXES)}.')
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f'There is no checkpoint {checkpoint}.')
    read = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
    if 'state_dict' not in read:
        raise ValueError(
            f'{checkpoint} has no state_dict; give a checkpoint of a Runner '
            '(work_dirs/NAME/epoch_N.pth).'
        )
    left_out = tuple(f'{part}.' for part in AlignedModel.own_parts)
    state = {
        name: value.contiguous()
        for name, value in read['state_dict'].items()
        if not name.startswith(left_out)
    }
    meta = read.get('meta', {})
    kept = {
        key: meta[key]
        for key in ('dataset_meta', 'mmengine_version', 'epoch')
        if key in meta
    }
    with whole_file(out) as partial:
        if out.suffix == '.pth':
            torch.save({'meta': kept, 'state_dict': state}, partial)
        else:
            save_file(state, partial)
    return len(state)
