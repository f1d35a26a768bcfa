"""The measures of one representation, by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from mmdiff.evaluation.representation.autoencoder import fit_autoencoder
from mmdiff.evaluation.representation.dimension import (
    SHARES,
    PrincipalAxes,
    classification_dimension,
    sizes_up_to,
)
from mmdiff.evaluation.representation.estimates import (
    estimate_mean,
    estimate_ratio,
    estimate_share,
    jackknife,
)
from mmdiff.evaluation.representation.frequency import (
    CUTOFFS,
    EDGES,
    radial_shares,
    share_above,
    white_share_above,
    white_shares,
)
from mmdiff.evaluation.representation.rank import (
    components_for,
    effective_rank,
    singular_values,
)
from mmdiff.evaluation.representation.results import (
    Above,
    Attacked,
    Dimension,
    DimensionResult,
    FrequencyResult,
    ProbeResult,
    RankResult,
    Similarity,
    SparseResult,
    SphereResult,
    ViewAlignment,
)
from mmdiff.evaluation.representation.similarity import cka_of_grams, gram
from mmdiff.evaluation.representation.sphere import alignment, uniformity
from mmdiff.evaluation.uncertainty import Bootstrap

from ..tap_search.probe import fit_probe
from .bench import VIEW, Bench

VARIANCE = 0.99


def measure_probe(bench: Bench) -> ProbeResult:
    """Score of a linear probe, clean and under PGD through the whole model."""
    probe, penalty = bench.probe
    (clean,) = bench.scores_of([probe])
    result = ProbeResult(
        metric=bench.task.metric,
        clean=estimate_share(clean, Bootstrap()),
        images=len(clean),
        penalty=penalty,
    )
    if not bench.settings.attack_eps:
        return result
    scores = bench.attacked['scores']
    first = clean[: scores.shape[1]]
    # What a smaller budget broke stays broken; no change is within every budget.
    worst = np.minimum.accumulate(np.concatenate([first[None], scores]))[1:]
    result.clean_of_attacked = estimate_share(first, Bootstrap())
    result.attacked = [
        Attacked(eps, estimate_share(each, Bootstrap()))
        for eps, each in zip(bench.settings.attack_eps, worst)
    ]
    result.attacked_images = len(first)
    account = bench.attacked['account'].tolist()
    result.gradients, result.zero_gradients, result.nonfinite_gradients = account
    return result


def measure_rank(bench: Bench) -> RankResult:
    """Effective rank, and components for 99 % of the variance."""
    features = bench.features['measured']
    count, width = features.shape
    singular = singular_values(features)
    notes = []
    if count <= width:
        notes.append(
            f'{count} images have {count - 1} directions at most, fewer than the '
            f'{width} features: the rank is that of these images, and grows with their '
            f'number; take more than {width} (--images).'
        )
    return RankResult(
        effective_rank=jackknife(
            lambda kept: effective_rank(singular_values(features[kept])),
            count,
            bench.settings.seed,
        ),
        components=components_for(singular, VARIANCE),
        limit=min(count - 1, width),
        images=count,
        spectrum=(singular / singular.sum()).round(8).tolist(),
        notes=notes,
    )


def measure_sphere(bench: Bench) -> SphereResult:
    """Alignment with augmented and adversarial views, and uniformity."""
    features, seed = bench.features['measured'], bench.settings.seed
    mean = features.mean(0)
    views = {'augmented': bench.views}
    if bench.settings.attack_eps and bench.tells_locations:
        for eps, seen in zip(bench.settings.attack_eps, bench.attacked['features']):
            views[f'adversarial, eps {eps:g}'] = seen
    alignments = []
    for name, seen in views.items():
        own = features[: len(seen)]
        raw, centred = alignment(own, seen), alignment(own - mean, seen - mean)
        estimates = [estimate_mean(each, Bootstrap()) for each in (raw, centred)]
        alignments.append(ViewAlignment(name, len(seen), *estimates))
    return SphereResult(
        uniformity=jackknife(
            lambda kept: uniformity(features[kept]), len(features), seed
        ),
        uniformity_centred=jackknife(
            lambda kept: uniformity(features[kept] - mean), len(features), seed
        ),
        images=len(features),
        alignment=alignments,
        notes=[],
    )


def measure_sparse(bench: Bench) -> SparseResult:
    """Reconstruction of unseen images by a sparse autoencoder."""
    settings = bench.settings.sparse
    fit = torch.from_numpy(bench.features['fit']).float()
    measured = torch.from_numpy(bench.features['measured']).float()
    fitted = fit_autoencoder(fit, settings)
    errors, totals = (each.numpy() for each in fitted.errors(measured))
    own_errors, own_totals = fitted.errors(fit)
    axes = PrincipalAxes.of(fit.numpy())
    dense = axes.unexplained(measured.numpy(), settings.active)
    notes = []
    if len(fit) < settings.latents:
        notes.append(
            f'{len(fit)} images to fit on are fewer than the {settings.latents} '
            'latents, which can then learn them by heart; take more (--fit-images).'
        )
    return SparseResult(
        unexplained=estimate_ratio(errors, totals, Bootstrap()),
        unexplained_fit=float(own_errors.sum() / own_totals.sum()),
        unexplained_dense=estimate_ratio(dense, totals, Bootstrap()),
        latents=settings.latents,
        active=settings.active,
        never_active=fitted.never_active,
        images=len(measured),
        fit_images=len(fit),
        notes=notes,
    )


def measure_dimension(bench: Bench) -> DimensionResult:
    """Principal components that a probe needs for shares of its score."""
    bench.check_probe()
    values = bench.rows_features
    _, rows = bench.loaded.rows(bench.settings.seed)
    axes = PrincipalAxes.of(values.numpy())
    directions = torch.from_numpy(axes.axes).float()
    mean = torch.from_numpy(axes.mean).float()
    codes = (values - mean) @ directions.T
    sizes = sizes_up_to(len(directions))
    probes, (whole, penalty) = [], bench.probe
    for size in sizes[:-1]:
        probe, _ = fit_probe(codes[:, :size], rows, bench.task.num_outputs, penalty)
        probes.append(_on_features(probe, directions[:size], mean, bench))
    # All components are all features: that probe is the linear probe itself.
    scores = bench.scores_of([*probes, whole])
    dimensions = [
        Dimension(share, classification_dimension(scores, sizes, share, Bootstrap()))
        for share in SHARES
    ]
    notes = []
    if len(values) <= values.shape[1]:
        notes.append(
            f'{len(values)} images to fit on have no more than {len(directions)} '
            f'components of {values.shape[1]} features; take more (--fit-images).'
        )
    return DimensionResult(
        metric=bench.task.metric,
        sizes=sizes,
        scores=scores.mean(1).round(6).tolist(),
        dimensions=dimensions,
        images=scores.shape[1],
        notes=notes,
    )


def _on_features(
    probe: nn.Conv2d, directions: torch.Tensor, mean: torch.Tensor, bench: Bench
) -> nn.Conv2d:
    """A probe of components as one of features."""
    joined = nn.Conv2d(directions.shape[1], probe.out_channels, 1)
    with torch.no_grad():
        weight = probe.weight[:, :, 0, 0] @ directions
        joined.weight.copy_(weight[:, :, None, None])
        joined.bias.copy_(probe.bias - weight @ mean)
    return joined.requires_grad_(False).to(bench.oracle.device)


def measure_frequency(bench: Bench) -> FrequencyResult:
    """Where in frequency gradients of the probe's loss to the image lie."""
    shares, above, white, white_rings, without = [], [], [], [], 0
    for gradient in bench.gradients():
        try:
            shares.append(radial_shares(gradient.numpy()))
        except ValueError:  # it is 0, or not finite
            without += 1
            continue
        above.append([share_above(gradient.numpy(), cutoff) for cutoff in CUTOFFS])
        size = gradient.shape[-2:]
        white.append([white_share_above(size, cutoff) for cutoff in CUTOFFS])
        white_rings.append(white_shares(size))
    if not shares:
        raise ValueError(
            'The gradients of all images are 0, so they have no frequency.'
        )
    of_cutoffs, of_white = np.array(above).T, np.mean(white, 0)
    notes = []
    if without:
        notes.append(f'{without} images are left out: their gradient is 0.')
    return FrequencyResult(
        above=[
            Above(cutoff, estimate_share(each, Bootstrap()), float(expected))
            for cutoff, each, expected in zip(CUTOFFS, of_cutoffs, of_white)
        ],
        edges=EDGES.tolist(),
        shares=np.mean(shares, 0).round(8).tolist(),
        white=np.mean(white_rings, 0).round(8).tolist(),
        images=len(shares),
        without=without,
        notes=notes,
    )


