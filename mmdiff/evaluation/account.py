"""What a row cost, what its attack did, and why not to believe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mmdiff.attacks import AttackStats

from .reading import known, number


@dataclass(frozen=True)
class Flag:
    """A reason not to believe a row.

    Args:
        code: One of :data:`mmdiff.evaluation.checks.CODES`; ``'other'`` for a sentence
            from a file of which no code is known.
        text: Sentence that names the row and the numbers.
    """

    code: str
    text: str


@dataclass
class Cost:
    """What a row cost, summed over its images.

    Args:
        seconds: Time spent, on all ranks together.
        grad_evals: Gradients computed.
        queries: Passes without a gradient.
        peak_mem: Most memory held, in bytes; on a CPU by the process until then.
    """

    seconds: float = 0.0
    grad_evals: int = 0
    queries: int = 0
    peak_mem: int = 0


@dataclass
class Broke:
    """What became of the objects of a set, in detections of at least some score.

    Shares are of all objects that count, and sum to 1.

    Args:
        score_threshold: Lowest score of a detection that is looked at.
        objects: Number of objects.
        right: Share with a detection of their class, at IoU 0.5 or more.
        wrong_class: Share with detections of other classes alone, at IoU 0.5 or more.
        moved: Share with a detection of their class at IoU 0.1 to 0.5, and no better.
        lost: Share with nothing of all this.
        false_per_image: Detections below IoU 0.1 with every object, per image.
        mean_iou: Mean IoU of those that are right; ``None`` if there are none.
        any_class_ap: AP at IoU 0.5 when all classes are one, at any score.
        intervals: Ends of the 95 % intervals of these over images, by name; older
            files have none.
    """

    score_threshold: float
    objects: int
    right: float
    wrong_class: float
    moved: float
    lost: float
    false_per_image: float
    mean_iou: float | None
    any_class_ap: float | None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Broke:
        """Read what ``asdict`` and JSON made of it.

        Raises:
            KeyError, TypeError, ValueError: If it is damaged.
        """
        names = [f.name for f in fields(cls) if f.name != 'intervals']
        values = {name: raw[name] for name in names}
        for name, value in values.items():
            if value is None and name in ('mean_iou', 'any_class_ap'):
                continue
            values[name] = int(value) if name == 'objects' else float(value)
        known = dict(raw.get('intervals', {}))
        intervals = {
            name: (float(low), float(high)) for name, (low, high) in known.items()
        }
        return cls(**values, intervals=intervals)


@dataclass
class Sanity:
    """What an attack did to the images, for the checks.

    Counts and sizes are those of :class:`mmdiff.attacks.AttackStats`, and some more:

    Args:
        images, max_delta, max_l2, pixel_min, pixel_max, losses: See there.
        max_flow, max_beyond: See there, too.
        padding_changed, asked_again, misreported: See there, too.
        blocked: Images whose gradient could not be had.
        returned_clean: Images that were given back clean after an attempt.
        changed, changed_share: Images of which a pixel changed, and their share.
        zero_grads, zero_share: Gradients that were all zero, and their share.
        nonfinite_grads, nonfinite_share: Gradients with NaN or infinity, and their
            share.
        mask_empty: Images that were left out, as a mask leaves no pixel of them.
        mask_share: Mean share of the pixels of an image that a mask leaves, those
            included; 1 without a mask.
        objective_ends: Mean objective of an image before and after the attack; ``None``
            if it has none.
    """

    images: int = 0
    blocked: int = 0
    changed: int = 0
    returned_clean: int = 0
    changed_share: float = 0.0
    max_delta: float = 0.0
    max_l2: float = 0.0
    max_flow: float = 0.0
    max_beyond: float = 0.0
    pixel_min: float = 255.0
    pixel_max: float = 0.0
    zero_grads: int = 0
    zero_share: float = 0.0
    nonfinite_grads: int = 0
    nonfinite_share: float = 0.0
    padding_changed: int = 0
    asked_again: int = 0
    misreported: int = 0
    mask_empty: int = 0
    mask_share: float = 1.0
    losses: dict[int, float] = field(default_factory=dict)
    objective_ends: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        stats: AttackStats,
        blocked: int = 0,
        objective_ends: tuple[float, float] | None = None,
        eot: int = 1,
    ) -> Sanity:
        """Read off the account of an attack.

        Args:
            stats: The account.
            blocked: Images whose gradient could not be had.
            objective_ends: See the class.
            eot: Passes behind each gradient: each counts as an evaluation, and only
                their mean can be zero.
        """
        names = {f.name for f in fields(cls)}
        known = {k: v for k, v in asdict(stats).items() if k in names}
        gradients = max(stats.grad_evals, 1)
        masked = max(stats.images + stats.mask_empty, 1)
        known['mask_share'] = 1 - stats.mask_hidden / masked
        return cls(
            **known,
            blocked=blocked,
            objective_ends=objective_ends,
            changed_share=stats.changed / max(stats.images, 1),
            zero_share=stats.zero_grads * eot / gradients,
            nonfinite_share=stats.nonfinite_grads / gradients,
        )

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Sanity:
        """Read what ``asdict`` and JSON made of it."""
        sanity = known(cls, raw)
        sanity.losses = {int(k): number(v) for k, v in sanity.losses.items()}
        if sanity.objective_ends is not None:
            start, end = sanity.objective_ends
            sanity.objective_ends = number(start), number(end)
        return sanity
