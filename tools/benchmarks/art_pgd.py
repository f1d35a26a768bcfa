"""PGD of this package beside that of the Adversarial Robustness Toolbox (ART).

Same detector, images, budget and steps. ART sees the detector through an adapter and
has no random start for detectors, so ours runs as close to it as it can be set, as it
is by default, and with other choices of iterate and proposals. Afterwards one
objective, with the same sampling for all, and the dataset's own metric measure the
images of each. Seconds are of the CPU, if it runs there. Needs
``pip install 'mmdiff[bench]'``.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmdiff import PGD
from mmdiff.attacks import AttackStats, Oracle, oracle_of
from mmdiff.attacks.oracle.ground_truth import to_input_scale
from mmdiff.engine.ground_truth import ground_truth_scale
from mmdiff.evaluation.entry import main_metric
from mmdiff.evaluation.scoring.detection import image_ap
from mmdiff.utils.modules import device_of


class TorchvisionDetector(nn.Module):
    """An mmdet detector that is called, and answers, as one of torchvision.

    Args:
        detector: An mmdet detector with its data preprocessor.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, targets: list[dict] | None = None):
        """Losses in train mode, else boxes, labels and scores.

        Args:
            images: (N, 3, H, W) in 0..1: ART divides by the largest value.
            targets: ``boxes`` (x1 y1 x2 y2, at the scale of the input) and ``labels``.
        """
        size = tuple(images.shape[-2:])
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        samples = [DetDataSample(metainfo=meta) for _ in images]
        for sample, target in zip(samples, targets or ()):
            boxes, labels = target['boxes'], target['labels']
            sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        batch = dict(inputs=list(images * 255), data_samples=samples)
        batch = self.detector.data_preprocessor(batch, training=False)
        if self.training:
            losses = self.detector.loss(batch['inputs'], batch['data_samples'])
            return dict(total=self.detector.parse_losses(losses)[0])
        outputs = self.detector.predict(batch['inputs'], batch['data_samples'])
        detections = [output.pred_instances for output in outputs]
        return [
            dict(boxes=d.bboxes, labels=d.labels, scores=d.scores) for d in detections
        ]


def art_pgd(model: nn.Module, eps: float, step_size: float, steps: int) -> Callable:
    """ART's PGD as a function of a batch with its boxes at the scale of the input."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.object_detection import PyTorchObjectDetector

    device = next(model.parameters()).device

    def attack(inputs: list[Tensor], samples: list) -> list[Tensor]:
        estimator = PyTorchObjectDetector(
            TorchvisionDetector(model),
            input_shape=tuple(inputs[0].shape),
            clip_values=(0, 255),
            attack_losses=('total',),
            device_type='cpu' if device.type == 'cpu' else 'gpu',
        )
        pgd = ProjectedGradientDescent(
            estimator,
            norm=np.inf,
            eps=float(eps),
            eps_step=float(step_size),
            max_iter=steps,
            batch_size=len(inputs),
            verbose=False,
        )
        truths = [sample.gt_instances for sample in samples]
        truths = [dict(boxes=t.bboxes.numpy(), labels=t.labels.numpy()) for t in truths]
        attacked = pgd.generate(torch.stack(inputs).float().numpy(), truths)
        model.eval().zero_grad(set_to_none=True)  # it leaves neither as it was
        return list(torch.from_numpy(attacked).to(device))

    return attack


def objective(oracle: Oracle, batch: dict, inputs: list, proposals: str) -> Tensor:
    """Total loss of each image, mean over three samplings that all attacks share."""
    group = oracle.gather(batch)
    group = replace(group, ids=['0'] * len(group.ids))
    pixels = [replace(f, canvas=x).cut() for f, x in zip(group.frames, inputs)]
    losses = [
        oracle.ask(
            group, AttackStats(), PGD(seed=seed).seed_of, 'total', proposals
        ).losses(pixels, 0, 0)
        for seed in range(3)
    ]
    return sum(losses) / 3


@dataclass
class Bench:
    """A detector and the batches that all attacks meet.

    Args:
        runner: Runner with the detector's weights loaded.
        gt_scale: Scale of the ground truth in the batches.
        batches: Batches of the test set.
        seed: Seed of every attack.
    """

    runner: Runner
    gt_scale: str
    batches: list[dict]
    seed: int

    @property
    def model(self) -> nn.Module:
        return self.runner.model

    @property
    def oracle(self) -> Oracle:
        return oracle_of(self.model, self.gt_scale)

    @property
    def num_images(self) -> int:
        return len(self.runner.test_dataloader.dataset)


@dataclass
class Row:
    """What one attack did: a line of the table."""

    max_delta: float
    own_loss: float
    fixed_loss: float
    mean_ap: float
    image_ap: float
    seconds: float


def build_bench(args: argparse.Namespace) -> Bench:
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.load_from, cfg.work_dir = args.checkpoint, 'work_dirs/art_pgd'
    cfg.test_dataloader.dataset.indices = args.indices
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_cfg = dict(type='TestLoop')
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    runner.model.eval()
    scale = ground_truth_scale(runner.test_dataloader.dataset)
    return Bench(runner, scale, list(runner.test_dataloader), args.seed)


def make_attacks(bench: Bench, args: argparse.Namespace) -> dict[str, Callable]:
    """Functions of a batch by name: ART's PGD, and ours in several settings."""
    step_size = 2.5 * args.eps / args.steps
    default = PGD(eps=args.eps, steps=args.steps, seed=args.seed)
    as_art = replace(default, step_size=step_size, random_start=False, keep_best=False)
    art = art_pgd(bench.model, args.eps, step_size, args.steps)

    def run_art(batch: dict) -> list[Tensor]:
        samples = batch['data_samples']
        return art(batch['inputs'], [bench.oracle.at_input_scale(s) for s in samples])

    def ours(attack: PGD) -> Callable:
        return lambda batch: attack(bench.model, batch, bench.gt_scale)

    return {
        'clean': lambda batch: batch['inputs'],
        'ART': run_art,
        'ours, as ART': ours(as_art),
        'ours, default': ours(default),
        'ours, best iterate': ours(replace(default, keep_best=True)),
        'ours, fixed proposals': ours(replace(default, proposals='fixed')),
    }


