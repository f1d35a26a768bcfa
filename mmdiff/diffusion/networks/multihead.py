"""A network that predicts for all classes at once, made of a class-conditional one."""

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn


def widened_config(config: dict, num_heads: int) -> dict:
    """Return the settings of a network with one head for each class.

    Args:
        config: Settings of the class-conditional network.
        num_heads: Number of heads, "no class" included if the network has it.
    """
    widened = {k: v for k, v in dict(config).items() if not k.startswith('_')}
    for key in ('num_class_embeds', 'class_embed_type'):
        widened.pop(key, None)
    widened['out_channels'] = num_heads * config['in_channels']
    widened['num_class_heads'] = num_heads
    return widened


def widened_weights(teacher: UNet2DModel, num_heads: int) -> dict[str, Tensor]:
    """Return weights to begin with: every head predicts what the teacher does of none.

    All layers are the teacher's. The embedding of "no class" (the mean of all classes,
    where it has none) is added to that of time for good, and the last convolution
    stands there once for each head.

    Args:
        teacher: The class-conditional network, with a table of embeddings.
        num_heads: Number of heads.
    """
    state = {k: v.clone() for k, v in teacher.state_dict().items()}
    table = state.pop('class_embedding.weight')
    null = teacher.config.get('null_class')
    state['time_embedding.linear_2.bias'] += (
        table.mean(0) if null is None else (table[null])
    )
    channels = teacher.config['in_channels']  # past them, a learned variance
    for key in ('conv_out.weight', 'conv_out.bias'):
        one = state[key][:channels]
        state[key] = torch.cat([one] * num_heads)
    return state


def check_teacher(unet: nn.Module) -> None:
    """Refuse a network that no network with several heads can be made of.

    Raises:
        ValueError: If it is no ``UNet2DModel`` with a table of classes.
    """
    if not isinstance(unet, UNet2DModel):
        raise ValueError(
            f'A multi-head prior is distilled from a UNet2DModel, not from '
            f'{type(unet).__name__}; use that as it is, with elimination of classes '
            'for speed.'
        )
    if not isinstance(unet.class_embedding, nn.Embedding):
        raise ValueError(
            'This prior has no table of classes to make heads of: give a '
            'class-conditional one with num_class_embeds, as mmdiff::cifar10_patch2.'
        )
