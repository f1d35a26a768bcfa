"""What a classifier says of the images of a prior, kept on disk as it comes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from torch import nn

from mmdiff.datasets import GeneratedDataset
from mmdiff.models import AlignedModel
from mmdiff.registry import MODELS
from mmdiff.utils.configs import mistakes_in_a_sentence
from mmdiff.utils.digests import digest_file, digest_json
from mmdiff.utils.files import whole_file, write_json
from mmdiff.utils.modules import num_classes, unwrap

from ..presets import CLASSIFICATION, task_of_config
from ..robust_weights.files import check_names

CHUNK = 256  # images whose answers are one file


@dataclass(frozen=True)
class Asked:
    """What the answers follow from: they are those of no other set or classifier."""

    images: str
    config: str
    checkpoint: str


class Judge:
    """A classifier, and the images as it takes them.

    Args:
        source: Folder or ``.npz`` of the images.
        config: Config of a classifier of mmpretrain; its test pipeline prepares the
            images.
        checkpoint: Its weights.
        device: Where it runs.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If config, weights and images do not go together.
    """

    def __init__(
        self, source: Path, config: str, checkpoint: str, device: str = 'cpu'
    ) -> None:
        if not Path(checkpoint).is_file():
            raise FileNotFoundError(
                f'There is no checkpoint {checkpoint}; give the weights of a trained '
                'classifier.'
            )
        cfg = Config.fromfile(config)
        self.scope = cfg.get('default_scope', 'mmpretrain')
        with (
            mistakes_in_a_sentence(),
            DefaultScope.overwrite_default_scope(self.scope),
        ):
            if task_of_config(bare_config(cfg)) != CLASSIFICATION:
                raise ValueError(f'{config} is not of a classifier of mmpretrain.')
            pipeline, order = pipeline_of(cfg, config)
            self.dataset = GeneratedDataset(
                source, pipeline, channel_order=order, unlabelled=True
            )
            self.model = self._load(cfg, checkpoint).to(device).eval()
        self.classes = num_classes(self.model)
        infos = [self.dataset.listed(i) for i in range(len(self.dataset))]
        self.labels = np.array([info['gt_label'] for info in infos], np.int64)
        self._check_classes(source)
        stat = [str(info['img_path']) for info in infos]
        self.asked = Asked(
            digest_json([stat, _written(source, infos)]),
            digest_json(cfg.pretty_text),
            digest_file(checkpoint),
        )

    @property
    def labelled(self) -> bool:
        """Whether the images have classes."""
        return bool((self.labels >= 0).all())

    def answer(
        self, folder: Path, progress: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return predicted classes, (N,) int64, and their probabilities, (N,).

        Args:
            folder: Gets the answers, and has those of a run that was interrupted.
            progress: Called with the number of images that are done.

        Raises:
            ValueError: If the folder has answers of other images or classifiers.
        """
        self._claim(folder)
        parts = []
        for start in range(0, len(self.dataset), CHUNK):
            file = folder / f'{start:08d}.npy'
            if not file.is_file():
                stop = min(start + CHUNK, len(self.dataset))
                answers = self._ask(range(start, stop))
                with whole_file(file) as partial:
                    np.save(partial, answers)
            parts.append(np.load(file))
            if progress is not None:
                progress(start + len(parts[-1]))
        answers = np.concatenate(parts)
        return answers[:, 0].astype(np.int64), answers[:, 1]

    @torch.no_grad()
    def _ask(self, numbers: range) -> np.ndarray:
        """Predicted class and its probability of some images, (n, 2) float64."""
        with DefaultScope.overwrite_default_scope(self.scope):
            batch = pseudo_collate([self.dataset[i] for i in numbers])
            samples = self.model.test_step(batch)
        rows = []
        for sample in samples:
            scores = sample.get('pred_score')
            if scores is None or scores.ndim != 1:
                raise ValueError(
                    f'{type(self.model).__name__} gives no probabilities of classes; '
                    'give it a head of classes, as LinearClsHead.'
                )
            best = int(scores.argmax())
            rows.append((best, float(scores[best])))
        return np.array(rows, np.float64)

    def _claim(self, folder: Path) -> None:
        """Write what is asked into a folder, or compare it with what is there."""
        file = folder / 'asked.json'
        asked = asdict(self.asked)
        if file.is_file() and json.loads(file.read_text()) != asked:
            raise ValueError(
                f'{folder} has answers about other images, or of another classifier; '
                'remove it, or give another output.'
            )
        write_json(file, asked)

    def _load(self, cfg: Config, checkpoint: str) -> nn.Module:
        """Build the bare classifier, with exactly its weights."""
        model = unwrap(MODELS.build(bare_config(cfg).model))
        read = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
        extra = tuple(f'{part}.' for part in AlignedModel.own_parts)
        state = {
            name: value
            for name, value in read.get('state_dict', read).items()
            if not name.startswith(extra)
        }
        check_names(state, model.state_dict(), checkpoint, 'the classifier')
        model.load_state_dict(state)
        return model

    def _check_classes(self, source: Path) -> None:
        """Complain about a set of other classes than the classifier's.

        Raises:
            ValueError: If so.
        """
        highest = int(self.labels.max())
        if self.labelled and highest + 1 != self.classes:
            raise ValueError(
                f'{source} has images of the classes 0 to {highest} and the classifier '
                f'tells {self.classes} classes; take one of the same classes.'
            )


def bare_config(cfg: Config) -> Config:
    """A config with the bare model in place of wrappers for training."""
    bare = copy.deepcopy(cfg)
    own = bare.get('data_preprocessor')
    while 'backbone' not in bare.model and isinstance(bare.model.get('model'), dict):
        bare.model = bare.model.model
    if own is not None:
        bare.model.setdefault('data_preprocessor', own)
    return bare


def pipeline_of(cfg: Config, config: str) -> tuple[list[Any], str]:
    """Transforms of test images without their loading, and the order of channels.

    Files are loaded as BGR; datasets that load nothing (mmpretrain's CIFAR10) have RGB
    of their own.

    Raises:
        ValueError: If there is no test pipeline.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    dataset = loader.get('dataset') or {}
    while 'pipeline' not in dataset and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    if 'pipeline' not in dataset:
        raise ValueError(
            f'{config} has no pipeline in test_dataloader.dataset, which prepares '
            'images for the classifier.'
        )
    steps = list(dataset['pipeline'])
    rest = [step for step in steps if 'LoadImage' not in str(step['type'])]
    return rest, 'rgb' if len(rest) == len(steps) else 'bgr'


def _written(source: Path, infos: list[dict]) -> list[int]:
    """When the files of a set were written."""
    if source.suffix == '.npz':
        return [source.stat().st_mtime_ns]
    return [Path(info['img_path']).stat().st_mtime_ns for info in infos]
