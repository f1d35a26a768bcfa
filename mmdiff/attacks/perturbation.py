"""One change for all images of a set, and the file that keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmdiff.utils.digests import SHORT, digest_tensors
from mmdiff.utils.files import whole_file

from .budget import Budget

SCHEMA = 'mmdiff-universal/1'
SUFFIX = '.safetensors'


def order_of(num_channels: int) -> str:
    """Order of colours as mm packages load them; empty for images without colours."""
    return 'bgr' if num_channels == 3 else ''


@dataclass
class Perturbation:
    """A change of pixel values that is added to every image (universal).

    It lies on a canvas with its top left corner on that of the image's own pixels,
    padding left out. A smaller image gets what lies on it; beyond the edges of the
    canvas the change repeats.

    Args:
        values: (C, H, W), float32, in pixel units; channels as images are loaded.
        budget: What it was fitted within.
        fitted_on: Model, images, and objective that it was fitted on, in words.
        fit: Name of all that the values depend on.
        epochs: Number of passes over these images.
        epochs_done: Those of them that are done.
        order: Order of the colours.

    Example:
        >>> dotted = Perturbation(torch.tensor([[[8.0, -8.0]]]), Budget(8))
        >>> dotted.on(torch.zeros(1, 2, 3)).tolist()
        [[[8.0, -8.0, 8.0], [8.0, -8.0, 8.0]]]
    """

    values: Tensor
    budget: Budget
    fitted_on: str = ''
    fit: str = ''
    epochs: int = 0
    epochs_done: int = 0
    order: str = ''

    @property
    def digest(self) -> str:
        """Name of the values, in hexadecimal digits."""
        shape = f'{tuple(self.values.shape)}'
        return digest_tensors([(shape, self.values.contiguous())]).hex()[:SHORT]

    def on(self, image: Tensor) -> Tensor:
        """Return the change of an image, (C, H, W), not yet cut to its budget.

        Raises:
            ValueError: If the image has other channels.
        """
        if len(image) != len(self.values):
            raise ValueError(
                f'The universal perturbation has {len(self.values)} channels and the '
                f'image {len(image)}; fit one on images like these.'
            )
        height, width = image.shape[-2:]
        down = -(-height // self.values.shape[-2])
        across = -(-width // self.values.shape[-1])
        return self.values.to(image).repeat(1, down, across)[:, :height, :width]

    def save(self, path: str | Path) -> None:
        """Write a file, whole or not at all."""
        about = {
            name: getattr(self, name)
            for name in ('fitted_on', 'fit', 'epochs', 'epochs_done', 'order')
        }
        about.update(schema=SCHEMA, budget=asdict(self.budget))
        values = {'perturbation': self.values.float().cpu().contiguous()}
        with whole_file(path) as partial:
            # One entry: safetensors writes several in any order.
            save_file(values, partial, {'about': json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> Perturbation:
        """Read a file; no code in it is run.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f'There is no perturbation {path}; tools/fit_universal.py writes one.'
            )
        try:
            with safe_open(path, 'pt') as file:
                about = json.loads((file.metadata() or {})['about'])
                values = file.get_tensor('perturbation')
            if about.pop('schema') != SCHEMA:
                raise ValueError('another schema')
            read = cls(values, Budget(**about.pop('budget')), **about)
        except (KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
            raise ValueError(
                f'{path} is no universal perturbation ({error}); give a file of '
                'tools/fit_universal.py.'
            ) from None
        read._check(path)
        return read

    def _check(self, path: Path) -> None:
        """Complain about values that cannot be what the file says.

        Raises:
            ValueError: If they are of another shape, order of colours or size.
        """
        values, budget = self.values, self.budget
        if values.ndim != 3 or not values.numel() or not torch.isfinite(values).all():
            raise ValueError(
                f'{path} must hold finite values of shape (C, H, W), not '
                f'{tuple(values.shape)}; fit it again.'
            )
        if self.order != order_of(len(values)):
            raise ValueError(
                f'{path} has its {len(values)} channels in the order {self.order!r}, '
                f'and images are loaded in the order {order_of(len(values))!r}; '
                'reorder the channels of the file.'
            )
        size = budget.measure(values)
        if budget.eps is None or size > budget.eps * (1 + 1e-4):
            raise ValueError(
                f'{path} holds a change of {size:.4g}, outside of its budget '
                f'({budget}); fit it again.'
            )
