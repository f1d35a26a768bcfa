"""Which settings of a config's test loop stay when a tool puts another in its place."""

import inspect

from mmengine.runner import TestLoop

from mmdiff.registry import LOOPS

from .loops import RobustTestLoop

# What the runner gives a loop.
GIVEN = ('runner', 'dataloader', 'evaluator')


def loop_class(test_cfg: dict) -> type | None:
    """Class of the loop that a test_cfg asks for; ``None`` if nobody knows it."""
    kind = test_cfg.get('type', TestLoop)
    return kind if isinstance(kind, type) else LOOPS.get(kind)


def is_robust(test_cfg: dict) -> bool:
    """Whether the loop of a test_cfg is a RobustTestLoop."""
    kind = loop_class(test_cfg)
    return isinstance(kind, type) and issubclass(kind, RobustTestLoop)


def robust_settings(test_cfg: dict) -> dict:
    """Return a test_cfg with a RobustTestLoop in the place of its loop.

    Raises:
        ValueError: For a setting that RobustTestLoop does not take.
    """
    if is_robust(test_cfg):
        return dict(test_cfg)
    settings = _taken(test_cfg, RobustTestLoop, 'to use --attack')
    return {'type': 'mmdiff.RobustTestLoop', **settings}


def plain_settings(test_cfg: dict) -> dict:
    """Return a test_cfg with a plain TestLoop in the place of its loop.

    What a RobustTestLoop takes beside (its attacks, say) is left out.

    Raises:
        ValueError: For a setting of another loop that TestLoop does not take.
    """
    if is_robust(test_cfg):
        taken = _parameters(TestLoop)
        test_cfg = {k: v for k, v in test_cfg.items() if k in taken}
    settings = _taken(test_cfg, TestLoop, 'to test under corruptions')
    return {'type': 'TestLoop', **settings}


def _taken(test_cfg: dict, loop: type, purpose: str) -> dict:
    settings = {k: v for k, v in test_cfg.items() if k not in ('type', '_scope_')}
    for name in settings:
        if name not in _parameters(loop):
            raise ValueError(
                f'{loop.__name__} does not take test_cfg.{name}; {purpose}, take it '
                'out of the config.'
            )
    kind = test_cfg.get('type', TestLoop)
    if loop_class(test_cfg) is not TestLoop:
        name = kind.__name__ if isinstance(kind, type) else kind
        print(f'A {loop.__name__} replaces the {name} of test_cfg.')
    return settings


def _parameters(loop: type) -> set[str]:
    return {*inspect.signature(loop).parameters} - {*GIVEN}
