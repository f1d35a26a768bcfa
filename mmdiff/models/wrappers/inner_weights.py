"""Checkpoints of a wrapper that are those of the model in it."""

from typing import Any

from torch import nn

INNER = 'model.'


def keep_inner_weights(wrapper: nn.Module) -> None:
    """Let the state dict of a wrapper be that of its ``model``, name by name.

    Whatever else the wrapper has (a frozen prior) is left out, and not missed on
    loading.

    Args:
        wrapper: A module whose ``model`` has all weights that are to be kept.
    """
    wrapper._register_state_dict_hook(_strip)
    wrapper._register_load_state_dict_pre_hook(_add, with_module=True)
    wrapper.register_load_state_dict_post_hook(_forgive)


def _strip(wrapper: nn.Module, state_dict: dict, prefix: str, _metadata: Any) -> None:
    """State-dict hook: names of the model alone."""
    own = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    for name in own:
        del state_dict[name]
    for name, value in own.items():
        inner = name.removeprefix(prefix)
        if inner.startswith(INNER):
            state_dict[prefix + inner.removeprefix(INNER)] = value


def _add(wrapper: nn.Module, state_dict: dict, prefix: str, *args: Any) -> None:
    """Load hook: what is given is the model's."""
    wrapper._loading_prefix = prefix
    given = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    for name in given:
        del state_dict[name]
    for name, value in given.items():
        state_dict[prefix + INNER + name.removeprefix(prefix)] = value


def _forgive(wrapper: nn.Module, incompatible: Any) -> None:
    """Load hook: what was left out is not missing, and names are the checkpoint's."""
    prefix = wrapper._loading_prefix
    kept = []
    for name in incompatible.missing_keys:
        if name.startswith(prefix + INNER):
            kept.append(prefix + name.removeprefix(prefix + INNER))
        elif not name.startswith(prefix):
            kept.append(name)
    incompatible.missing_keys[:] = kept