def measure(bench: Bench, attack: Callable) -> Row:
    """Run one attack on all batches and measure its images."""
    device, evaluator = device_of(bench.model), bench.runner.test_loop.evaluator
    clock = time.process_time if device.type == 'cpu' else time.perf_counter
    seconds, largest, aps = 0.0, 0.0, []
    losses: dict[str, list[Tensor]] = {'moving': [], 'fixed': []}
    for batch in bench.batches:
        torch.manual_seed(bench.seed)
        start = clock()
        inputs = [x.float().to(device) for x in attack(batch)]
        seconds += clock() - start
        for x, clean in zip(inputs, batch['inputs']):
            largest = max(largest, (x.cpu() - clean).abs().max().item())
        for proposals, values in losses.items():
            values.append(objective(bench.oracle, batch, inputs, proposals))
        data = dict(batch, inputs=inputs)
        data['data_samples'] = copy.deepcopy(batch['data_samples'])
        with torch.no_grad():
            outputs = bench.model.test_step(data)
        evaluator.process(outputs, data)
        for output, truth in zip(outputs, batch['data_samples']):
            boxes = dict(output.pred_instances.cpu().items())
            truth = to_input_scale(truth, 'input')
            aps.append(image_ap(boxes, truth, bench.gt_scale))
    metrics = evaluator.evaluate(bench.num_images)
    means = [torch.cat(values).mean().item() for values in losses.values()]
    return Row(largest, *means, main_metric(metrics), float(np.mean(aps)), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--indices', type=int, default=16, help='first N images')
    parser.add_argument('--eps', type=float, default=4, help='of 255')
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args()

    bench = build_bench(args)
    columns = 'max |delta|', 'loss', 'fixed', 'mAP', 'AP', 's/image/step'
    table = Table('PGD', *columns)
    table.caption = (
        'loss: on own proposals; fixed: on those for the clean image; AP: per image'
    )
    table.title = (
        f'{bench.num_images} images, eps {args.eps:g}, {args.steps} steps, '
        f'seed {args.seed}'
    )
    for name, attack in make_attacks(bench, args).items():
        row = measure(bench, attack)
        row.seconds /= bench.num_images * args.steps
        table.add_row(name, *(f'{value:.3f}' for value in astuple(row)))
    Console(width=88).print(table)


if __name__ == '__main__':
    main()
