"""Votes on noisy copies, and denoising in front of a diffusion classifier."""

import pytest
import torch
from conftest import TINY_UNET

from mmdiff import DiffusionModel
from mmdiff.attacks import PGD
from mmdiff.diffusion.denoising import OneStep
from mmdiff.diffusion.levels import equivalent_sigma
from mmdiff.registry import MODELS

pytest.importorskip('mmpretrain')
from mmpretrain.models.classifiers import BaseClassifier  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

SOURCE = {**TINY_UNET, 'sample_size': 16, 'num_class_embeds': 4, 'null_class': 3}


class Bright(BaseClassifier):
    """Class 1 where the first value of an image is above a threshold in [-1, 1]."""

    def __init__(self, threshold=0.0):
        preprocessor = dict(
            type='mmpretrain.ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3
        )
        super().__init__(data_preprocessor=preprocessor)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.threshold, self.sizes, self.seen = threshold, [], []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.sizes.append(len(inputs))
        self.seen.append(inputs.clone())
        labels = (inputs[:, 0, 0, 0] > self.threshold).long()
        scores = torch.eye(2)[labels]
        return [
            DataSample().set_pred_score(score).set_pred_label(label)
            for score, label in zip(scores, labels)
        ]


def smoothed(inner, **settings):
    cfg = dict(type='mmdiff.SmoothedClassifier', classifier=inner, sigma=32.0)
    return MODELS.build({**cfg, 'num_selection': 20, 'num_copies': 400, **settings})


def test_votes_are_the_share_of_noise_that_crosses_the_boundary():
    inner = Bright()
    model = smoothed(inner, num_copies=4000, chunk_size=1000)
    x = torch.zeros(1, 3, 8, 8)
    x[:] = 32 / 127.5  # one standard deviation above the threshold
    (sample,) = model(x, mode='predict')
    assert sample.smoothed_label == sample.pred_label.item() == 1
    # Phi(1) of the copies, within four deviations.
    assert abs(sample.votes / 4000 - 0.8413) < 4 * (0.8413 * 0.1587 / 4000) ** 0.5
    assert sum(inner.sizes) == 4020 and max(inner.sizes) <= 1000
    assert (sample.copies, sample.noise_sigma) == (4000, 32.0)
    noise = (torch.cat(inner.seen) - x) * 127.5
    assert noise.std().item() == pytest.approx(32, rel=0.01)


def test_votes_follow_from_the_image_and_the_seed_alone():
    x, names = torch.rand(3, 3, 8, 8) * 0.2 - 0.1, ['a/0.png', 'a/1.png', 'a/2.png']

    def votes(model, chosen):
        samples = [DataSample(metainfo=dict(img_path=names[i])) for i in chosen]
        return [s.votes for s in model(x[chosen], samples, mode='predict')]

    model = smoothed(Bright(), chunk_size=64)
    together = votes(model, [0, 1, 2])
    assert votes(model, [1]) == together[1:2] and len(set(together)) == 3
    assert votes(smoothed(Bright(), chunk_size=64, noise_seed=1), [0, 1, 2]) != together


def test_a_diffusion_classifier_denoises_before_it_classifies():
    inner = dict(
        type='mmdiff.DiffusionClassifier',
        model=SOURCE,
        levels=dict(num_levels=2),
        denoise_sigma=32.0,
    )
    model = smoothed(inner, num_selection=2, num_copies=4)
    (sample,) = model(torch.zeros(1, 3, 16, 16), mode='predict')
    assert sample.votes <= 4 and sample.pred_score.shape == (3,)
    classifier, x = model.classifier, torch.rand(1, 3, 16, 16)
    plain = MODELS.build({k: v for k, v in inner.items() if k != 'denoise_sigma'})
    plain.prior.load_state_dict(classifier.prior.state_dict())
    once = OneStep(plain.prior, 32 / 127.5)
    assert torch.allclose(classifier(x), plain(once(x)), rtol=1e-4)
    (sample,) = classifier(x, mode='predict')
    assert sample.unet_calls == 2 * 3 + 1


def test_one_step_is_asked_at_the_time_of_its_noise():
    prior = DiffusionModel.from_pretrained(SOURCE)
    step = OneStep(prior, 0.25)
    later = equivalent_sigma(prior, step.time + 1)
    assert equivalent_sigma(prior, step.time) <= 0.25 < later
    x = torch.rand(1, 3, 16, 16)
    alpha = prior.alphas_cumprod[step.time].sqrt()
    expected = prior.predict_x0(alpha * x, step.time, torch.tensor([3]))
    assert torch.allclose(step(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match='more noise than this prior knows'):
        OneStep(prior, 1e4)
    with pytest.raises(ValueError, match='must be above 0'):
        OneStep(prior, 0.0)
    labelled = {**TINY_UNET, 'num_class_embeds': 3}
    with pytest.raises(ValueError, match='always needs a class'):
        OneStep(DiffusionModel.from_pretrained(labelled), 0.25)


def test_mistakes_are_one_sentence():
    for setting in ('sigma', 'num_selection', 'num_copies'):
        with pytest.raises(ValueError, match=f'{setting}=0 must be above 0'):
            smoothed(Bright(), **{setting: 0})
    batch = dict(
        inputs=[torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)],
        data_samples=[DataSample().set_gt_label(0)],
    )
    with pytest.raises(ValueError, match='votes have no gradient'):
        PGD(eps=8, steps=1)(smoothed(Bright()), batch)
