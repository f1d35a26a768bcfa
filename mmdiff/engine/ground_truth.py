"""At which scale a dataset gives its ground truth, and whether it gives pixels."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Truth that some heads learn from, beside boxes, and the transform that loads it.
LOADED_BY = {
    'masks': 'LoadAnnotations(with_bbox=True, with_mask=True)',
    'gt_sem_seg': 'LoadAnnotations(with_bbox=True, with_seg=True)',
}


def leaf_datasets(dataset: Any) -> Iterator[Any]:
    """Give the datasets with a pipeline of their own inside any nest of wrappers.

    ``ConcatDataset`` has several, ``RepeatDataset``, ``ClassBalancedDataset``,
    ``MultiImageMixDataset`` and torch's ``Subset`` have one.
    """
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from leaf_datasets(part)
    elif hasattr(dataset, 'dataset'):
        yield from leaf_datasets(dataset.dataset)
    else:
        yield dataset


def metainfo_of(dataset: Any) -> Mapping[str, Any]:
    """Read the names of classes and the like, also through wrappers without them."""
    for part in (dataset, *leaf_datasets(dataset)):
        if getattr(part, 'metainfo', None):
            return part.metainfo
    return {}


@contextmanager
def truth_needed(sample: Any) -> Iterator[None]:
    """Say in one sentence which truth a loss asks for that a data sample has not.

    Args:
        sample: Data sample of one of the images.

    Raises:
        ValueError: Instead of the error of a head that needs masks, or a segmentation
            map, and finds none.
    """
    try:
        yield
    except (AttributeError, KeyError) as error:
        for name, transform in LOADED_BY.items():
            if name in str(error) and name not in _truth_names(sample):
                raise ValueError(
                    f'The losses of this model need {name}, and the test set has none; '
                    f'load them in the test pipeline: {transform}.'
                ) from error
        raise


def _truth_names(sample: Any) -> set[str]:
    """Names of all truth that a data sample has."""
    objects = sample.get('gt_instances', None)
    return {*sample.keys(), *(() if objects is None else objects.keys())}


def transform_names(transforms: Any) -> Iterator[str]:
    """Give the names of a pipeline's transforms in order, those of nested ones too."""
    if isinstance(transforms, list | tuple):
        for transform in transforms:
            yield from transform_names(transform)
    elif hasattr(transforms, 'transforms'):  # Compose, RandomApply, KeyMapper, ...
        yield type(transforms).__name__
        yield from transform_names(transforms.transforms)
    else:
        yield type(transforms).__name__


def ground_truth_scale(dataset: Any) -> str:
    """Read the scale of boxes off a dataset's pipeline.

    mmdet's test pipelines load boxes after ``Resize``: then they are at the scale of
    the file.

    Args:
        dataset: Dataset of an mm package, or a wrapper around others.

    Returns:
        ``'input'`` if images are resized after boxes are loaded, as for training; else
        ``'original'``. See :func:`mmdiff.attacks.oracle_of`.

    Raises:
        ValueError: If the parts of the dataset disagree, or if images are normalised
            before the model's own preprocessor sees them.
    """
    scales = {}
    for leaf in leaf_datasets(dataset):
        names = list(transform_names(getattr(leaf, 'pipeline', [])))
        if 'Normalize' in names:
            raise ValueError(
                f'The pipeline of {type(leaf).__name__} has Normalize, and an attack '
                'perturbs pixel values of 0 to 255; set mean and std of the '
                "model's data_preprocessor instead."
            )
        scales[_scale(names)] = type(leaf).__name__
    if len(scales) > 1:
        raise ValueError(
            f'Parts of the test set load boxes before Resize ({scales["input"]}) and '
            f'others after it ({scales["original"]}); give all of them one order: '
            'Resize, then LoadAnnotations.'
        )
    return next(iter(scales))


def _scale(names: list[str]) -> str:
    loads = [i for i, name in enumerate(names) if name.endswith('LoadAnnotations')]
    if loads and any('Resize' in name for name in names[loads[0] :]):
        return 'input'
    return 'original'
