"""Class folders, of which none may be missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.custom import get_samples

from mmdiff.registry import DATASETS


@DATASETS.register_module()
class ClassFolders(CustomDataset):
    """Images in folders of classes that are named beforehand.

    mmpretrain's ``CustomDataset`` numbers the folders that it finds. If one is missing,
    all classes after it get other numbers, in one split and not in the other, without a
    word. Here classes have the numbers of ``classes``, and every one has images. The
    classes take turns, so that the first images (``--indices 64``) are of all of them.

    Args:
        classes: Names of the classes and of their folders, in the order of their
            numbers.
        **kwargs: Of ``CustomDataset``: ``data_root``, ``data_prefix``, ``pipeline``,
            ``extensions``; no ``ann_file``.

    Raises:
        ValueError: If a class has no images, or a folder is of no class; hidden folders
            do not count.

    Example:
        >>> import tempfile
        >>> from mmdiff.datasets.toy_classes import make_toy_classes
        >>> folder = make_toy_classes(Path(tempfile.mkdtemp()) / 'toy', 6, 12)
        >>> classes = ('disk', 'square', 'triangle', 'star', 'ring', 'cross')
        >>> data = ClassFolders(classes, data_root=str(folder), data_prefix='val')
        >>> [item['gt_label'] for item in data.load_data_list()]
        [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    """

    def __init__(self, classes: Sequence[str], **kwargs: Any) -> None:
        super().__init__(metainfo={'classes': tuple(classes)}, **kwargs)

    def _find_samples(self) -> list[tuple[str, int]]:
        """Return file and number of the class of every image."""
        root, classes = Path(self.img_prefix), self.CLASSES
        there = _folders_in(root)
        folder_to_idx = {name: k for k, name in enumerate(classes) if name in there}
        samples, empty = get_samples(
            self.img_prefix, folder_to_idx, is_valid_file=self.is_valid_file
        )
        missing = [c for c in classes if c not in folder_to_idx or c in empty]
        if missing:
            raise ValueError(
                f'{root} has no images of {_listed(missing)}; give every class a '
                'folder with images (data_root and data_prefix of the dataset say '
                'where they are looked for).'
            )
        further = sorted(there - folder_to_idx.keys())
        if further:
            raise ValueError(
                f'{root} has the folder {_listed(further)}, which is none of the '
                f'{len(classes)} classes; move it elsewhere or add it to classes.'
            )
        self.folder_to_idx = folder_to_idx
        return _in_turns(samples)


def _folders_in(root: Path) -> set[str]:
    """Names of the folders in a folder, if it is there, but for hidden ones."""
    inside = root.iterdir() if root.is_dir() else ()
    return {path.name for path in inside if path.is_dir() and path.name[0] != '.'}


def _in_turns(samples: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The first image of each class, then the second of each, and so on."""
    count: Counter[int] = Counter()
    places = []
    for file, label in samples:
        places.append((count[label], label, file))
        count[label] += 1
    return [(file, label) for _, label, file in sorted(places)]


def _listed(names: list[str]) -> str:
    """At most three names, and how many more there are."""
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(names[:3]) + more
