"""Tables of all rows of a report, in the file beside it: intervals of differences."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdiff.utils.files import whole_file

from .image_tables import SHARED, ImageTable, objects_of, table_of

SMALL = {'images': np.int32, 'labels': np.int16, 'outcomes': np.int8}


@dataclass
class RowTables:
    """What each row's main metric is made of, image by image.

    Args:
        image_ids: Ids of the images, as text.
        metric: Name of the metric.
        rows: Table of each row, by its key.
    """

    image_ids: list[str]
    metric: str
    rows: dict[str, ImageTable]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. It holds arrays of numbers and text."""
        arrays: dict[str, np.ndarray] = {
            'image_ids': np.array(self.image_ids, dtype=np.str_),
            'metric': np.array(self.metric),
            'keys': np.array(list(self.rows), dtype=np.str_),
        }
        for number, table in enumerate(self.rows.values()):
            for name, array in table.arrays().items():
                kind = name.rpartition('.')[2]  # with several evaluations: '0.images'
                small = array.astype(SMALL.get(kind, array.dtype))
                arrays[name if name in SHARED else f'{number}.{name}'] = small
        with whole_file(path) as partial:
            np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> RowTables:
        """Read a file; loading runs no code.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f'There is no file {path}, which the report beside it names; copy it '
                'there.'
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls._read({name: file[name] for name in file.files})
        except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f'{path} is damaged ({type(error).__name__}: {error}); write it anew '
                'with tools/test.py --attack.'
            ) from None

    @classmethod
    def _read(cls, arrays: Mapping[str, np.ndarray]) -> RowTables:
        ids = [str(image) for image in arrays['image_ids']]
        rows = {}
        for number, key in enumerate(arrays['keys']):
            own = {name: arrays[name] for name in SHARED if name in arrays}
            start = f'{number}.'
            for name, array in arrays.items():
                if name.startswith(start):
                    own[name.removeprefix(start)] = array
            table = table_of(own)
            objects = objects_of(table)
            if objects is not None and len(objects) != len(ids):
                raise ValueError(f'{len(objects)} images for {len(ids)} ids')
            rows[str(key)] = table
        return cls(ids, str(arrays['metric']), rows)
