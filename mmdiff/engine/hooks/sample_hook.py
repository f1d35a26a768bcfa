"""Look at what a prior in training has learned."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmdiff.diffusion import sample_grid
from mmdiff.registry import HOOKS


@HOOKS.register_module()
class SampleHook(Hook):
    """Show a grid of samples to the visualizer at every validation.

    With an ``EMAHook`` the averaged weights draw, as they do in validation.

    Args:
        num: Images in the grid; of a class-conditional prior, classes in turn.
        steps: Steps of the sampler.
        seed: Of the starting noise: grids of one run show the same images grow.

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
        if runner.rank != 0:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        training = model.training
        model.eval()
        grid = sample_grid(model.diffusion, self.num, self.steps, self.seed)
        model.train(training)
        runner.visualizer.add_image('samples', grid, step=runner.iter)
