"""Draw many images from a prior: any number, interrupted and resumed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .diffusion_model import DiffusionModel
from .sampling import to_uint8


def generate_images(
    model: DiffusionModel,
    num: int,
    out: str | Path,
    size: int | None = None,
    batch_size: int = 32,
    steps: int = 50,
    seed: int = 0,
    class_balanced: bool = False,
    guidance: float = 1.0,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write ``num`` samples to a folder or to one ``.npz``.

    Image ``i`` follows from ``seed`` and ``i`` alone, so a run that was interrupted
    goes on where it stopped and gives the same images.

    Args:
        model: The prior.
        num: Images in all.
        out: ``FILE.npz`` gets ``image`` (N, H, W, 3) uint8 RGB and, of a
            class-conditional prior, ``label`` (N,) int64 (the format of
            DM-Improves-AT's generated data). A folder gets ``000000.png``, ..., in
            folders ``00``, ``01``, ... of classes if there are any.
        size: Side in pixels; ``None`` is that of the training images.
        batch_size: Images drawn together.
        steps: See :meth:`DiffusionModel.sample`.
        seed: Of all noise.
        class_balanced: Classes in turn, in place of random ones.
        guidance: See :meth:`DiffusionModel.sample`.
        progress: Called with the number of images that are done.

    Returns:
        How many images were drawn now; the others were there.

    Raises:
        ValueError: For classes of an unconditional prior, a folder that holds images of
            other settings, or an ``.npz`` that is there already.
    """
    out = Path(out)
    size = size or model.image_size
    model.check_size(size, size)
    if class_balanced and not model.num_classes:
        raise ValueError(
            'class_balanced needs a class-conditional prior; this one is unconditional.'
        )
    if num < 1 or batch_size < 1:
        raise ValueError(f'num={num} and batch_size={batch_size} must be at least 1.')
    packed = out.suffix == '.npz'
    if packed and out.exists():
        raise ValueError(f'{out} is there already; remove it or choose another name.')
    folder = out.with_name(f'{out.name}.partial') if packed else out
    folder.mkdir(parents=True, exist_ok=True)
    settings = dict(size=size, steps=steps, seed=seed, guidance=guidance)
    settings.update(class_balanced=class_balanced, weights=model.fingerprint().hex())
    _same_settings(folder / 'settings.json', settings)
    labels = _labels(model, num, seed, class_balanced)
    paths = [
        folder / ('' if labels is None else f'{labels[i]:02d}') / f'{i:06d}.png'
        for i in range(num)
    ]
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    device = next(model.parameters()).device
    for start in range(0, len(missing), batch_size):
        if progress is not None:
            progress(num - len(missing) + start)
        chosen = missing[start : start + batch_size]
        images = model.sample(
            (len(chosen), size, size),
            steps,
            [torch.Generator().manual_seed((seed << 32) + i) for i in chosen],
            None if labels is None else torch.from_numpy(labels[chosen]).to(device),
            guidance,
        )
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        for i, image in zip(chosen, pixels):
            _write(paths[i], image)
    if progress is not None:
        progress(num)
    if packed:
        arrays = {'image': np.stack([np.asarray(Image.open(path)) for path in paths])}
        if labels is not None:
            arrays['label'] = labels
        partial = folder / out.name  # np.savez insists on the suffix
        np.savez_compressed(partial, **arrays)
        os.replace(partial, out)
        shutil.rmtree(folder)
    return len(missing)


def _labels(model, num: int, seed: int, balanced: bool) -> np.ndarray | None:
    if not model.num_classes:
        return None
    if balanced:
        return np.arange(num) % model.num_classes
    # One stream: label i is the same however many are drawn.
    return np.random.default_rng(seed).integers(model.num_classes, size=num)


def _same_settings(path: Path, settings: dict) -> None:
    if path.is_file():
        before = json.loads(path.read_text())
        other = [key for key in settings if before.get(key) != settings[key]]
        if other:
            raise ValueError(
                f'{path.parent} holds images of other settings ({", ".join(other)}); '
                'give the settings of the first call, or another output.'
            )
    path.write_text(json.dumps(settings, indent=1) + '\n')


def _write(path: Path, image: np.ndarray) -> None:
    """Whole or not at all: what is there counts as done."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix('.partial')
    Image.fromarray(image).save(partial, format='png')
    os.replace(partial, path)
