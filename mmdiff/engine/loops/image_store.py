"""Attacked images of runs, kept on disk batch by batch beside what they led to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from mmdiff.utils.digests import digest_file
from mmdiff.utils.files import whole_file, write_json

from .whole_pixels import OwnPixels

FORMATS = ('png', 'npy')
PNG_CHANNELS = (1, 3)


def check_format(kind: str, channels: int) -> None:
    """Complain about images that cannot be written.

    Args:
        kind: ``'png'`` or ``'npy'``.
        channels: Channels of an image.

    Raises:
        ValueError: For another format, or channels that no PNG has.
    """
    if kind not in FORMATS:
        raise ValueError(f'save_format={kind!r} must be one of {FORMATS}.')
    if kind == 'png' and channels not in PNG_CHANNELS:
        raise ValueError(
            f'Images of {channels} channels cannot be saved as PNG, which has 1 or 3; '
            "save floats: save_format='npy' (--save-format npy)."
        )


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image, whole or not at all.

    Args:
        path: Its suffix says how: ``.png``, or ``.npy`` for the values as they are.
        image: (H, W, C), 0..255, channels in the order of OpenCV (BGR); float32, of
            whole values for a PNG.
    """
    with whole_file(path) as partial:
        if path.suffix == '.npy':
            np.save(partial, image)
            return
        _, encoded = cv2.imencode('.png', image.astype(np.uint8))
        partial.write_bytes(encoded.tobytes())


def read_image(path: Path) -> np.ndarray:
    """Read what :func:`write_image` wrote: (H, W, C), float32."""
    if path.suffix == '.npy':
        return np.load(path, allow_pickle=False)
    encoded = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED).astype(np.float32)
    return image[..., None] if image.ndim == 2 else image


def link_or_copy(source: Path, target: Path) -> None:
    """Let a file be in two places: as one on disk, where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class ImageStore:
    """Images of runs, in the state folders of these runs.

    A batch counts as kept once its list is there, which is written last and has the
    digest of each file.

    Args:
        kind: ``'png'`` (8 bits) or ``'npy'`` (float32).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def path(self, run: Path, index: int) -> Path:
        """File of one image of a run, by the run's state folder."""
        return run / self.kind / f'{index:06d}.{self.kind}'

    def _list(self, batch_file: Path) -> Path:
        """List of a batch's files, by the file of its record."""
        return batch_file.parent / self.kind / f'{batch_file.stem}.json'

    def holds(self, batch_file: Path) -> bool:
        """Whether all images of a batch are there, as they were written."""
        listing = self._list(batch_file)
        try:
            digests: Mapping = json.loads(listing.read_text(encoding='utf-8'))
            files = {name: listing.parent / name for name in digests}
            return all(digest_file(files[k]) == digests[k] for k in digests)
        except (OSError, ValueError):
            return False

    def keep(
        self, batch_file: Path, pixels: OwnPixels | None, numbers: Mapping[int, int]
    ) -> None:
        """Write images of a batch.

        Args:
            batch_file: File of the batch's record, which is written later.
            pixels: The images; ``None`` if there are none to write.
            numbers: Number in the test set by number in the batch, of those to write.
        """
        listing = self._list(batch_file)
        start = batch_file.stem.split('-')[0]
        for other in listing.parent.glob(f'{start}-*.json'):
            other.unlink()  # its files are replaced now
        digests = {}
        for number, index in numbers.items() if pixels is not None else ():
            png = self.kind == 'png'
            image = pixels.on_file(number) if png else pixels.cut(number)
            path = self.path(batch_file.parent, index)
            write_image(path, image.permute(1, 2, 0).cpu().contiguous().numpy())
            digests[path.name] = digest_file(path)
        write_json(listing, digests)
