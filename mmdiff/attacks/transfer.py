"""Attack one model with images made for another."""

from collections.abc import Sequence

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmdiff.registry import ATTACKS, MODELS

from .attack import Attack
from mmdiff.utils.modules import unwrap
from .objectives import num_classes


@ATTACKS.register_module()
class Transfer(Attack):
    """Run an attack on a source model and hand its images to the victim.

    Budget, norm and all else are the inner attack's. The victim is never asked.

    Args:
        attack: The attack, or its config: ``dict(type='MIM', eps=8)``.
        source: ``dict(config=..., checkpoint=...)``, ``'CONFIG,CKPT'`` or a list of
            the two, of a model with the victim's classes.

    Raises:
        ValueError: For another form of ``source``; on calling, if the classes differ.
        FileNotFoundError: On calling, if the files do not exist.

    Example:
        >>> attack = Transfer(dict(type='mmdiff.MIM', eps=4), 'source.py,source.pth')
        >>> attack.eps, attack.threat_model()['source']
        (4, 'source.py,source.pth')
    """

    def __init__(
        self, attack: dict | Attack, source: dict | str | Sequence[str]
    ) -> None:
        if not isinstance(source, dict):
            parts = source.split(',') if isinstance(source, str) else source
            source = dict(zip(('config', 'checkpoint'), parts))
        if set(source) != {'config', 'checkpoint'}:
            raise ValueError(
                f"source={source} must be 'CONFIG,CKPT' or dict(config=..., "
                'checkpoint=...).'
            )
        self.source = source
        self.attack = ATTACKS.build(attack) if isinstance(attack, dict) else attack
        self._model: nn.Module | None = None

    def __getattr__(self, name: str):
        # Budget, norm, losses: what this object does not have, the inner attack has.
        if name == 'attack':
            raise AttributeError(name)
        return getattr(self.attack, name)

    def __setattr__(self, name: str, value) -> None:
        inner = name in ('stats', 'gt_scale')
        object.__setattr__(self.attack if inner else self, name, value)

    def threat_model(self) -> dict:
        source = ','.join(self.source[key] for key in ('config', 'checkpoint'))
        inner = self.attack.threat_model()
        own = dict(attack='transfer', inner=inner['attack'], source=source)
        return {**inner, **own}

    def perturb(self, model, images, samples, ids):
        return self.attack.perturb(self._source(model), images, samples, ids)

    def __call__(
        self, model: nn.Module, data_batch: dict, skip: Sequence[bool] | None = None
    ) -> list[Tensor] | Tensor:
        return self.attack(self._source(unwrap(model)), data_batch, skip)

    def _source(self, victim: nn.Module) -> nn.Module:
        if self._model is None:
            cfg = Config.fromfile(self.source['config'])
            with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
                self._model = MODELS.build(cfg.model).eval()
            load_checkpoint(self._model, self.source['checkpoint'], map_location='cpu')
        classes = num_classes(self._model), num_classes(victim)
        if classes[0] != classes[1]:
            raise ValueError(
                f'The source has {classes[0]} classes and the victim {classes[1]}; '
                'take a source trained on the same classes.'
            )
        return self._model.to(next(victim.parameters()).device)
