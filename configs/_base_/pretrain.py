"""Denoising training of a prior of the project: child configs set the network's widths
and blocks, the data, and the number of iterations.
"""

_base_ = './mmdiff_runtime.py'

model = dict(
    type='mmdiff.DiffusionPretrainer',
    autocast='bfloat16',
    model=dict(
        source=dict(
            type='UNet2DModel',
            layers_per_block=1,
            norm_num_groups=16,
            resnet_time_scale_shift='scale_shift',
        ),
        schedule=dict(
            beta_schedule='shifted_cosine', shift=0.5, prediction_type='v_prediction'
        ),
    ),
    # mmengine's own: takes the samples of any mm dataset.
    data_preprocessor=dict(
        type='ImgDataPreprocessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
    ),
)
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
)
train_cfg = dict(type='IterBasedTrainLoop')
# Constant after a warm-up, then linear to a hundredth. Child configs say when:
# `param_scheduler[-1].update(begin=..., end=...)`.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False),
]
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
# Held-out images: child configs give a val_dataloader, or set val_cfg and
# val_evaluator to None.
val_evaluator = dict(type='mmdiff.DenoisingLoss')
val_cfg = dict(type='ValLoop')
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.004,
        gamma=200,
        update_buffers=False,
    ),
    dict(type='mmdiff.SampleHook', num=20),
]
