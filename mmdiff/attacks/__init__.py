"""Attacks on any mm model, in pixel units, in front of its preprocessor.

Names are imported when they are first used: a report reads budgets and accounts of
attacks without torch.
"""

from mmdiff.utils.lazy import attach

_EXPORTS = {
    'APGD': 'apgd',
    'DAG': 'dag',
    'DetectionObjective': 'objectives.detections',
    'MIM': 'mim',
    'PGD': 'pgd',
    'Attack': 'attack',
    'AttackResult': 'result',
    'AttackStats': 'result',
    'Budget': 'budget',
    'ClassificationObjective': 'objectives.classification',
    'GradientAttack': 'iterative_attack',
    'GradientBlocked': 'errors',
    'IterativeAttack': 'iterative_attack',
    'Lagrange': 'objectives.lagrange',
    'Mask': 'masks',
    'NotApplicable': 'errors',
    'Oracle': 'oracle',
    'Perturbation': 'perturbation',
    'RandomNoise': 'random_noise',
    'Square': 'square',
    'StAdv': 'stadv',
    'TorchAttack': 'torch_attack',
    'Universal': 'universal',
    'UniversalFit': 'universal_fit',
    'oracle_of': 'oracle',
}
__all__ = list(_EXPORTS)

__getattr__, __dir__ = attach(__name__, _EXPORTS)
