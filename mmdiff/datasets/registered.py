"""Import every dataset that configs name: they register themselves."""

from contextlib import suppress

# It is one of mmpretrain's, which detectors do without.
with suppress(ImportError):
    from .class_folders import ClassFolders  # noqa: F401
