"""At which scale a dataset gives its ground truth, and whether it gives pixels."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Truth that some heads learn from, beside boxes, and the transform that loads it.
LOADED_BY = {
    'masks': 'LoadAnnotations(with_bbox=True, with_mask=True)',
    'gt_sem_seg': 'LoadAnnotations(with_bbox=True, with_seg=True)',
}
# LoadPanopticAnnotations and LoadTrackAnnotations load boxes too.
LOADS = 'Load.*Annotations$'
# They move what an image shows, and note nowhere by how much.
MOVING = (
    'GeomTransform',
    'RandomAffine',
    'RandomShift',
    'Rotate',
    'ShearX',
    'ShearY',
    'TranslateX',
    'TranslateY',
)
# They put the image somewhere on a larger one.
PLACING = ('CachedMixUp', 'CachedMosaic', 'CopyPaste', 'Expand', 'MixUp', 'Mosaic')
# Each notes its own scale alone, and mmdet moves boxes back by that.
SCALING = (
    'FixScaleResize',
    'FixShapeResize',
    'RandomChoiceResize',
    'RandomResize',
    'Resize',
)


def parts_of(dataset: Any) -> list[Any]:
    """Datasets that a wrapper is around; none of a dataset of its own.

    ``ConcatDataset`` has several; ``RepeatDataset``, ``ClassBalancedDataset``,
    ``MultiImageMixDataset`` and torch's ``Subset`` have one.
    """
    if hasattr(dataset, 'datasets'):
        return list(dataset.datasets)
    inner = getattr(dataset, 'dataset', None)
    # A dataset may keep what it reads from under that name.
    marks = ('pipeline', 'dataset', 'datasets')
    return [inner] if any(hasattr(inner, mark) for mark in marks) else []


def leaf_pipelines(dataset: Any, after: tuple = ()) -> Iterator[tuple[str, list[str]]]:
    """Give name and transforms of each dataset inside any nest of wrappers.

    Transforms of a wrapper (``MultiImageMixDataset``) come after those inside.
    """
    names = [*transform_names(getattr(dataset, 'pipeline', [])), *after]
    parts = parts_of(dataset)
    if not parts:
        yield type(dataset).__name__, names
    for part in parts:
        yield from leaf_pipelines(part, tuple(names))


def metainfo_of(dataset: Any) -> Mapping[str, Any]:
    """Read the names of classes and the like, also through wrappers without them.

    Raises:
        ValueError: If the parts of a wrapper name different classes.
    """
    known = getattr(dataset, 'metainfo', None)
    if isinstance(known, list):  # of mmdet's ConcatDataset, if its parts differ
        if len({tuple(part.get('classes', ())) for part in known}) > 1:
            raise ValueError(
                'Parts of the test set name different classes, so a label has no one '
                'meaning; give all of them the same metainfo (classes).'
            )
        return known[0]
    if known:
        return known
    inside = (metainfo_of(part) for part in parts_of(dataset))
    return next((metainfo for metainfo in inside if metainfo), {})


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
        missing = re.search("'InstanceData' object has no attribute '(.+)'", str(error))
        if missing is None:
            raise
        raise ValueError(
            f'The losses of this model need {missing[1]} in the ground truth, which '
            'its preprocessor or pipeline makes in training only; this model cannot be '
            'attacked by its losses.'
        ) from error


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
        ``'input'`` if images are resized or otherwise moved after boxes are loaded, as
        for training; else ``'original'``. See :func:`mmdiff.attacks.oracle_of`.

    Raises:
        ValueError: If the parts of the dataset disagree, or for a pipeline after which
            boxes or pixels are not known (:func:`check_transforms`).
    """
    scales = {}
    for name, transforms in leaf_pipelines(dataset):
        check_transforms(name, transforms)
        scales[_scale(transforms)] = name
    if len(scales) > 1:
        raise ValueError(
            f'Parts of the test set load boxes before Resize ({scales["input"]}) and '
            f'others after it ({scales["original"]}); give all of them one order: '
            'Resize, then LoadAnnotations.'
        )
    (scale,) = scales
    if scale == 'original':
        for leaf in leaves_of(dataset):
            check_flips(leaf)
    return scale


