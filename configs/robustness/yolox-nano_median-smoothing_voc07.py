"""YOLOX-Nano certified by median smoothing, each noisy copy denoised in one step.

Noise of sigma = 0.08 in images of [0, 1] (20 of 255) is sigma / alpha = 0.16 in
[-1, 1], that of the timestep 51 of this prior. 64 copies are enough for the largest
radius, which is one sigma. The detector's own checkpoint is loaded. What is found on
the copies of an image is kept in state_dir: a test that was interrupted goes on.
"""

_base_ = './yolox-nano_one-step-shield_voc07.py'

model = dict(
    _delete_=True,
    type='mmdiff.SmoothedDetector',
    model=_base_.model.model,
    purifier=_base_.model.purifier,
    sigma=0.08,
    num_copies=64,
    radii=(0.02, 0.04, 0.08),
    batch_size=16,
    state_dir='work_dirs/yolox-nano_median-smoothing_voc07/copies',
)
test_dataloader = dict(batch_size=1)
test_evaluator = [_base_.test_evaluator, dict(type='mmdiff.CertifiedAP')]
default_hooks = dict(logger=dict(interval=1))
