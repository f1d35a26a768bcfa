"""Draw images from a prior: a grid of a few, or any number, interrupted and resumed."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from ..utils.files import whole_file, write_json
from .base import DiffusionModel


@dataclass(frozen=True)
class Settings:
    """What the images in a folder follow from, beside the weights."""

    size: int | list[int]
    steps: int
    seed: int
    guidance: float
    class_balanced: bool
    weights: str


def generate_images(
    model: DiffusionModel,
    num: int,
    out: str | Path,
    size: int | tuple[int, int] | None = None,
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
        num: Number of images in all.
        out: ``FILE.npz`` gets ``image`` (N, H, W, 3) uint8 RGB and, of a
            class-conditional prior, ``label`` (N,) int64 (the format of
            DM-Improves-AT's generated data). A folder gets ``000000.png``, ..., in
            folders ``00``, ``01``, ... of classes if there are any.
        size: Side in pixels, or height and width; ``None`` is that of the training
            images.
        batch_size: Number of images drawn together.
        steps: See :meth:`DiffusionModel.sample`.
        seed: Seed of all noise.
        class_balanced: Take the classes in turn instead of random ones.
        guidance: See :meth:`DiffusionModel.sample`.
        progress: Called with the number of images that are done.

    Returns:
        The number of images drawn now; the others were there.

    Raises:
        ValueError: If classes are asked of an unconditional prior, a folder holds
            images of other settings, or an ``.npz`` is there already.
    """
    out = Path(out).expanduser()
    shape = shape_of(size) if size else model.image_shape
    check_request(model, num, out, shape, batch_size, class_balanced, steps)
    packed = out.suffix == '.npz'
    folder = out.with_name(f'{out.name}.partial') if packed else out
    weights = model.fingerprint().hex()
    # One number for a square, as in folders that are there already.
    stored = shape[0] if shape[0] == shape[1] else list(shape)
    settings = Settings(stored, steps, seed, guidance, class_balanced, weights)
    claim_folder(folder, settings)
    labels = draw_labels(model.num_classes, num, seed, class_balanced)
    paths = image_paths(folder, num, labels)
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    for start in range(0, len(missing), batch_size):
        if progress is not None:
            progress(num - len(missing) + start)
        chosen = missing[start : start + batch_size]
        classes = None if labels is None else labels[chosen]
        for i, pixels in zip(chosen, draw_images(model, chosen, classes, settings)):
            write_image(paths[i], pixels)
    if progress is not None:
        progress(num)
    if packed:
        pack_images(out, paths, labels)
        shutil.rmtree(folder)
    return len(missing)


def shape_of(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a size, which is that of a square if one number."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def check_request(
    model: DiffusionModel,
    num: int,
    out: Path,
    shape: tuple[int, int],
    batch_size: int,
    class_balanced: bool,
    steps: int | None,
) -> None:
    """Complain about arguments of :func:`generate_images` before anything is drawn.

    Raises:
        ValueError: If one of them is wrong.
    """
    model.check_size(*shape)
    if class_balanced and not model.num_classes:
        raise ValueError(
            'class_balanced needs a class-conditional prior; this one is unconditional.'
        )
    if num < 1 or batch_size < 1:
        raise ValueError(f'num={num} and batch_size={batch_size} must be at least 1.')
    if steps is not None and steps < 1:
        raise ValueError(f'steps={steps} must be at least 1.')
    if out.suffix == '.npz' and out.exists():
        raise ValueError(f'{out} is there already; remove it or choose another name.')


def claim_folder(folder: Path, settings: Settings) -> None:
    """Write the settings into a folder, or compare them with those in it.

    Raises:
        ValueError: If the folder holds images of other settings.
    """
    path = folder / 'settings.json'
    if path.is_file():
        before = json.loads(path.read_text())
        other = [k for k, v in asdict(settings).items() if before.get(k) != v]
        if other:
            raise ValueError(
                f'{folder} holds images of other settings ({", ".join(other)}); '
                'give the settings of the first call, or another output.'
            )
    write_json(path, asdict(settings))
    # What a killed run was writing is no image.
    for partial in folder.rglob('.*.partial.png'):
        partial.unlink()


def draw_labels(
    num_classes: int, num: int, seed: int, balanced: bool
) -> np.ndarray | None:
    """Choose a class for every image, (num,) int64; ``None`` if there are none."""
    if not num_classes:
        return None
    if balanced:
        return np.arange(num) % num_classes
    # One stream: label i is the same however many are drawn.
    return np.random.default_rng(seed).integers(num_classes, size=num)


def image_paths(folder: Path, num: int, labels: np.ndarray | None) -> list[Path]:
    """Name the file of every image, in a folder of its class if it has one."""
    names = [f'{i:06d}.png' for i in range(num)]
    if labels is None:
        return [folder / name for name in names]
    return [folder / f'{label:02d}' / name for label, name in zip(labels, names)]


def draw_images(
    model: DiffusionModel,
    chosen: list[int],
    classes: np.ndarray | None,
    settings: Settings,
) -> np.ndarray:
    """Draw the images with the numbers ``chosen``, (N, H, W, 3) uint8 RGB."""
    cond = None
    if classes is not None:
        cond = torch.from_numpy(classes).to(next(model.parameters()).device)
    images = model.sample(
        (len(chosen), *shape_of(settings.size)),
        settings.steps,
        [torch.Generator().manual_seed((settings.seed << 32) + i) for i in chosen],
        cond,
        settings.guidance,
    )
    return to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG whole or not at all: what is there counts as done."""
    with whole_file(path) as partial:
        Image.fromarray(pixels).save(partial)


def pack_images(out: Path, paths: list[Path], labels: np.ndarray | None) -> None:
    """Write the images of ``paths``, and their labels if any, to one ``.npz``."""
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    with whole_file(out) as partial:
        if labels is None:
            np.savez_compressed(partial, image=images)
        else:
            np.savez_compressed(partial, image=images, label=labels)


def sample_grid(
    model: DiffusionModel,
    num: int,
    steps: int = 25,
    seed: int = 0,
    guidance: float = 1.0,
) -> np.ndarray:
    """Draw samples in a grid of about as many rows as columns.

    Args:
        model: The prior.
        num: Number of images; of a class-conditional prior, classes in turn.
        steps: See :meth:`DiffusionModel.sample`.
        seed: Seed of the starting noise.
        guidance: See :meth:`DiffusionModel.sample`.

    Returns:
        RGB uint8, (rows * H, columns * W, 3).
    """
    cond = None
    if model.num_classes:
        device = next(model.parameters()).device
        cond = torch.arange(num, device=device) % model.num_classes
    generator = torch.Generator().manual_seed(seed)
    images = model.sample((num, *model.image_shape), steps, generator, cond, guidance)
    columns = math.ceil(num**0.5)
    grid = make_grid(to_uint8(images), columns, padding=0)
    return grid.permute(1, 2, 0).cpu().numpy()


def to_uint8(images: Tensor) -> Tensor:
    """Turn images in [-1, 1] into whole pixel values 0..255."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()
