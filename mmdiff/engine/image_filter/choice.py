"""Which images are kept, by what a classifier says of them: arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LABELS = ('prior', 'classifier')


@dataclass(frozen=True)
class Choice:
    """What is kept of a set of images.

    Args:
        indices: Numbers of the kept images, ascending, (M,) int64.
        labels: Their classes, (M,) int64.
        drawn: Of each class, how many there were, (K,) int64.
        agreed: Of these, how many the classifier takes for that class, (K,) int64.
        kept: Of these, how many are kept, (K,) int64.
    """

    indices: np.ndarray
    labels: np.ndarray
    drawn: np.ndarray
    agreed: np.ndarray
    kept: np.ndarray

    def counts(self) -> dict[str, list[int]]:
        """Numbers of images of each class, by name."""
        return {
            name: getattr(self, name).tolist() for name in ('drawn', 'agreed', 'kept')
        }

    def balance(self) -> str:
        """How even the classes are, in a sentence."""
        fewest, most = self.kept.min(), self.kept.max()
        return (
            f'{self.kept.sum()} of {self.drawn.sum()} images kept, {fewest} to {most} '
            f'of each of {len(self.kept)} classes (there were {self.drawn.min()} to '
            f'{self.drawn.max()}).'
        )


def choose(
    labels: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    keep: float,
    num_classes: int,
) -> Choice:
    """Keep the share of each class that a classifier is most confident of.

    Images that it takes for another class are not kept, so fewer than the share may
    be. Of equal confidence, the first is kept.

    Args:
        labels: Class of each image, (N,) int64: that of the prior, or the predicted.
        predicted: Class by the classifier, (N,) int64.
        confidence: Its probability of that class, (N,).
        keep: Share of the images of each class, above 0 and at most 1; rounded to
            whole images.
        num_classes: K.

    Raises:
        ValueError: For another share, or if nothing is kept of a class.

    Example:
        >>> labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
        >>> choice = choose(labels, predicted, np.array([0.5, 0.9, 1.0, 0.7]), 0.4, 2)
        >>> choice.indices.tolist(), choice.agreed.tolist()
        ([1, 3], [2, 1])
    """
    check_share(keep)
    agrees = predicted == labels
    drawn = np.bincount(labels, minlength=num_classes)
    agreed = np.bincount(labels[agrees], minlength=num_classes)
    chosen = []
    for label in range(num_classes):
        own = np.flatnonzero(agrees & (labels == label))
        order = own[np.argsort(-confidence[own], kind='stable')]
        # At least one: of few images a share may round to none.
        chosen.append(order[: max(1, round(keep * int(drawn[label])))])
    kept = np.array([len(part) for part in chosen])
    if not kept.all():
        none = np.flatnonzero(kept == 0)
        first = none[0]
        raise ValueError(
            f'Nothing would be kept of {len(none)} of {num_classes} classes, as class '
            f'{first}: of {drawn[first]} images the classifier takes {agreed[first]} '
            'for it; take a classifier of the same classes in the same order, or draw '
            'more images.'
        )
    indices = np.sort(np.concatenate(chosen))
    return Choice(indices, labels[indices], drawn, agreed, kept)


def check_share(keep: float) -> None:
    """Complain about what is no share.

    Raises:
        ValueError: If it is none.
    """
    if not 0 < keep <= 1:
        raise ValueError(
            f'keep={keep} is no share; give a number above 0, and at most 1 (all that '
            'the classifier agrees with).'
        )
