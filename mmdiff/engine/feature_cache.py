"""Features of a frozen backbone, computed once and kept on disk.

An entry is of one image: its name is a digest of the pixels that reach the network and
of all that features depend on, so a flipped or cropped image has an entry of its own,
and whatever changes finds none. Files are written whole or not at all, so any number of
workers and ranks may share a folder, and a process that is killed leaves nothing torn.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmdiff.models import DiffusionUNet
from mmdiff.utils.digests import digest_json, digest_tensors
from mmdiff.utils.files import whole_file
from mmdiff.utils.modules import autocast_dtype
from mmdiff.version import __version__

PRECISIONS = {'bf16': torch.bfloat16, 'fp32': torch.float32}
ABANDONED = 3600  # seconds after which a partial file is one of a killed process


@dataclass
class FeatureStore:
    """A folder of features by name, which holds no more than so many bytes.

    What was read longest ago goes first. Each process looks at the folder anew after
    having written a sixteenth of the limit, so several together may exceed it by as
    much each.

    Args:
        folder: Where files lie; it is made if it is missing.
        max_bytes: Limit of all files together.

    Raises:
        ValueError: If there is no room for anything.

    Example:
        >>> import tempfile
        >>> store = FeatureStore(Path(tempfile.mkdtemp()), 1000)
        >>> store.get('ab' * 32) is None
        True
        >>> store.put('ab' * 32, [torch.ones(2)])
        >>> store.get('ab' * 32)
        [tensor([1., 1.])]
    """

    folder: Path
    max_bytes: int
    _total: int = field(default=-1, init=False)
    _unseen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f'max_bytes={self.max_bytes} leaves no room for features.')

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f'{name[2:]}.safetensors'

    def get(self, name: str) -> list[Tensor] | None:
        """Read an entry; ``None`` if it is not there, or damaged (then it is gone)."""
        path = self._path(name)
        try:
            with safe_open(path, 'pt') as file:
                values = [file.get_tensor(f'{k}') for k in range(len(file.keys()))]
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            path.unlink(missing_ok=True)
            return None
        return values

    def put(self, name: str, values: list[Tensor]) -> None:
        """Write an entry, and make room if there is none left."""
        named = {f'{k}': value.contiguous() for k, value in enumerate(values)}
        path = self._path(name)
        with whole_file(path) as partial:
            save_file(named, partial)
        self._unseen += sum(value.nbytes for value in named.values())
        known = self._total >= 0 and self._unseen < self.max_bytes / 16
        if not known or self._total + self._unseen > self.max_bytes:
            self.shrink()

    def shrink(self) -> None:
        """Remove what was read longest ago, down to nine tenths, if it is too much."""
        files = sorted(self._files())
        self._total, self._unseen = sum(size for _, size, _ in files), 0
        if self._total <= self.max_bytes:
            return
        for _, size, path in files:
            if self._total <= 0.9 * self.max_bytes:
                break
            path.unlink(missing_ok=True)  # another process may have been faster
            self._total -= size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Time of reading, size and path of each file; abandoned ones are removed."""
        for path in self.folder.glob('*/*.safetensors'):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if not path.name.startswith('.'):
                yield state.st_mtime, state.st_size, path
            elif time.time() - state.st_mtime > ABANDONED:
                path.unlink(missing_ok=True)


def mirror(x: Tensor, widths: Sequence[int]) -> Tensor:
    """Mirror images left to right, and leave the padding on their right where it is.

    Args:
        x: Images, (N, C, H, W).
        widths: Columns of each that are not padding.

    Example:
        >>> mirror(torch.tensor([[[[1, 2, 0]]]]), [2]).flatten()
        tensor([2, 1, 0])
    """
    out = x.clone()
    for image, width in zip(out, widths, strict=True):
        image[..., :width] = image[..., :width].flip(-1)
    return out


