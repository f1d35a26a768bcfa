"""Models that are more than one detector of one image, or something else."""

from typing import Any

from torch import nn

from ..errors import NotApplicable
from ..objectives.detection import named_classes

# Classes by why attacks cannot change what they tell.
NOT_ATTACKED = {
    'BaseReID': 'compares images of persons, and has no boxes or classes to get wrong',
    'SmoothedDetector': (
        'takes medians over sorted boxes, which have no gradient, and its certificates '
        'hold under every attack within their radii (attack the detector in it)'
    ),
    'CLRNet': 'detects lines, and attacks are on boxes and classes',
}


def kinds_of(model: nn.Module) -> set[str]:
    """Names of a model's class and of its bases: packages need not be installed."""
    return {kind.__name__ for kind in type(model).__mro__}


def behind_shield(model: nn.Module) -> nn.Module:
    """Return the model that a shield stands in front of; without one, the model.

    Args:
        model: A model, without wrappers of mmengine.
    """
    return model.model if 'PurifiedModel' in kinds_of(model) else model


def attacked_part(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return what of a model predicts, and the preprocessor in front of it.

    A semi-supervised detector (Soft Teacher) has two detectors and losses of several
    branches; it tests one of the two, ``semi_test_cfg.predict_on``, behind one branch
    of its preprocessor. A shield (:class:`mmdiff.models.PurifiedModel`) is part of the
    preprocessor, so that every question to the model behind it goes through the shield;
    where several samples vote, the shielded model itself gives the one answer.

    Args:
        model: A model of mmdet or mmpretrain, without wrappers of mmengine.

    Raises:
        ValueError: For a model that cannot be attacked: a tracker, say.
        TypeError: If it is no model of mmengine.
    """
    kinds, name = kinds_of(model), type(model).__name__
    if 'PurifiedModel' in kinds:
        part, _ = attacked_part(model.model)
        return (part if model.num_samples == 1 else model), model.data_preprocessor
    for kind in kinds & {*NOT_ATTACKED}:
        raise ValueError(f'{name} {NOT_ATTACKED[kind]}: it cannot be attacked.')
    if 'BaseMOTModel' in kinds:
        raise ValueError(_no_videos(model))
    if not hasattr(model, 'loss') or not hasattr(model, 'data_preprocessor'):
        raise TypeError(
            f'{name} has no loss and data_preprocessor; attacks are on models of '
            'mmdet and mmpretrain: put yours into a BaseDetector or BaseClassifier.'
        )
    preprocessor = model.data_preprocessor
    if 'MultiBranchDataPreprocessor' not in kinds_of(preprocessor):
        return model, preprocessor
    if 'SemiBaseDetector' not in kinds:
        raise ValueError(
            f'{name} takes batches of several branches '
            f'({type(preprocessor).__name__}); attack the detector in it, by a config '
            'or as attack(model.DETECTOR, batch).'
        )
    part = (model.semi_test_cfg or {}).get('predict_on', 'teacher')
    return getattr(model, part), preprocessor.data_preprocessor


def _no_videos(model: nn.Module) -> str:
    text = f'{type(model).__name__} follows objects through videos, and attacks are on '
    if getattr(model, 'detector', None) is None:
        return f'{text}single images: it cannot be attacked.'
    return (
        f'{text}single images: test its detector by a config of its own (model = '
        "model.detector, with data_preprocessor=dict(type='DetDataPreprocessor', ...))."
    )


def check_inputs(model: nn.Module, sample: Any) -> None:
    """Complain about a data sample without what the detector needs beside the image.

    Args:
        model: The detector.
        sample: One of its data samples.

    Raises:
        ValueError: If proposals or a text are missing, or the text does not name a
            class of the ground truth.
    """
    kind = type(model).__name__
    if getattr(model, 'with_rpn', True) is False and sample.get('proposals') is None:
        raise ValueError(
            f'{kind} makes no proposals and the data samples have none; set '
            'proposal_file of the test set, and LoadProposals in its pipeline.'
        )
    if getattr(model, 'language_model', None) is None:
        return
    if 'text' not in sample:
        raise ValueError(
            f'{kind} finds what a text names and the data samples have none; set '
            "return_classes=True of the test set, and 'text' and 'custom_entities' "
            'among the meta_keys of PackDetInputs.'
        )
    count, labels = len(named_classes(sample.text)), sample.gt_instances.labels
    if len(labels) and int(labels.max()) >= count:
        raise ValueError(
            f'The text of an image names {count} classes and its ground truth has '
            f'class {int(labels.max())}; give a text that names all classes.'
        )


def check_losses(model: nn.Module) -> None:
    """Complain about losses that are not of what a detector predicts.

    Raises:
        NotApplicable: If it predicts in chunks of its text, and learns from the whole.
    """
    chunked = getattr(model, 'language_model', None) is not None and model.test_cfg
    if chunked and chunked.get('chunked_size', 0) > 0:
        raise NotApplicable(
            f'{type(model).__name__} predicts in chunks of its text '
            '(test_cfg.chunked_size), which its losses do not; use '
            "objective='detections'."
        )
