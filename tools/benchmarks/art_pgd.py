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
from mmdiff.attacks.objectives import to_input_scale
from mmdiff.engine.hooks.attack_hook import ground_truth_scale
from mmdiff.evaluation import image_ap, main_metric


class TorchvisionDetector(nn.Module):
    """An mmdet detector that is called, and answers, as one of torchvision.

    Args:
        detector: It; its data preprocessor included.
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
        found = self.detector.predict(batch['inputs'], batch['data_samples'])
        found = [sample.pred_instances for sample in found]
        return [dict(boxes=f.bboxes, labels=f.labels, scores=f.scores) for f in found]


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
        found = pgd.generate(torch.stack(inputs).float().numpy(), truths)
        model.eval().zero_grad(set_to_none=True)  # it leaves neither as it was
        return list(torch.from_numpy(found).to(device))

    return attack


def objective(model, batch: dict, inputs: list, scale: str, proposals: str) -> Tensor:
    """Total loss of each image, mean over three samplings that all attacks share."""
    meter = PGD(proposals=proposals)
    samples = [to_input_scale(sample, scale) for sample in batch['data_samples']]
    clean = [x.float() for x in batch['inputs']]
    with torch.no_grad():
        samples = meter._prepare(model, clean, samples, ['0'] * len(clean))
        seeds = [[100 + k] * len(clean) for k in range(3)]
        return sum(meter._losses(model, inputs, samples, s) for s in seeds) / 3


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

    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.load_from, cfg.work_dir = args.checkpoint, 'work_dirs/art_pgd'
    cfg.test_dataloader.dataset.indices = args.indices
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_cfg = dict(type='TestLoop')
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    model, evaluator = runner.model.eval(), runner.test_loop.evaluator
    dataset, batches = runner.test_dataloader.dataset, list(runner.test_dataloader)
    scale = ground_truth_scale(dataset)
    common = dict(eps=args.eps, steps=args.steps, gt_scale=scale, seed=args.seed)
    step_size = 2.5 * args.eps / args.steps
    alike = dict(common, step_size=step_size, random_start=False, keep_best=False)
    art = art_pgd(model, args.eps, step_size, args.steps)

    def ours(**settings) -> Callable:
        return lambda batch: PGD(**settings)(model, batch)

    attacks = {
        'clean': lambda batch: batch['inputs'],
        'ART': lambda batch: art(
            batch['inputs'],
            [to_input_scale(sample, scale) for sample in batch['data_samples']],
        ),
        'ours, as ART': ours(**alike),
        'ours, default': ours(**common),
        'ours, best iterate': ours(**common, keep_best=True),
        'ours, fixed proposals': ours(**common, proposals='fixed'),
    }
    device = next(model.parameters()).device
    clock = time.process_time if device.type == 'cpu' else time.perf_counter
    columns = 'max |delta|', 'loss', 'fixed', 'mAP', 'AP', 's/image/step'
    table = Table('PGD', *columns)
    table.caption = (
        'loss: on own proposals; fixed: on those for the clean image; AP: per image'
    )
    for name, attack in attacks.items():
        seconds, largest, losses, aps = 0.0, 0.0, dict(moving=[], fixed=[]), []
        for batch in batches:
            torch.manual_seed(args.seed)
            start = clock()
            inputs = [x.float().to(device) for x in attack(batch)]
            seconds += clock() - start
            for x, clean in zip(inputs, batch['inputs']):
                largest = max(largest, (x.cpu() - clean).abs().max().item())
            for kind, values in losses.items():
                values.append(objective(model, batch, inputs, scale, kind))
            data = dict(batch, inputs=inputs)
            data.update(data_samples=copy.deepcopy(batch['data_samples']))
            with torch.no_grad():
                found = model.test_step(data)
            evaluator.process(found, data)
            for sample, truth in zip(found, batch['data_samples']):
                boxes = dict(sample.pred_instances.cpu().items())
                aps.append(image_ap(boxes, to_input_scale(truth, 'input'), scale))
        metric = main_metric(dict(metrics=evaluator.evaluate(len(dataset))))
        means = [torch.cat(values).mean().item() for values in losses.values()]
        cost = seconds / len(dataset) / args.steps if name != 'clean' else 0
        cells = largest, *means, metric, np.mean(aps), cost
        table.add_row(name, *(f'{value:.3f}' for value in cells))
    table.title = (
        f'{len(dataset)} images, eps {args.eps:g}, {args.steps} steps (ART: of '
        f'{step_size:g}), seed {args.seed}'
    )
    Console(width=88).print(table)


if __name__ == '__main__':
    main()
