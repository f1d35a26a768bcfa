"""What attacks ascend: one module a task, and their names."""

from .base import (
    BUILT,
    LOWERS_NO_AP,
    NAMES,
    REPORTED,
    build_objective,
    check_objective,
    inner_objective,
    objective_name,
    objective_names,
)

__all__ = [
    'BUILT',
    'LOWERS_NO_AP',
    'NAMES',
    'REPORTED',
    'build_objective',
    'check_objective',
    'inner_objective',
    'objective_name',
    'objective_names',
]
