"""Another model to take gradients of: transfer attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from mmdiff.registry import MODELS

from .attack import Attack
from .oracle import Oracle, oracle_of


@dataclass(frozen=True)
class Source:
    """Config and checkpoint of the model that an attack is run on.

    Args:
        config: Config file of an mm model with the victim's classes.
        checkpoint: Its weights.
    """

    config: str
    checkpoint: str

    def __str__(self) -> str:
        return f'{self.config},{self.checkpoint}'

    @classmethod
    def parse(cls, given: str | dict | Sequence[str] | Source) -> Source:
        """Read ``'CONFIG,CKPT'``, ``dict(config=..., checkpoint=...)`` or a pair.

        Raises:
            ValueError: For anything else.
        """
        if isinstance(given, Source):
            return given
        parts = given.split(',') if isinstance(given, str) else given
        if isinstance(parts, dict) and set(parts) == {'config', 'checkpoint'}:
            return cls(**parts)
        if not isinstance(parts, dict) and len(parts) == 2 and all(parts):
            return cls(*parts)
        raise ValueError(
            f"source={given} must be 'CONFIG,CKPT' or dict(config=..., checkpoint=...)."
        )

    def oracle(self, victim: Oracle) -> Oracle:
        """Build the oracle of the source, on the victim's device.

        The victim itself is never asked. A model is loaded once in a process.

        Raises:
            FileNotFoundError: If the files do not exist.
            ValueError: If the source has other classes than the victim, by number, or
                by name where both have names.
        """
        files = Path(self.config), Path(self.checkpoint)
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(
                    f'There is no file {file} of the source model; give '
                    'source=CONFIG,CKPT.'
                )
        model = _load(*map(str, files), tuple(file.stat().st_mtime for file in files))
        oracle = oracle_of(model.to(victim.device), victim.gt_scale)
        classes = oracle.num_classes, victim.num_classes
        if classes[0] != classes[1]:
            raise ValueError(
                f'The source has {classes[0]} classes and the victim {classes[1]}; '
                'take a source trained on the same classes.'
            )
        named = [tuple(map(str.lower, each.classes)) for each in (oracle, victim)]
        if all(named) and named[0] != named[1]:
            raise ValueError(
                f'The source has the classes {", ".join(oracle.classes)} and the '
                f'victim {", ".join(victim.classes)}; take a source trained on the '
                'same classes in the same order.'
            )
        return oracle


@lru_cache(maxsize=2)
def _load(config: str, checkpoint: str, _written: tuple) -> nn.Module:
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = MODELS.build(cfg.model).eval()
    read = load_checkpoint(model, checkpoint, map_location='cpu')
    model.dataset_meta = read.get('meta', {}).get('dataset_meta')
    return model


@dataclass(eq=False, kw_only=True)
class SourcedAttack(Attack):
    """An attack that may be run on another model than the one under test.

    Args:
        source: Another model to run the attack on, ``'CONFIG,CKPT'`` or
            ``dict(config=..., checkpoint=...)``, with the victim's classes: the images
            that deceive it are handed to the victim, which is never asked (transfer).
        eps, norm, quantize, mask, seed: See :class:`Attack`.

    Raises:
        ValueError: For another form of ``source``.
    """

    source: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source is not None:
            self.source = Source.parse(self.source)

    def threat_model(self) -> dict[str, Any]:
        source = None if self.source is None else str(self.source)
        return {**super().threat_model(), 'source': source}

    def choose_oracle(self, oracle: Oracle) -> Oracle:
        return oracle if self.source is None else self.source.oracle(oracle)
