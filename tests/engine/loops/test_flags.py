import pytest

from mmdiff.attacks import PGD
from mmdiff.attacks.probes.findings import ModelProbe, ObjectiveProbe, Probes
from mmdiff.engine.loops.flags import check_step
from mmdiff.engine.loops.robust_plan import RobustPlan
from mmdiff.evaluation.entry import Entry, Sanity


@pytest.mark.parametrize(
    'left, codes',
    [
        ([0.0, 0.1, 0.0, 0.2], []),
        ([0.9, 0.8, 0.0, 0.7], ['objective_constant']),
        ([], ['objective_constant']),  # nobody kept scores of images
    ],
)
def test_a_constant_is_no_matter_where_nothing_is_left(left, codes):
    clean = Entry('clean', 'clean', 'clean', None, num_images=4)
    clean.metrics, clean.image_scores = {'pascal_voc/mAP': 0.9}, [0.9] * len(left)
    (step,) = RobustPlan([PGD(eps=8, steps=2)], 4, 4, 192).steps
    step.entry.metrics = {'pascal_voc/mAP': 0.5}
    step.entry.image_scores, step.entry.num_images = left, 4
    step.entry.sanity = Sanity(
        images=4, changed=4, changed_share=1.0, max_delta=8.0, pixel_max=255.0
    )
    probe = ObjectiveProbe('total', images=3, constant=3)
    flags = check_step(step, clean, Probes(ModelProbe(), [probe]))
    assert [flag.code for flag in flags if flag.code == 'objective_constant'] == codes
