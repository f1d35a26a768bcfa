"""Denoising training of a prior; leaves set the network, the data and the length."""

_base_ = './mmdiff_runtime.py'

model = dict(
    type='mmdiff.DiffusionPretrainer',
    autocast='bfloat16',
    # mmengine's own: takes the samples of any mm dataset.
    data_preprocessor=dict(
        type='ImgDataPreprocessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
    ),
)
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
# Held-out images: leaves give a val_dataloader, or val_cfg = val_evaluator = None.
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