def measure_similarity(
    first: tuple[str, np.ndarray], second: tuple[str, np.ndarray], seed: int
) -> Similarity:
    """CKA of two representations: names, and features of the same images.

    Raises:
        ValueError: If one of them does not vary.
    """
    grams = gram(first[1]), gram(second[1])

    def debiased(kept: np.ndarray) -> float:
        one, other = (each[np.ix_(kept, kept)] for each in grams)
        return cka_of_grams(one, other)

    return Similarity(
        first[0],
        second[0],
        jackknife(debiased, len(grams[0]), seed),
        cka_of_grams(grams[0], grams[1], debiased=False),
    )


MEASURE: dict[str, Callable[[Bench], Any]] = {
    'probe': measure_probe,
    'rank': measure_rank,
    'sphere': measure_sphere,
    'sparse': measure_sparse,
    'dimension': measure_dimension,
    'frequency': measure_frequency,
}
# What they are, for a report.
DEFINITIONS = {
    'probe': 'linear probe, clean and under PGD (linf) through the whole model',
    'rank': 'exp of the entropy of singular values of centred features',
    'sphere': f'Wang and Isola 2020; augmented: {VIEW}; adversarial: PGD on the probe',
    'sparse': 'TopK autoencoder on pooled features, fraction of variance unexplained',
    'dimension': 'principal components for shares of the score of the linear probe',
    'frequency': "power of gradients of the probe's loss by radius in cycles per pixel",
    'cka': 'linear, HSIC_1 (Nguyen et al. 2021), on pooled features',
}
