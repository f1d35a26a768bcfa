"""Networks of small images have the published sizes."""

import pytest
import torch
from torch import nn

from mmdiff.engine.hooks import NormEvalHook
from mmdiff.models import PreActResNet
from mmdiff.utils.normalization import batch_statistics

WRN = dict(stem_channels=16, widths=(160, 320, 640), blocks=(4, 4, 4))


@pytest.mark.parametrize('settings, millions', [({}, 11.17), (WRN, 36.47)])
def test_parameters_are_as_many_as_published(settings, millions):
    with torch.device('meta'):
        model = PreActResNet(**settings)
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)
    depth = sum(
        isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()
    )
    assert depth + 1 == (18 if not settings else 26)


def test_stages_without_blocks_are_refused():
    with pytest.raises(ValueError, match='one number for each stage'):
        PreActResNet(blocks=(1,))


def test_the_hook_keeps_normalisation_in_eval_mode():
    class Runner:
        model = PreActResNet(4, widths=(4,), blocks=(1,)).train()

    NormEvalHook().before_train_iter(Runner)
    norm = Runner.model.norm
    Runner.model(torch.randn(2, 3, 8, 8)).__getitem__(0).sum().backward()
    assert Runner.model.training and not norm.training
    assert norm.num_batches_tracked == 0 and norm.weight.grad is not None
    # Attacked under statistics of the batch, it keeps to its own as well.
    with batch_statistics(Runner.model):
        assert norm.running_mean is not None
