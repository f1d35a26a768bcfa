"""At which scale a dataset gives its ground truth."""

from typing import Any


def ground_truth_scale(dataset: Any) -> str:
    """Read the scale of boxes off a dataset's pipeline.

    mmdet's test pipelines load boxes after ``Resize``: then they are at the scale of
    the file.

    Args:
        dataset: Dataset of an mm package, or a wrapper around one.

    Returns:
        ``'input'`` if images are resized after boxes are loaded, as for training; else
        ``'original'``. See :func:`mmdiff.attacks.oracle_of`.
    """
    while not hasattr(dataset, 'pipeline') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    names = [type(transform).__name__ for transform in transforms]
    if 'LoadAnnotations' in names:
        after = names[names.index('LoadAnnotations') :]
        if any('Resize' in name for name in after):
            return 'input'
    return 'original'
