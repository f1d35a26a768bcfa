"""Filter a set of generated images by a classifier, and write what is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mmdiff.datasets import GeneratedDataset
from mmdiff.utils.files import whole_file, whole_folder, write_json

from .choice import LABELS, Choice, check_share, choose
from .classifier import Judge


def filter_images(
    source: str | Path,
    config: str,
    checkpoint: str,
    out: str | Path,
    keep: float = 0.5,
    labels: str | None = None,
    device: str = 'cpu',
    progress: Callable[[int], None] | None = None,
) -> Choice:
    """Write the images of a prior that a classifier is most sure of.

    A run that was interrupted goes on where it stopped. Equal arguments give equal
    sets; images keep their numbers and their pixels.

    Args:
        source: What ``tools/sample_images.py`` wrote, with labels or without; or an
            ``.npz`` of the format of DM-Improves-AT.
        config: Config of a classifier of mmpretrain.
        checkpoint: Its weights.
        out: Folder, or ``FILE.npz``, that ``mmdiff.GeneratedDataset`` reads.
        keep: Share of the images of each class.
        labels: ``'prior'`` keeps the classes that the prior was asked for, and no image
            that the classifier takes for another one; ``'classifier'`` takes the
            predicted classes (pseudo-labels). ``None`` is the first where the images
            have labels.
        device: Where the classifier runs.
        progress: Called with the number of images that are classified.

    Returns:
        What was kept.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If ``out`` exists.
        ValueError: If arguments do not go together, or nothing is kept of a class.
    """
    source, out = Path(source).expanduser(), Path(out).expanduser()
    _check_request(out, keep, labels)
    judge = Judge(source, config, checkpoint, device)
    labels = labels or ('prior' if judge.labelled else 'classifier')
    if labels == 'prior' and not judge.labelled:
        raise ValueError(
            f'The images in {source} have no classes of the prior; take '
            'labels=classifier, or draw them from a class-conditional prior.'
        )
    answers = out.with_name(f'{out.name}.answers')
    predicted, confidence = judge.answer(answers, progress)
    given = judge.labels if labels == 'prior' else predicted
    choice = choose(given, predicted, confidence, keep, judge.classes)
    account = {
        'source': str(source),
        'config': config,
        'checkpoint': judge.asked.checkpoint,
        'keep': keep,
        'labels': labels,
        **choice.counts(),
    }
    if out.suffix == '.npz':
        _pack(judge.dataset, choice, out)
        write_json(out.with_suffix('.json'), account)
    else:
        _copy(judge.dataset, choice, out, account)
    shutil.rmtree(answers)
    return choice


def _check_request(out: Path, keep: float, labels: str | None) -> None:
    """Complain about arguments before anything is loaded.

    Raises:
        FileExistsError: If ``out`` exists.
        ValueError: If another one is wrong.
    """
    check_share(keep)
    if labels not in (None, *LABELS):
        raise ValueError(f'labels={labels!r} must be one of {", ".join(LABELS)}.')
    if out.exists():
        raise FileExistsError(f'{out} exists already; remove it or give another name.')


def _pixels(dataset: GeneratedDataset, number: int) -> np.ndarray:
    """One image, (H, W, 3) uint8 RGB."""
    if dataset.images is not None:
        return dataset.images[number]
    return np.asarray(Image.open(dataset.listed(number)['img_path']).convert('RGB'))


def _pack(dataset: GeneratedDataset, choice: Choice, out: Path) -> None:
    images = np.stack([_pixels(dataset, int(i)) for i in choice.indices])
    with whole_file(out) as partial:
        np.savez_compressed(partial, image=images, label=choice.labels)


def _copy(dataset: GeneratedDataset, choice: Choice, out: Path, account: dict) -> None:
    """Write folders of classes, with the images under their numbers or names."""
    with whole_folder(out) as folder:
        for number, label in zip(choice.indices.tolist(), choice.labels.tolist()):
            inside = folder / f'{label:02d}'
            inside.mkdir(exist_ok=True)
            if dataset.images is None:
                path = Path(dataset.listed(number)['img_path'])
                shutil.copyfile(path, inside / path.name)
            else:
                pixels = _pixels(dataset, number)
                Image.fromarray(pixels).save(inside / f'{number:06d}.png')
        write_json(folder / 'filter.json', account)
