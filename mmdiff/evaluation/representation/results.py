"""What was measured of representations, as records that JSON holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mmdiff.evaluation.uncertainty import Bootstrap

from .estimates import Estimate

SCHEMA = 'mmdiff-representation/1'
# Share of gradients without a direction, from which an attacked score is doubtful.
HIDDEN = 0.1


@dataclass
class Attacked:
    """Worst score of probes within a budget.

    Args:
        eps: Budget in pixel units (linf).
        score: Mean score over images.
    """

    eps: float
    score: Estimate


@dataclass
class ProbeResult:
    """A linear probe, clean and under PGD through the whole model.

    Args:
        metric: What a score is.
        clean: Score on all images that are measured.
        images: Number of these.
        clean_of_attacked: Clean score on the images that are attacked; ``None``: none.
        attacked: Worst score within each budget, on these.
        attacked_images: Number of these, the first of all.
        penalty: Penalty of the probe's weights.
        gradients, zero_gradients, nonfinite_gradients: Account of the attack.
        notes: Sentences that belong to the numbers.
    """

    metric: str
    clean: Estimate
    images: int
    clean_of_attacked: Estimate | None = None
    attacked: list[Attacked] = field(default_factory=list)
    attacked_images: int = 0
    penalty: float = 0.0
    gradients: int = 0
    zero_gradients: int = 0
    nonfinite_gradients: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def hides_gradients(self) -> bool:
        """Whether so many gradients lead nowhere that the attack says little."""
        dead = self.zero_gradients + self.nonfinite_gradients
        return dead > HIDDEN * max(self.gradients, 1)


@dataclass
class RankResult:
    """How many directions are used.

    Args:
        effective_rank: Effective rank.
        components: Principal components with 99 % of the variance; no interval.
        limit: The highest rank that so many images can show, ``min(N - 1, d)``.
        images: Number of images, N.
        spectrum: Singular values over their sum, the highest first.
        notes: Sentences that belong to the numbers.
    """

    effective_rank: Estimate
    components: int
    limit: int
    images: int
    spectrum: list[float]
    notes: list[str] = field(default_factory=list)


@dataclass
class ViewAlignment:
    """Alignment of images with one kind of views of them.

    Args:
        view: ``'augmented'`` or ``'adversarial, eps 2'``.
        images: Number of images.
        raw: Of the features as they are.
        centred: Of the features less their mean over the clean images.
    """

    view: str
    images: int
    raw: Estimate
    centred: Estimate


@dataclass
class SphereResult:
    """Alignment and uniformity.

    Args:
        uniformity: Of the features as they are.
        uniformity_centred: Of the features less their mean.
        images: Number of images.
        alignment: With other views of the images.
        notes: Sentences that belong to the numbers.
    """

    uniformity: Estimate
    uniformity_centred: Estimate
    images: int
    alignment: list[ViewAlignment]
    notes: list[str] = field(default_factory=list)


@dataclass
class SparseResult:
    """Reconstruction by a sparse autoencoder.

    Args:
        unexplained: Fraction of variance unexplained on the images that are measured.
        unexplained_fit: The same on the images that it is fitted on.
        unexplained_dense: The same by as many principal components as there are active
            latents, on the images that are measured.
        latents, active: Numbers of latents, and of active ones.
        never_active: Share of latents that no image to fit on makes active.
        images, fit_images: Numbers of images.
        notes: Sentences that belong to the numbers.
    """

    unexplained: Estimate
    unexplained_fit: float
    unexplained_dense: Estimate
    latents: int
    active: int
    never_active: float
    images: int
    fit_images: int
    notes: list[str] = field(default_factory=list)


@dataclass
class Dimension:
    """Classification dimension for one share of the score.

    Args:
        share: Share of the score of the probe on all components.
        components: Smallest number of components that reaches it.
    """

    share: float
    components: Estimate


@dataclass
class DimensionResult:
    """How many principal components tell the classes.

    Args:
        metric: What a score is.
        sizes: Numbers of components.
        scores: Mean score of the probe on each.
        dimensions: The dimension for each share.
        images: Number of images.
        notes: Sentences that belong to the numbers.
    """

    metric: str
    sizes: list[int]
    scores: list[float]
    dimensions: list[Dimension]
    images: int
    notes: list[str] = field(default_factory=list)


@dataclass
class Above:
    """Share of energy above a frequency.

    Args:
        cutoff: In cycles per pixel.
        share: Mean share over images.
        white: The share that white noise of the same sizes has.
    """

    cutoff: float
    share: Estimate
    white: float


@dataclass
class FrequencyResult:
    """Energy of gradients of the probe's loss by frequency.

    Args:
        above: Share above each cut-off.
        edges: Radii of the rings, in cycles per pixel, (B + 1,).
        shares: Mean share of each ring, (B,).
        white: What white noise of the same sizes has, (B,).
        images: Number of images that count.
        without: Images left out, as their gradient is 0 or not finite.
        notes: Sentences that belong to the numbers.
    """

    above: list[Above]
    edges: list[float]
    shares: list[float]
    white: list[float]
    images: int
    without: int
    notes: list[str] = field(default_factory=list)


@dataclass
class Similarity:
    """CKA of two representations.

    Args:
        first, second: Their names.
        debiased: By the unbiased estimate of HSIC.
        biased: By the usual one.
    """

    first: str
    second: str
    debiased: Estimate
    biased: float


@dataclass
class Refused:
    """A measure that could not be taken.

    Args:
        refused: Why, in a sentence.
    """

    refused: str


Result = (
    ProbeResult
    | RankResult
    | SphereResult
    | SparseResult
    | DimensionResult
    | FrequencyResult
)
# By the names on the command line; ``cka`` is of pairs.
KINDS: dict[str, type] = {
    'probe': ProbeResult,
    'rank': RankResult,
    'sphere': SphereResult,
    'sparse': SparseResult,
    'dimension': DimensionResult,
    'frequency': FrequencyResult,
}
CKA = 'cka'


@dataclass
class Measured:
    """One representation, and what was measured of it.

    Args:
        name: Its name in tables.
        model: Name of the model.
        layer: Layer, or tap and time.
        pooling: How an image becomes one vector.
        dimensions: Number of features.
        results: By measure.
    """

    name: str
    model: str
    layer: str
    pooling: str
    dimensions: int
    results: dict[str, Any] = field(default_factory=dict)


@dataclass
class AnalysisResults:
    """All that an analysis knows.

    Args:
        about: Where it comes from: models, images, settings, versions.
        measures: Measures that were asked for.
        measured: Representations, in the order in which they were asked for.
        similarities: CKA of pairs of them.
        missing: What is not measured yet.
        refused: What cannot be compared, in a sentence; none: empty.
        finished: Whether nothing that was asked for is left to do.
    """

    about: dict[str, Any]
    measures: tuple[str, ...]
    measured: list[Measured]
    similarities: list[Similarity] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    finished: bool = False

    def of(self, measure: str) -> list[tuple[Measured, Any]]:
        """Representations with their result of one measure, where there is one."""
        kind = KINDS[measure]
        pairs = [(one, one.results.get(measure)) for one in self.measured]
        return [(one, result) for one, result in pairs if isinstance(result, kind)]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            'schema': SCHEMA,
            **self.about,
            'measures': list(self.measures),
            'complete': self.finished,
            'missing': self.missing,
            'intervals': {
                'level': Bootstrap().level,
                'bootstrap': asdict(Bootstrap()),
                'jackknife': 'delete one of 20 groups of images',
            },
            'representations': [asdict(one) for one in self.measured],
            'cka': [asdict(one) for one in self.similarities],
            'refused': self.refused,
        }
