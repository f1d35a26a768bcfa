"""Questions to a model before it is attacked, asked once and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import barrier
from mmengine.logging import MMLogger

from mmdiff.attacks import IterativeAttack, NotApplicable, Oracle
from mmdiff.attacks.objectives import objective_name
from mmdiff.attacks.probes import (
    Probes,
    probe_blind_pixels,
    probe_model,
    probe_noise,
    probe_objective,
    probe_predictions,
    probe_truth,
)
from mmdiff.utils.digests import digest_json
from mmdiff.utils.files import write_json

from .cached_runs import CachedRuns, code_of
from .robust_plan import Step

VERSION = 9  # of the questions
NUM_IMAGES = 3


def ask_once(runs: CachedRuns, oracle: Oracle, steps: Sequence[Step]) -> Probes:
    """Probe a model and every objective that an attack follows along its gradients.

    Answers are kept in the state folder of the model: a run that is resumed reads them.

    Args:
        runs: The runs, whose state folder is open.
        oracle: Oracle of the model.
        steps: The attacks.
    """
    attacks: dict[tuple, IterativeAttack] = {}
    for step in steps:
        if step.sees_gradients and step.attack.eps:
            key = objective_name(step.attack.objective), str(step.attack.budget)
            attacks.setdefault(key, step.attack)
    if not attacks:
        return Probes()
    span = range(min(NUM_IMAGES, len(runs.images)))
    code = [code_of(attack) for attack in attacks.values()]
    name = digest_json([VERSION, list(attacks), code, runs.image_names(span)])
    file = runs.folder / f'probes-{name}.json'
    if runs.rank == 0 and _read(file) is None:
        (batch,) = runs.images.load([span])
        runs.runner.logger.info(f'probing gradients and losses on {len(span)} images')
        write_json(file, ask(oracle, batch, list(attacks.values())).to_json())
    barrier()
    probes = _read(file)
    if probes is None:
        raise FileNotFoundError(
            f'Rank {runs.rank} does not see {file}; all ranks must share work_dir.'
        )
    runs.runner.logger.info(probes.summary())
    return probes


def _read(file: Path) -> Probes | None:
    """Read what was found; ``None`` if it is damaged or not there."""
    try:
        return Probes.from_json(json.loads(file.read_text(encoding='utf-8')))
    except (KeyError, OSError, TypeError, ValueError):
        return None


def ask(oracle: Oracle, batch: dict, attacks: Sequence[IterativeAttack]) -> Probes:
    """Ask all questions.

    Args:
        oracle: Oracle of the model.
        batch: A batch of a few images, as the dataloader gives it.
        attacks: One attack for each objective and budget, at least one.
    """
    model = probe_model(oracle, batch)
    probe_predictions(oracle, batch, model)
    probe_truth(oracle, batch, model)
    probe_blind_pixels(oracle, batch, attacks[0], model)
    probes = Probes(model)
    for attack in attacks:
        try:
            probe = probes.of(objective_name(attack.objective))
            if probe is None:
                probe = probe_objective(oracle, batch, attack)
                probes.objectives.append(probe)
            probe_noise(oracle, batch, attack, probe)
        except NotApplicable:  # attacks say so themselves
            continue
        except (AttributeError, IndexError, RuntimeError, TypeError) as error:
            # A model may be built in ways that a probe does not know: that costs the
            # checks of its gradients, not the run.
            MMLogger.get_current_instance().warning(
                f'The gradient of {objective_name(attack.objective)} was not probed '
                f'({type(error).__name__}: {error}): the checks by probes are missing '
                'for this objective.'
            )
    return probes
