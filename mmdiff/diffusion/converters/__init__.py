"""Published checkpoints of other projects -> folders that ``DiffusionModel`` reads."""

from .adm import convert_adm
from .edm import convert_edm

__all__ = ['convert_adm', 'convert_edm']
