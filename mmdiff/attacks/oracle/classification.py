"""Questions to a classifier: one forward pass for the whole batch."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmdiff.utils.modules import seed_all, training_flags

from ..objectives.classification import OBJECTIVES
from .base import Oracle
from .question import Question


class ClassificationOracle(Oracle):
    """Answers about a classifier of mmpretrain.

    The model is asked in eval mode: its objective is a function of the logits that it
    gives at test time, and images do not influence each other. Ground truth is a label;
    ``gt_scale`` has no meaning.
    """

    task = 'classification'
    training = False

    def at_input_scale(self, sample: Any) -> Any:
        """Copy a data sample.

        Raises:
            ValueError: If it has no label, or several.
        """
        head = type(getattr(self.model, 'head', None)).__name__
        if head.startswith('MultiLabel'):
            raise ValueError(
                f'{head} tells several classes of an image, and the objectives of '
                'attacks are about one; attack a classifier with one class per image.'
            )
        if 'gt_label' not in sample or sample.gt_label.numel() != 1:
            raise ValueError(
                'An attack on a classifier needs one true class for each image; add '
                'gt_label to the data samples (PackInputs in the test pipeline).'
            )
        return copy.deepcopy(sample)

    def logits(self, batch: dict) -> Tensor:
        """Class logits of a preprocessed batch, (N, K), differentiable.

        Raises:
            ValueError: If the model has no head that gives them.
        """
        logits = self.model(batch['inputs'], mode='tensor')
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError(
                f'{type(self.model).__name__} gives no logits of shape (N, K) in mode '
                "'tensor'; give it a head of classes, as LinearClsHead."
            )
        return logits

    def prepare(self, question: Question) -> list:
        """Return the samples, with logits of the clean images where they are needed.

        One pass (``eot`` of them, averaged) for all images, counted as a query.
        """
        group, goal = question.group, question.objective
        if isinstance(goal, str) or not goal.needs_clean:
            return group.samples
        question.stats.queries += question.eot * len(group.ids)
        seed, passes = question.seed_of(group.ids[0], 'clean'), []
        with torch.no_grad(), training_flags(self.model, False):
            for k in range(question.eot):
                seed_all(seed + k)
                batch = self.preprocess(group.pixels, group.samples, group.frames)
                passes.append(self.logits(batch))
        samples = [sample.clone() for sample in group.samples]
        for sample, logits in zip(samples, torch.stack(passes).mean(0)):
            sample.set_field(logits, 'clean_logits')
        return samples

    def image_losses(self, batch: dict, seeds: Sequence[int], objective: Any) -> Tensor:
        labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
        logits = self.logits(batch)
        labels, clean = labels.to(logits.device), None
        if isinstance(objective, str):
            return OBJECTIVES[objective](logits, labels)
        objective.check(logits.shape[1])
        if objective.needs_clean:
            clean = torch.stack(
                [sample.clean_logits for sample in batch['data_samples']]
            )
        return objective(logits, labels, clean)
