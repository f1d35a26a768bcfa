"""Detections on noisy copies, kept on disk image by image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log
from torch import nn

from mmdiff.utils.digests import digest_json
from mmdiff.utils.files import whole_file

from .noisy_detections import NoisyDetections

VERSION = 1
TENSORS = ('copy', 'bboxes', 'scores', 'labels')


@dataclass(frozen=True)
class KeptCopies:
    """A folder with a file for each image, of one model, noise and seed.

    Files are written whole or not at all. One that is damaged all the same is done
    anew.

    Args:
        folder: The folder, named after all that the detections depend on beside the
            image.
    """

    folder: Path

    def load(self, image: str) -> NoisyDetections:
        """Read what is kept of an image; no copies if nothing is.

        Args:
            image: Digest of the image and of what else the model was told.
        """
        from safetensors import SafetensorError, safe_open

        path = self._path(image)
        if not path.exists():
            return NoisyDetections.none()
        try:
            with safe_open(path, 'pt') as file:
                told = json.loads((file.metadata() or {})['account'])
                tensors = [file.get_tensor(name) for name in TENSORS]
            if told['run'] != self._name(image):
                raise ValueError(f'it is of {told["run"]}')
            return NoisyDetections(int(told['copies']), *tensors)
        except (KeyError, OSError, SafetensorError, ValueError) as error:
            print_log(f'{path} is damaged ({error}): done anew.', 'current', 30)
            return NoisyDetections.none()

    def save(self, image: str, detections: NoisyDetections) -> None:
        """Write what was found on an image."""
        from safetensors.torch import save_file

        account = {'run': self._name(image), 'copies': detections.copies}
        tensors = {name: getattr(detections, name) for name in TENSORS}
        with whole_file(self._path(image)) as partial:
            save_file(tensors, partial, {'account': json.dumps(account)})

    def _path(self, image: str) -> Path:
        return self.folder / f'{image}.safetensors'

    def _name(self, image: str) -> str:
        return f'{self.folder.name}/{image}'


@dataclass(frozen=True)
class StateFolder:
    """A folder that keeps the copies of any models.

    Args:
        root: The folder; ``None`` keeps nothing.
        model: Config of the detector.
        preprocessor: Config of its preprocessor, if its own has none.

    Raises:
        ValueError: If copies are to be kept of a model that is built already.
    """

    root: str | Path | None
    model: dict | nn.Module
    preprocessor: dict | None

    def __post_init__(self) -> None:
        if self.root is not None and isinstance(self.model, nn.Module):
            raise ValueError(
                f'state_dir={str(self.root)!r} keeps what was found by the settings of '
                'the model, which a built one does not tell; give its config, or no '
                'state_dir.'
            )

    def copies_of(self, depends: Sequence) -> KeptCopies:
        """Find the copies of one model.

        Args:
            depends: All that detections depend on beside the config and the image.
        """
        parts = [VERSION, self.model, self.preprocessor, *depends]
        return KeptCopies(Path(str(self.root)) / digest_json(parts))
