"""What attacks ascend: one module a task, and their names."""

from .base import NAMES, objective_names

__all__ = ['NAMES', 'objective_names']
