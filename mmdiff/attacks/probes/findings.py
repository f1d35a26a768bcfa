"""What probes found, as numbers that a report keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class ObjectiveProbe:
    """What a few questions about one objective showed.

    Args:
        objective: Name of the objective.
        images: Images that were asked about.
        blocked: Those whose objective does not depend on the image for autograd.
        constant: Those whose objective changes by no more than rounding of float32.
        agreement: Correlation (about 0) of central differences with the gradient along
            the same directions, by the size of the difference in pixel values, as text.
            ``1`` is a perfect gradient.
        best_agreement: The same with differences of the size that suits each direction;
            ``None`` if blocked.
        steadiness: The same correlation of the smallest differences with larger ones:
            how smooth the objective is, whatever the gradient says.
        smoothness: The same of one random sum of each feature map, by name, or of the
            differences in the middle with the largest ones if that is more.
        gains: How many times larger than what changes of the image do the gradient of
            each feature map is, by name; without those that jump.
        parts: The same as ``best_agreement`` of one random sum of each feature map, and
            of each output of every head, by name; without those that jump.
        refines: Whether the model stops the gradient of reference points by design.
        grad_gap: Largest relative difference of an objective with gradients on and off.
        repeat_gap: Largest relative difference of an objective asked twice.
        noise_rise: By how much the luckiest of a few full noises raises it, mean
            over images, by budget.
        passes: Forward passes, each of one image; a gradient counts as one.
    """

    objective: str
    images: int = 0
    blocked: int = 0
    constant: int = 0
    agreement: dict[str, float] = field(default_factory=dict)
    best_agreement: float | None = None
    steadiness: float = 1.0
    smoothness: dict[str, float] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    refines: bool = False
    grad_gap: float = 0.0
    repeat_gap: float = 0.0
    noise_rise: dict[str, float] = field(default_factory=dict)
    passes: int = 0


@dataclass
class ModelProbe:
    """What a few questions about a model showed, whatever the objective.

    Args:
        images: Images that were asked about.
        fixed: Whether seeds fix what the model computes; else the gaps say nothing.
        repeat_gap: Largest relative difference of features in two passes with equal
            seeds.
        input_gap: Largest relative difference of what the preprocessor makes of an
            image in a test and under attack.
        grad_gap: The same of features with gradients on and off.
        flag_gap: The same of features, with the flags of a test and of an attack;
            ``None`` where their shapes differ, as of branches for training.
        test_gap: The same of features that ``test_step`` computes, or gives to its
            heads, and those that the loss is taken on; ``None`` where they cannot be
            compared.
        head_gap: The same of what heads make of equal features, in a test and for the
            loss: of the first of their outputs, which are scores.
        more_calls: How many more times a test asks a head on features than a loss does.
        blind_share: Share of the pixel values on which features have no gradient.
        blind_change: By how much features change when these values move by the whole
            budget, relative to the change when all do; of the worst image.
        truth_read: Images whose predictions change with the truth in their data sample.
        name_read: Images whose predictions change with the name of the image.
        stuck: Images whose predictions stay when the image is another one.
        objects: Objects of these images.
        objects_handed: Objects that were handed to the loss.
        objects_misplaced: Handed objects that overlap with no object of the metric's
            truth.
        objects_ignored: Objects that may move without any change of the loss.
        fit: Loss against the truth, relative to the loss against the truth at other
            scales, by scale as text; or that against boxes at such a scale elsewhere,
            if it is lower. Of images with objects the middle one.
        fit_classes: Loss of classes relative to that against other classes, by how far
            the numbers of all classes are shifted, as text.
        passes: Forward passes, each of one image.
    """

    images: int = 0
    fixed: bool = True
    repeat_gap: float = 0.0
    input_gap: float = 0.0
    grad_gap: float = 0.0
    flag_gap: float | None = None
    test_gap: float | None = None
    head_gap: float = 0.0
    more_calls: int = 0
    blind_share: float = 0.0
    blind_change: float = 0.0
    truth_read: int = 0
    name_read: int = 0
    stuck: int = 0
    objects: int = 0
    objects_handed: int = 0
    objects_misplaced: int = 0
    objects_ignored: int = 0
    fit: dict[str, float] = field(default_factory=dict)
    fit_classes: dict[str, float] = field(default_factory=dict)
    passes: int = 0


@dataclass
class Probes:
    """All that was probed in a run.

    Args:
        model: About the model.
        objectives: About each objective that an attack follows along gradients.
    """

    model: ModelProbe = field(default_factory=ModelProbe)
    objectives: list[ObjectiveProbe] = field(default_factory=list)

    def of(self, objective: str) -> ObjectiveProbe | None:
        """What was found about an objective; ``None`` if it was not asked."""
        probes = (probe for probe in self.objectives if probe.objective == objective)
        return next(probes, None)

    def summary(self) -> str:
        """Say in a sentence how well gradients agree; empty if none was probed."""
        agreements = [
            f'{probe.best_agreement:.3f} ({probe.objective})'
            for probe in self.objectives
            if probe.best_agreement is not None
        ]
        if not agreements:
            return ''
        return (
            'Gradients and what small changes of the image do have a correlation of '
            f'{", ".join(agreements)} on {self.objectives[0].images} images.'
        )

    def to_json(self) -> dict[str, Any]:
        """What a report keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Probes:
        """Read what :meth:`to_json` gave."""
        objectives = [ObjectiveProbe(**probe) for probe in raw['objectives']]
        return cls(ModelProbe(**raw['model']), objectives)
