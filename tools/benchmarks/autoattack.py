"""AutoAttack of three packages on one small classifier: which leaves the least?

A network of three layers is trained adversarially on images of 16 pixels, from folders
of classes. Then torchattacks' AutoAttack as it comes and with the steps of the paper,
pyautoattack (the authors' code) and the preset `standard` attack the same test images.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as CLASSIFIERS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmdiff.attacks import AttackStats, Oracle, TorchAttack, oracle_of
from mmdiff.attacks.torch_logits import Logits
from mmdiff.engine.presets import attack_configs
from mmdiff.registry import ATTACKS
from mmdiff.utils.files import write_json

BATCH = 250


@CLASSIFIERS.register_module()
class ThreeConvolutions(BaseModule):
    """Three convolutions, the first two with stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 1, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.layers(x),)


@dataclass
class Row:
    """What one package left.

    Args:
        name: Name in the table.
        accuracy: Share of the images that are still right.
        after: The same after each member, where it is known.
        seconds: Time it took.
    """

    name: str
    accuracy: float
    after: dict[str, float]
    seconds: float = 0.0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', type=Path, help='with class folders in train and test')
    parser.add_argument('--test', default='minitest', help='name of the test folder')
    parser.add_argument('--images', type=int, default=500, help='test images')
    parser.add_argument('--epochs', type=int, default=15)
    parser.add_argument('--eps', type=float, default=8)
    parser.add_argument('--out', type=Path, help='JSON file to write')
    return parser.parse_args()


def read(folder: Path, per_class: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """First images of every class, (N, 3, H, W) in uint8, and their classes."""
    images, labels = [], []
    for label, name in enumerate(sorted(p.name for p in folder.iterdir())):
        for file in sorted((folder / name).iterdir())[:per_class]:
            image = cv2.resize(cv2.imread(str(file)), (size, size), None, 0, 0, 3)
            images.append(np.ascontiguousarray(image.transpose(2, 0, 1)))
            labels.append(label)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def build(num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    head = dict(type='LinearClsHead', num_classes=num_classes, in_channels=64)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return CLASSIFIERS.build(
            dict(
                type='ImageClassifier',
                data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
                backbone=dict(type='ThreeConvolutions'),
                neck=dict(type='GlobalAveragePooling'),
                head=head,
            )
        )


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train on three steps of PGD at 8/255."""
    logits = Logits(oracle_of(model), AttackStats())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images)).split(128):
            x, y = images[chosen].float() / 255, labels[chosen]
            adv = (x + (torch.rand_like(x) * 2 - 1) * 8 / 255).clamp(0, 1)
            for _ in range(3):
                adv.requires_grad_()
                (grad,) = torch.autograd.grad(F.cross_entropy(logits(adv), y), adv)
                adv = (adv.detach() + 4 / 255 * grad.sign()).clamp(0, 1)
                adv = adv.clamp(x - 8 / 255, x + 8 / 255)
            loss = F.cross_entropy(logits(adv.detach()), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f'epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}', flush=True)


def batches(images: Tensor, labels: Tensor) -> Iterator[dict]:
    """Batches as a dataloader gives them."""
    for chosen in torch.arange(len(images)).split(BATCH):
        samples = [DataSample().set_gt_label(labels[i]) for i in chosen]
        for i, sample in zip(chosen.tolist(), samples):
            sample.set_metainfo({'img_id': i})
        yield {'inputs': images[chosen], 'data_samples': samples}


@torch.no_grad()
def right(logits: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return logits(images.float() / 255).argmax(1) == labels


def ours(
    attacks: Sequence, oracle: Oracle, images: Tensor, labels: Tensor
) -> dict[str, float]:
    """Share of images that are right after each of some attacks and those before."""
    logits, robust, after = Logits(oracle, AttackStats()), [], {}
    robust = right(logits, images, labels)
    for attack in attacks:
        ends = []
        for batch, still in zip(batches(images, labels), robust.split(BATCH)):
            ends.append(attack.run(oracle, batch, skip=(~still).tolist()).inputs)
        robust &= right(logits, torch.cat(ends), labels)
        name = '_'.join([attack.name, str(getattr(attack, 'objective', ''))])
        after[name.strip('_').lower()] = robust.float().mean().item()
    return after


def authors(
    oracle: Oracle, images: Tensor, labels: Tensor, eps: float
) -> dict[str, float]:
    """The same of pyautoattack, of all its members together."""
    from pyautoattack import AutoAttack

    logits = Logits(oracle, AttackStats())
    with oracle.attacked():
        attack = AutoAttack(logits, eps=eps / 255, seed=0)
        x = images.float() / 255
        ends, _ = attack.run_standard_evaluation(x, labels, batch_size=BATCH)
    share = right(logits, ends * 255, labels).float().mean().item()
    return {'all': share}


def measure(name: str, run: Callable[[], dict[str, float]]) -> Row:
    start = time.perf_counter()
    after = run()
    row = Row(name, [*after.values()][-1], after, time.perf_counter() - start)
    print(
        f'{name}: {100 * row.accuracy:.2f} % ({row.seconds:.0f} s) {after}', flush=True
    )
    return row


def main() -> None:
    args = parse_args()
    images, labels = read(args.data / 'train', 1000)
    classes = int(labels.max()) + 1
    model = build(classes)
    train(model, images, labels, args.epochs)
    oracle = oracle_of(model.eval())
    images, labels = read(args.data / args.test, args.images // classes)
    clean = right(Logits(oracle, AttackStats()), images, labels).float().mean().item()
    print(f'clean: {100 * clean:.2f} % of {len(images)} images', flush=True)
    preset = attack_configs('standard', str(args.eps), task='classification')
    ways = {
        'torchattacks, as it comes': [TorchAttack('AutoAttack', args.eps)],
        'torchattacks, 100 steps': [TorchAttack('AutoAttack', args.eps, steps=100)],
        'standard': [ATTACKS.build(config) for config in preset],
    }
    rows = [Row('clean', clean, {})]
    for name, attacks in ways.items():
        rows.append(measure(name, lambda a=attacks: ours(a, oracle, images, labels)))
    eps = args.eps
    rows.append(measure('pyautoattack', lambda: authors(oracle, images, labels, eps)))
    if args.out:
        write_json(args.out, {'rows': [asdict(row) for row in rows]})


if __name__ == '__main__':
    main()
