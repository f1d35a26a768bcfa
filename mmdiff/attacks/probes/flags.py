"""Does a model compute under attack what it computes in a test?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.utils.modules import replaced, seed_all, training_flags
from mmdiff.utils.seeding import mix_seed

from ..errors import NotApplicable
from ..oracle import ImageGroup, Oracle
from ..result import AttackStats
from .findings import ModelProbe
from .heads import Heads, dense_heads, features_gap, head_gap, more_calls
from .tensors import flat, relative_gap, widest_gap


def probe_model(oracle: Oracle, batch: dict) -> ModelProbe:
    """Compare features under attack with those of a test, image by image.

    Modules whose flags differ by purpose (heads, branches for training) are not
    compared: features are what heads are given, by ``extract_feat``, and an oracle
    leaves backbone, normalisation and dropout in evaluation mode.

    Args:
        oracle: Oracle of the model; one without ``extract_feat`` is not asked.
        batch: A batch of a few images, as the dataloader gives it.
    """
    images = oracle.gather(batch)
    probe = ModelProbe(len(images.frames))
    if not hasattr(oracle.model, 'extract_feat'):
        return probe
    for i, sample in enumerate(batch['data_samples']):
        raw = {'inputs': [batch['inputs'][i]], 'data_samples': [sample]}
        _Comparison(oracle, images.take([i]), raw, probe).run()
    return probe


class _Comparison:
    """Features of one image, asked in several ways.

    Args:
        oracle: Oracle of the model.
        image: The image, as attacks know it.
        raw: A batch of it, as the dataloader gives it.
        probe: Takes the gaps.
    """

    def __init__(
        self, oracle: Oracle, image: ImageGroup, raw: dict, probe: ModelProbe
    ) -> None:
        self.oracle, self.model = oracle, oracle.model
        self.image, self.raw, self.probe = image, raw, probe

    def run(self) -> None:
        """Ask in all ways; widen the gaps."""
        probe, heads = self.probe, Heads(self.model)
        # Listening begins first: an oracle puts models back as it found them.
        with heads.listening(), self.oracle.attacked():
            tested = self._tested(seed=0)
            in_test = heads.take()
            probe.fixed &= widest_gap(tested, self._tested(seed=1)) in (None, 0.0)
            plain, inputs = self._asked(training=False, grad=False)
            again, _ = self._asked(training=False, grad=False)
            with_grad, seen = self._asked(training=False, grad=True)
            attacked, _ = self._asked(self.oracle.training, grad=True)
            heads.take()
            self._lose()
            in_loss = heads.take()
        probe.passes += 7
        probe.repeat_gap = max(probe.repeat_gap, widest_gap(again, plain) or 0.0)
        if probe.repeat_gap:  # all other gaps are of it
            probe.fixed = False
            return
        probe.input_gap = max(probe.input_gap, relative_gap(seen, inputs))
        probe.grad_gap = max(probe.grad_gap, widest_gap(with_grad, plain) or 0.0)
        probe.flag_gap = _widest(probe.flag_gap, widest_gap(attacked, with_grad))
        if probe.fixed:
            probe.test_gap = _widest(probe.test_gap, widest_gap(attacked, tested))
            probe.head_gap = max(probe.head_gap, head_gap(in_test, in_loss))
            # What is done to features between extract_feat and the heads.
            dense = dense_heads(in_loss, attacked or [])
            gap = features_gap(in_test, in_loss, dense)
            probe.test_gap = _widest(probe.test_gap, gap) if dense else probe.test_gap
            more = more_calls(in_test, in_loss, dense)
            probe.more_calls = max(probe.more_calls, more)

    def _tested(self, seed: int) -> list[Tensor] | None:
        """First features that a test computes; ``None`` if it asks for none."""
        samples = [sample.clone() for sample in self.raw['data_samples']]
        batch = {'inputs': list(self.raw['inputs']), 'data_samples': samples}
        tested = self.oracle.tested
        with torch.no_grad(), evaluating(tested), _noted(self.model) as noted:
            seed_all(seed)
            tested.test_step(batch)
        return noted[0] if noted else None

    def _lose(self) -> None:
        """Let heads compute losses as an attack asks for them, if the model has any."""
        try:
            question = self.oracle.ask(
                self.image,
                AttackStats(),
                lambda *choice: mix_seed(0, *choice),
                'total',
                # Heads are asked once: their own proposals are those of this image.
                proposals='moving',
            )
            question.losses(self.image.pixels, 0, 0)
        except NotApplicable:  # attacks on what is reported ask for no loss
            pass
        self.oracle.reset()

    def _asked(self, training: bool, grad: bool) -> tuple[list[Tensor], Tensor]:
        """Features as an attack asks for them, and the inputs that they are of."""
        (x,) = self.image.pixels
        x.requires_grad_(grad)
        features, inputs = ask_features(self.oracle, self.image, x, training)
        return [tensor.detach() for tensor in features], inputs.detach()


def ask_features(
    oracle: Oracle, image: ImageGroup, x: Tensor, training: bool
) -> tuple[list[Tensor], Tensor]:
    """Ask for features as an attack does; with a graph if the pixels take a gradient.

    Args:
        oracle: Oracle of the model, under :meth:`Oracle.attacked`.
        image: One image.
        x: Its pixels, or others in their place.
        training: Whether modules are in train mode, as far as an oracle lets them.

    Returns:
        All features, in order, and the inputs that they are of.
    """
    grad = x.requires_grad
    with torch.set_grad_enabled(grad), training_flags(oracle.model, training):
        seed_all(0)
        batch = oracle.preprocess([x], image.samples, image.frames)
        features = flat(oracle.model.extract_feat(batch['inputs']))
    oracle.reset()
    return features, batch['inputs']


@contextmanager
def _noted(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """Give a list that fills with what ``extract_feat`` gives."""
    noted: list[list[Tensor]] = []
    extract_feat: Callable = model.extract_feat

    def noting(*args: Any, **kwargs: Any) -> Any:
        features = extract_feat(*args, **kwargs)
        noted.append([tensor.detach() for tensor in flat(features)])
        return features

    with replaced(model, 'extract_feat', noting):
        yield noted


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set the flags of a test, and no more: what drops by itself goes on to."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, flag in before:
            module.training = flag


def _widest(before: float | None, gap: float | None) -> float | None:
    return gap if before is None else max(before, gap or 0.0)
