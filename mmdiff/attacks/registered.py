"""Import every module of attacks: they register themselves."""

from importlib import import_module

from . import _EXPORTS

for _module in sorted({*_EXPORTS.values()}):
    import_module(f'mmdiff.attacks.{_module}')