@dataclass(eq=False)
class FeatureCache:
    """Answers for a :class:`~mmdiff.models.DiffusionUNet` as long as it is frozen.

    Assign it to ``backbone.feature_cache``. The backbone does not ask where its
    features may not be kept: if the input needs a gradient, noise is drawn anew, or it
    trains. Values come back rounded to ``precision`` the first time, too, so that
    training does not depend on what was kept.

    Args:
        folder: Folder of the store; several models may share it.
        precision: ``'bf16'``, or ``'fp32'`` for twice the room.
        max_gb: Limit of the folder, in units of 1e9 bytes.

    Attributes:
        hits, misses: Images that were found, and that were computed.
        widths: Columns of each image of the batch that are not padding; if given, the
            mirror images of those that are computed are computed along, to be found
            when they come.

    Raises:
        ValueError: For an unknown precision, or no room.
    """

    folder: str | Path
    precision: str = 'bf16'
    max_gb: float = 20.0
    hits: int = field(default=0, init=False)
    misses: int = field(default=0, init=False)
    widths: Sequence[int] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f'precision={self.precision!r} must be one of {tuple(PRECISIONS)}.'
            )
        self.store = FeatureStore(
            Path(self.folder).expanduser(), int(self.max_gb * 1e9)
        )
        self._state: tuple[int, ...] = ()
        self._prior = b''

    def __call__(
        self, backbone: DiffusionUNet, x: Tensor, compute: Callable
    ) -> tuple[Tensor, ...]:
        """Look features up, and compute those that are missing.

        Args:
            backbone: The backbone.
            x: Its input, (N, 3, H, W).
            compute: Computes the features of images, as ``forward`` returns them.

        Returns:
            Features of all images, in the precision of the input.
        """
        names = self.names(backbone, x)
        entries = [self.store.get(name) for name in names]
        missing = [i for i, values in enumerate(entries) if values is None]
        self.hits += len(names) - len(missing)
        self.misses += len(missing)
        if missing:
            new = self._compute(x[missing], compute)
            for i, values in zip(missing, new):
                self.store.put(names[i], values)
                entries[i] = values
            self._mirror(backbone, x, missing, compute)
        levels = zip(*(values for values in entries if values is not None), strict=True)
        return tuple(torch.stack(level).to(x) for level in levels)

    def _compute(self, x: Tensor, compute: Callable) -> list[list[Tensor]]:
        """Compute the features of images, a list for each, in the cache's precision."""
        kept = [
            out.detach().to('cpu', PRECISIONS[self.precision]) for out in compute(x)
        ]
        return [[out[k].clone() for out in kept] for k in range(len(x))]

    def _mirror(
        self,
        backbone: DiffusionUNet,
        x: Tensor,
        images: Sequence[int],
        compute: Callable,
    ) -> None:
        """Keep the features of mirror images that are not there yet."""
        if len(self.widths) != len(x) or max(self.widths) > x.shape[-1]:
            return  # not the batch that the widths are of
        mirrored = mirror(x[images], [self.widths[i] for i in images])
        names = self.names(backbone, mirrored)
        new = [k for k, name in enumerate(names) if self.store.get(name) is None]
        if new:
            for k, values in zip(new, self._compute(mirrored[new], compute)):
                self.store.put(names[k], values)

    def names(
        self, backbone: DiffusionUNet, x: Tensor, kept: Sequence[str] = ()
    ) -> list[str]:
        """Names of the entries of a batch.

        Args:
            backbone: The backbone.
            x: Its input, (N, 3, H, W).
            kept: What is kept of the features, if not all of them, in words.
        """
        device = x.device.type
        autocast = str(autocast_dtype(device))
        context = (
            self._fingerprint(backbone)
            + digest_json(
                [
                    *(__version__, self.precision, device, autocast, str(x.dtype)),
                    *(backbone.time.item(), backbone.noise, backbone.noise_seed),
                    *(backbone.num_noise, backbone.condition),
                    *(info.name for info in backbone.out_taps),
                    list(x.shape[1:]),
                    *kept,
                ]
            ).encode()
        )
        pixels = x.detach().cpu().contiguous().flatten(1).view(torch.uint8)
        return [
            hashlib.sha256(context + p.numpy().tobytes()).hexdigest() for p in pixels
        ]

    def _fingerprint(self, backbone: DiffusionUNet) -> bytes:
        """SHA-256 of all that the prior is, taken anew when a tensor was written to.

        It is more than the fingerprint of checkpoints: of the schedule, say, nothing is
        in a state dict, and the same weights mean something else with another one.
        """
        model = backbone.model
        named = [*model.named_parameters(), *model.named_buffers()]
        state = tuple(n for _, t in named for n in (t.data_ptr(), t._version))
        if state != self._state:
            settings = [
                (name, type(module), dict(getattr(module, 'config', {})))
                for name, module in model.named_modules()
            ]
            latent = getattr(model, 'latent', None)
            self._state = state
            self._prior = (
                digest_tensors(named) + digest_json([settings, latent]).encode()
            )
        return self._prior
