"""What a report says of a shield."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shield:
    """What stands in front of a model, and how its gradient is taken.

    Args:
        kind: Class of the purifier.
        gradient: ``'exact'``; ``'bpda'``: that of the identity in its place; or
            ``'surrogate'``: that of a shield with fewer steps.
        noise: ``'fixed'`` or ``'fresh'``.
        prior: Where its prior is from.
        settings: All other settings: its time, its steps.

    Example:
        >>> Shield('OneStepDenoiser', 'exact', 'fixed', 'p', {'timestep': 50}).sentence
        'The images pass OneStepDenoiser (timestep 50, noise fixed, gradient exact).'
    """

    kind: str
    gradient: str
    noise: str
    prior: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def instead(self) -> str:
        """What the gradient is of in the place of the shield; empty if of itself."""
        if self.gradient == 'exact':
            return ''
        if self.gradient == 'surrogate':
            steps, of = self.settings['surrogate_steps'], self.settings['steps']
            return f'{self.kind} in {steps} of its {of} steps'
        return 'the identity'

    @property
    def sentence(self) -> str:
        """What a reader must know of it."""
        told = {**self.settings, 'noise': self.noise, 'gradient': self.gradient}
        listed = ', '.join(f'{name} {value}' for name, value in told.items())
        return f'The images pass {self.kind} ({listed}).'
