"""PGD on detectors, beside ART's and a loop of ten lines.

Same detector (random weights: they change no time), images, budget and steps. The loop
is what one writes by hand: losses of the whole batch at once, the gradient with respect
to the images alone, samples prepared once. ART (``pip install 'mmdiff[bench]'``) gets
the detector as a runner loads it, whose weights want gradients, and with frozen weights
as all others have it; it is left out if it is not there, or cannot run the detector,
and the table says so. With one thread of a CPU, seconds are those of the process, which
other work on the machine changes least.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from art_pgd import art_pgd
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config
from timing import Machine, Timing, clock, in_turns, report
from torch import Tensor, nn

from mmdiff import PGD
from mmdiff.attacks import AttackStats, oracle_of

ROOT = Path(__file__).parents[2]
DETECTORS = {
    'faster-rcnn': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'yolox-nano': ROOT / 'configs/robustness/yolox-nano_coco-weights_voc07.py',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--detectors', choices=DETECTORS, nargs='+')
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 2, 8])
    parser.add_argument('--size', type=int, default=128, help='side of the images')
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', type=Path, help='JSON file to write')
    return parser.parse_args()


def build(name: str) -> nn.Module:
    """A detector with random weights, in eval mode."""
    source = DETECTORS[name]
    cfg = Config.fromfile(source) if isinstance(source, Path) else get_config(source)
    model = copy.deepcopy(cfg.model)
    model.backbone.pop('init_cfg', None)
    torch.manual_seed(0)
    detector = MODELS.build(model)
    detector.init_weights()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return detector.to(device).eval().requires_grad_(False)


def make_batch(model: nn.Module, images: int, side: int) -> dict:
    """Images with three objects each, as a data loader gives them."""
    batch = demo_mm_inputs(
        images,
        [[3, side, side]] * images,
        num_items=[3] * images,
        num_classes=getattr(model, 'roi_head', model).bbox_head.num_classes,
        with_semantic=False,
    )
    for sample in batch['data_samples']:
        size = (side, side)
        sample.set_metainfo({'ori_shape': size, 'scale_factor': (1.0, 1.0)})
    return batch


def loop_of(model: nn.Module, eps: float, step: float, steps: int) -> Callable:
    """PGD as one writes it by hand."""

    def attack(batch: dict) -> Tensor:
        prepare = model.data_preprocessor
        samples = prepare(copy.deepcopy(batch))['data_samples']
        clean = torch.stack(batch['inputs']).float()
        x = clean
        for _ in range(steps):
            x = x.detach().requires_grad_()
            losses = model.loss(prepare({'inputs': list(x)})['inputs'], samples)
            grad = torch.autograd.grad(model.parse_losses(losses)[0], x)[0]
            x = x + step * grad.sign()
            x = torch.min(torch.max(x, clean - eps), clean + eps).clamp(0, 255)
        return x

    return attack


def contenders(model: nn.Module, batch: dict, steps: int) -> tuple[dict, str]:
    """Attacks without arguments by name, and why ART is not among them."""
    eps, step = 8.0, 1.0
    pgd = PGD(eps=eps, steps=steps, step_size=step, random_start=False)
    loop = loop_of(model, eps, step, steps)
    ways = {
        'loop of ten lines': lambda: loop(batch),
        'mmdiff': lambda: pgd(model, batch, 'input'),
    }
    oracle = oracle_of(model, 'input')
    samples = [oracle.at_input_scale(sample) for sample in batch['data_samples']]
    inputs = [x.float() for x in batch['inputs']]
    try:
        art = art_pgd(model, eps, step, steps)
        art_pgd(model, eps, step, 1)(inputs, samples)
    except Exception as error:
        return ways, ' '.join(f'{type(error).__name__}: {error}'.split())[:80]

    def with_weights() -> None:
        model.requires_grad_(True)
        art(inputs, samples)
        model.requires_grad_(False)

    ways['ART'] = with_weights
    return {**ways, 'ART, frozen weights': lambda: art(inputs, samples)}, ''


def count_gradients(model: nn.Module, batch: dict, steps: int) -> int:
    """Passes with a gradient that our attack asks for, per image."""
    stats: AttackStats = PGD(steps=steps).run(oracle_of(model, 'input'), batch).stats
    return stats.grad_evals // len(batch['inputs'])


def compare(args: argparse.Namespace, name: str, images: int) -> tuple[list, dict]:
    """Rows of a table for one detector and batch, and their raw numbers."""
    model = build(name)
    batch = make_batch(model, images, args.size)
    ways, missing = contenders(model, batch, args.steps)
    times: dict[str, Timing] = in_turns(ways, args.rounds, clock())
    loop = times['loop of ten lines'].median
    cells = {
        way: (str(timing), f'{timing.median / loop:.2f}')
        for way, timing in times.items()
    }
    if missing:
        cells['ART'] = (missing, '')
    rows = []
    for way, (seconds, share) in cells.items():
        row = {'detector': name, 'batch': str(images), 'PGD of': way}
        rows.append({**row, 'seconds': seconds, 'of the loop': share})
    raw = {way: timing.seconds for way, timing in times.items()}
    gradients = count_gradients(model, batch, args.steps)
    return rows, {f'{name} {images}': {**raw, 'grad_evals': gradients}}


def main() -> None:
    args = parse_args()
    register_all_modules(init_default_scope=True)
    machine, rows, raw = Machine.here(), [], {}
    for name in args.detectors or DETECTORS:
        for images in args.batches:
            more, numbers = compare(args, name, images)
            rows += more
            raw.update(numbers)
    title = f'PGD-{args.steps}, images of {args.size} px, {args.rounds} rounds'
    report(title, rows, machine, {'seconds': raw}, args.out)


if __name__ == '__main__':
    main()