def leaves_of(dataset: Any) -> Iterator[Any]:
    """Give the datasets inside any nest of wrappers."""
    parts = parts_of(dataset)
    if not parts:
        yield dataset
    for part in parts:
        yield from leaves_of(part)


def check_flips(dataset: Any) -> None:
    """Complain about flips that data samples do not tell of.

    Boxes of the file are flipped by what the sample says.

    Raises:
        ValueError: If the pipeline flips, and packs samples without that.
    """
    pipeline = getattr(dataset, 'pipeline', [])
    names = list(transform_names(pipeline))
    loads = any(re.search(LOADS, name) for name in names)
    if not loads or not any('Flip' in name for name in names):
        return
    for transform in getattr(pipeline, 'transforms', pipeline):
        if 'flip' not in getattr(transform, 'meta_keys', ('flip',)):
            raise ValueError(
                f'The pipeline of {type(dataset).__name__} flips images, and its data '
                "samples do not say which; add 'flip' and 'flip_direction' to "
                f'meta_keys of {type(transform).__name__}, or leave the flip out.'
            )


def check_transforms(name: str, transforms: list[str]) -> None:
    """Complain about a test pipeline after which boxes or pixels are not known.

    Args:
        name: Name of the dataset.
        transforms: Names of its transforms, in order.

    Raises:
        ValueError: If images are normalised, or cut, or flipped after they are padded.
    """
    if 'Normalize' in transforms:
        raise ValueError(
            f'The pipeline of {name} has Normalize, and an attack perturbs pixel '
            "values of 0 to 255; set mean and std of the model's data_preprocessor "
            'instead.'
        )
    _check_branches(name, transforms)
    _check_places(name, transforms)
    pads = [i for i, t in enumerate(transforms) if t == 'Pad']
    flips = [i for i, t in enumerate(transforms) if 'Flip' in t]
    if pads and flips and max(flips) > min(pads):
        raise ValueError(
            f'The pipeline of {name} flips images after it pads them, and then the '
            'padding cannot be told from the image; put Pad last.'
        )


def _check_branches(name: str, transforms: list[str]) -> None:
    """Complain about a pipeline that makes several inputs of one image."""
    for branching in ('TestTimeAug', 'MultiBranch'):
        if branching in transforms:
            raise ValueError(
                f'The pipeline of {name} has {branching}, which makes several inputs '
                'of an image, and an attack perturbs one; give the plain test pipeline.'
            )


def _check_places(name: str, transforms: list[str]) -> None:
    """Complain about a pipeline after which it is not known where the image is."""
    cuts = [t for t in transforms if 'Crop' in t and t != 'RandomCenterCropPad']
    if cuts and _scale(transforms) == 'original':
        raise ValueError(
            f'The pipeline of {name} has {cuts[0]}, and nothing says where it cuts: '
            'boxes of the file cannot be placed; leave it out of the test pipeline.'
        )
    moving = [t for t in transforms if t in MOVING and _scale(transforms) == 'original']
    for moves in [*moving, *(t for t in transforms if t in PLACING)]:
        raise ValueError(
            f'The pipeline of {name} has {moves}, and nothing says where it moves the '
            'image: boxes of the file cannot be placed; leave it out of the test '
            'pipeline.'
        )
    sizes = [t for t in transforms if t in SCALING]
    if len(sizes) > 1 and 'RandomChoice' not in transforms:
        raise ValueError(
            f'The pipeline of {name} has {" and ".join(sizes)}, and each notes its own '
            'scale alone: boxes cannot be placed; resize once.'
        )


def _scale(names: list[str]) -> str:
    loads = [i for i, t in enumerate(names) if re.search(LOADS, t)]
    after = names[loads[0] :] if loads else []
    moves = ('Resize', 'Flip', 'Affine', 'Rotate', 'Crop')
    return (
        'input' if any(move in name for name in after for move in moves) else 'original'
    )
