"""Questions about the questions: does a model answer attacks as it answers tests?

Attacks believe gradients and losses. A probe asks the same model twice, in ways that
must agree: along gradients and by differences, with and without gradients, with the
flags of a test and those of an attack, with one object moved and without. What is
found are numbers; :mod:`mmdiff.evaluation.checks` says which are flagged.
"""

from mmdiff.utils.lazy import attach

_EXPORTS = {
    'ModelProbe': 'findings',
    'ObjectiveProbe': 'findings',
    'Probes': 'findings',
    'attack_and_look': 'returned',
    'look_at_returned': 'returned',
    'probe_blind_pixels': 'blind',
    'probe_model': 'flags',
    'probe_noise': 'noise',
    'probe_objective': 'objective',
    'probe_predictions': 'predictions',
    'probe_truth': 'truth',
}
__all__ = list(_EXPORTS)

__getattr__, __dir__ = attach(__name__, _EXPORTS)
