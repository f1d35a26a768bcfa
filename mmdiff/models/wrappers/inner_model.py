"""Build the model that a wrapper is to stand in front of."""

from mmengine.model import BaseTTAModel
from torch import nn

from mmdiff.registry import MODELS

# By name: the wrappers import this module.
WRAPPERS = ('PurifiedModel', 'SmoothedDetector')


def build_inner(model: nn.Module | dict, data_preprocessor: dict | None) -> nn.Module:
    """Build the model that is to stand behind a shield.

    Args:
        model: The model, or its config.
        data_preprocessor: Its preprocessor, if its config has none.

    Raises:
        ValueError: For test-time augmentation, or a model behind a shield already.
        TypeError: If it is no model of mmengine.
    """
    if not isinstance(model, nn.Module):
        model = dict(model)
        if data_preprocessor is not None:
            model.setdefault('data_preprocessor', data_preprocessor)
        model = MODELS.build(model)
    if isinstance(model, BaseTTAModel):
        raise ValueError(
            f'{type(model).__name__} augments images at test time, and a shield '
            'purifies one image: put the shield around the model in it.'
        )
    if {kind.__name__ for kind in type(model).__mro__} & {*WRAPPERS}:
        raise ValueError(
            'The model is behind a shield already, and a report names one: leave one '
            'of the two out.'
        )
    if not isinstance(getattr(model, 'data_preprocessor', None), nn.Module):
        raise TypeError(
            f'{type(model).__name__} has no data_preprocessor for a shield to stand '
            'in front of; give a detector of mmdet or a classifier of mmpretrain.'
        )
    return model
