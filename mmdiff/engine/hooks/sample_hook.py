"""Show what a prior in training has learned."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdiff.diffusion import sample_grid
from mmdiff.registry import HOOKS
from mmdiff.utils.modules import training_flags, unwrap


@HOOKS.register_module()
class SampleHook(Hook):
    """Show a grid of samples to the visualizer at every validation.

    With an ``EMAHook`` the averaged weights draw, as they do in validation.

    Args:
        num: Number of images; of a class-conditional prior, classes in turn.
        steps: Steps of the sampler.
        seed: Seed of the starting noise: grids of one run show the same images grow.

    Example:
        >>> SampleHook(num=4).priority
        'LOW'
    """

    priority = 'LOW'  # after EMAHook has swapped the averaged weights in

    def __init__(self, num: int = 16, steps: int = 25, seed: int = 0) -> None:
        self.num = num
        self.steps = steps
        self.seed = seed

    def before_val_epoch(self, runner: Runner) -> None:
        """Draw the grid, on the first rank."""
        if runner.rank != 0:
            return
        prior = unwrap(runner.model).diffusion
        with training_flags(prior, False):
            grid = sample_grid(prior, self.num, self.steps, self.seed)
        runner.visualizer.add_image('samples', grid, step=runner.iter)
