"""What an attack on a detector ascends: sums of its losses, against some ground truth.

Losses of Zhang and Wang (2019), Chow et al. (2020, TOG), Chen et al. (2021, CWA).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.utils.modules import num_classes, replaced

from ..errors import NotApplicable

# Parts of the names of losses. RPN losses count for `total` only: the published
# attacks A_cls and A_reg take the losses of the final head.
REG = ('loss_bbox', 'loss_iou', 'loss_reg', 'loss_xy', 'loss_wh', 'loss_dfl')
TERMS = {'total': ('loss',), 'cls': ('loss_cls',), 'reg': REG}
TERMS['head'] = TERMS['cls'] + REG


def without_objects(sample: Any, model: nn.Module, seed: int) -> Any:
    """Return the sample with empty ground truth, and its objects in ``objects``."""
    sample.objects = sample.gt_instances
    sample.gt_instances = sample.gt_instances[:0]
    if 'ignored_instances' in sample:
        sample.ignored_instances = sample.ignored_instances[:0]
    return sample


def with_wrong_labels(sample: Any, model: nn.Module, seed: int) -> Any:
    """Return the sample with its classes shifted by one seeded number.

    Raises:
        NotApplicable: If the model has one class only.
    """
    sample.gt_instances.labels = wrong_labels(sample, model, seed)
    return sample


def named_classes(text: str | Sequence[str]) -> list[str]:
    """List the classes that a text names: ``'cat . dog .'``, or one string for each."""
    parts = text.split('. ') if isinstance(text, str) else text
    return [part for part in parts if part.strip('. ')]


def wrong_labels(sample: Any, model: nn.Module, seed: int) -> Tensor:
    """Shift the classes of a sample's objects by one seeded number, (N,).

    Raises:
        NotApplicable: If the model has one class only.
    """
    # A text that is told beside the image says which classes there are.
    named = 'text' in sample and hasattr(model, 'language_model')
    classes = len(named_classes(sample.text)) if named else num_classes(model)
    if classes < 2:
        raise NotApplicable(
            'An objective with wrong classes (mislabel, targeted) needs a model with '
            "two classes; use 'vanishing' or 'total'."
        )
    generator = torch.Generator().manual_seed(seed)
    shift = int(torch.randint(1, classes, (), generator=generator))
    return (sample.gt_instances.labels + shift) % classes


@dataclass(frozen=True)
class Objective:
    """Which losses are ascended, or descended, against which ground truth.

    Args:
        terms: Key of ``TERMS``: the losses that are summed.
        sign: 1 ascends the sum, -1 descends it.
        truth: Changes the ground truth of a copied sample: called with the sample, the
            model and a seed. ``None`` leaves it.
        balanced: Weight classification losses by class (:func:`balanced_classes`).
    """

    terms: str = 'total'
    sign: int = 1
    truth: Callable | None = None
    balanced: bool = False

    def losses_of(self, losses: dict) -> list[Tensor]:
        """Pick the losses that belong to this objective, one tensor each."""
        parts: list[Tensor] = []
        for key, value in losses.items():
            if self.terms != 'total' and 'rpn' in key:
                continue
            if any(term in key for term in TERMS[self.terms]):
                parts += value if isinstance(value, list) else [value]
        return parts


OBJECTIVES = {
    'total': Objective(),
    'cls': Objective('cls'),
    'reg': Objective('reg'),
    'cwa': Objective('head', balanced=True),
    'untargeted': Objective(),
    'vanishing': Objective(sign=-1, truth=without_objects),
    'fabrication': Objective(truth=without_objects),
    'mislabel': Objective(sign=-1, truth=with_wrong_labels),
}


def with_truth(sample: Any, model: nn.Module, name: str, seed: int) -> Any:
    """Copy a sample, with the ground truth that an objective is measured against.

    Args:
        sample: Data sample with ground truth at the scale of the input.
        model: The detector.
        name: One of ``OBJECTIVES``.
        seed: Seed of the choice of wrong labels.

    Raises:
        NotApplicable: If the objective is about boxes and there are none.
    """
    objective = OBJECTIVES[name]
    if (objective.truth or objective.balanced) and 'gt_instances' not in sample:
        raise NotApplicable(
            f"objective={name!r} is about boxes and this model has none; use 'total'."
        )
    sample = copy.deepcopy(sample)
    if objective.truth is None:
        return sample
    return objective.truth(sample, model, seed)


def sum_losses(losses: dict, name: str) -> Tensor:
    """Sum the losses that belong to an objective, as they are (without its sign).

    Args:
        losses: Losses as a model's ``loss()`` gives them: tensors or lists of tensors;
            names without ``loss`` (accuracies) do not count.
        name: One of ``OBJECTIVES``.

    Raises:
        NotApplicable: If the model has no such loss.
    """
    parts = OBJECTIVES[name].losses_of(losses)
    if not parts:
        raise NotApplicable(
            f'This model has no loss for objective={name!r}, only '
            f'{loss_names(losses) or "nothing"}; {advice(losses)}.'
        )
    return torch.stack([part.mean() for part in parts]).sum()


def loss_names(losses: dict) -> str:
    """Name the losses of a head for a sentence, those of all its stages once."""
    names = [name.rpartition('.')[2] for name in losses if 'loss' in name]
    return ', '.join(dict.fromkeys(names))


def advice(losses: dict) -> str:
    """Say which objectives there are losses for.

    Args:
        losses: Losses as a model's ``loss()`` gives them.

    Returns:
        Part of a sentence: ``use objective='total' or 'reg'``.
    """
    plain = ('total', 'cls', 'reg')
    usable = [repr(name) for name in plain if OBJECTIVES[name].losses_of(losses)]
    return f'use objective={" or ".join(usable) or repr("detections")}'


@dataclass
class Balance:
    """What :func:`balanced_classes` did, to be checked when the losses are known.

    Args:
        model: Name of the model's class.
        weighted: Number of classification losses that were weighted.
        unfit: Number of those that take no weight by label.
    """

    model: str
    weighted: int = 0
    unfit: int = 0

    def check(self, losses: dict) -> None:
        """Complain if the losses are not weighted.

        Args:
            losses: The losses that were taken meanwhile.

        Raises:
            NotApplicable: If there is no loss to weight by class, none that is called,
                or one that takes no labels.
        """
        if self.weighted and not self.unfit:
            return
        reason = f'found no classification loss of {self.model} to weight'
        if self.unfit:
            reason = (
                'weights classification losses by label, which that of '
                f'{self.model} does not take'
            )
        raise NotApplicable(
            f"objective='cwa' {reason} (its losses are {loss_names(losses)}); "
            f'{advice(losses)}.'
        )


@contextmanager
def balanced_classes(model: nn.Module, labels: Tensor) -> Iterator[Balance]:
    """Let frequent classes not dominate (class-wise attack, Chen et al. 2021).

    Each class of the image counts the same in the final head's classification losses:
    objects of class c weigh ``N / (C n_c)``, with N objects of C classes in the image,
    n_c of them of c; background weighs 1.

    Args:
        model: The detector; ``forward`` of its classification losses is replaced.
        labels: Classes of the objects in the image, (N,).

    Yields:
        What was found to weight; :meth:`Balance.check` complains if it was nothing.
    """
    present, counts = labels.unique(return_counts=True)
    balance = Balance(type(model).__name__)

    def balanced(
        forward: Callable, pred: Tensor, target: Any, *args: Any, **kwargs: Any
    ) -> Any:
        shown = target[0] if isinstance(target, tuple) else target
        weight = args[0] if args else kwargs.get('weight')
        fits = weight is None or weight.shape == shown.shape
        if shown.is_floating_point() or shown.ndim != 1 or not fits:
            balance.unfit += 1
            return forward(pred, target, *args, **kwargs)
        balance.weighted += 1
        share = pred.new_ones(shown.shape)
        for label, count in zip(present, counts):
            share[shown == label] = len(labels) / (len(present) * count)
        kwargs.pop('weight', None)
        weight = share if weight is None else weight * share
        return forward(pred, target, weight, *args[1:], **kwargs)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name.endswith('loss_cls') and 'rpn' not in name:
                forward = partial(balanced, module.forward)
                stack.enter_context(replaced(module, 'forward', forward))
        yield balance
