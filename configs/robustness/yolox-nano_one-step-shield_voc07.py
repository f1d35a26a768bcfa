"""YOLOX-Nano behind a shield: each image is noised, and denoised by one prediction.

Noise of sigma / alpha = 0.16, in images of [-1, 1], is that of the timestep 51 of this
prior. The detector's own checkpoint is loaded, and its weights stay as they are.
"""

_base_ = './yolox-nano_coco-weights_voc07.py'

model = dict(
    _delete_=True,
    type='mmdiff.PurifiedModel',
    model=_base_.model,
    purifier=dict(
        type='mmdiff.OneStepDenoiser',
        model=dict(
            source='data/priors/voc128_patch4',
            schedule=dict(
                beta_schedule='shifted_cosine',
                shift=0.5,
                prediction_type='v_prediction',
            ),
        ),
        timestep=51,
    ),
)
