"""What attacks ascend: one module a task, and their names."""

from .base import NAMES, REPORTED, build_objective, objective_name, objective_names

__all__ = ['NAMES', 'REPORTED', 'build_objective', 'objective_name', 'objective_names']
