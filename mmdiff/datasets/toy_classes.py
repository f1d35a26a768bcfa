"""A generated set of classes: one shape on a texture, in class folders."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from mmdiff.utils.files import whole_folder

from .stamps import is_made
from .toy_shapes import CLASSES, SceneStyle, draw_shape

STAMP_FILE = 'toy_classes.txt'
# At 64 px radii of 16 to 29 px. The prior toy_voc has seen 9 to 28 px in images of
# 128 px, so it fits, and a quarter of the pixels cost a quarter of the time.
ONE_SHAPE = SceneStyle((0.25, 0.45), max_objects=1, contrast=100)


def make_toy_classes(
    out: str | Path,
    num_train: int = 1800,
    num_val: int = 600,
    size: int = 64,
    seed: int = 0,
    progress: Callable = lambda names: names,
) -> Path:
    """Write the set to ``out``: ``train/CLASS/*.png`` and ``val/CLASS/*.png``.

    The classes are those of the toy detection set, as many images of each as of the
    others. Image ``i`` of a split is of class ``i`` modulo their number, and depends on
    ``(seed, split, i)`` only; none is one of the detection set. A set of the same
    arguments that lies there already is kept; anything else is never written over.

    Args:
        out: Folder to make.
        num_train: Images in ``train``, of all classes together.
        num_val: Images in ``val``.
        size: Height and width of the images in pixels.
        seed: Seed of the set.
        progress: Wraps the list of images, to show how far it is.

    Raises:
        ValueError: For sizes out of range.
        FileExistsError: If ``out`` holds something else.

    Example:
        >>> import tempfile
        >>> folder = make_toy_classes(Path(tempfile.mkdtemp()) / 'toy', 12, 6)
        >>> sorted(path.name for path in (folder / 'train' / 'ring').iterdir())
        ['train_00004.png', 'train_00010.png']
    """
    out, count = Path(out), len(CLASSES)
    if size < 32 or num_train < count or num_val < count:
        raise ValueError(
            f'A toy set needs size >= 32 and at least one image of each of its {count} '
            f'classes in each split; got size={size}, num_train={num_train}, '
            f'num_val={num_val}.'
        )
    stamp = f'train={num_train} val={num_val} size={size} seed={seed} v1\n'
    if is_made(out, STAMP_FILE, stamp):
        return out
    with whole_folder(out, replace=True) as partial:  # at most an empty folder is there
        for k, (split, images) in enumerate((('train', num_train), ('val', num_val))):
            for shape in CLASSES:
                (partial / split / shape).mkdir(parents=True)
            names = [f'{split}_{i:05d}' for i in range(images)]
            for i, name in enumerate(progress(names)):
                shape = CLASSES[i % count]
                # The splits of the detection set are 0 and 1.
                rng = np.random.default_rng([seed, 2 + k, i])
                image = draw_shape(rng, shape, size, ONE_SHAPE)
                cv2.imwrite(str(partial / split / shape / f'{name}.png'), image)
        (partial / STAMP_FILE).write_text(stamp)
    return out
