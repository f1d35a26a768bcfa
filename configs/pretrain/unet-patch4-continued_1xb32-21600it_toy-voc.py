r"""The demo's prior, trained on at a constant rate.

Trained in stages: each starts from the exported weights of the one before, with new
optimizer state and a short warm-up; add up the images of the stages (their cards count
steps and images a step). The aim is 770 thousand, ten times those of the first
training. A stage starts from weights by

    --cfg-options model.model.source=mmdiff::toy_voc

Data, with held-out images:
    python tools/make_toy_voc.py --out data/toy_voc_prior --num-train 12000 \
        --num-val 250 --seed 1 --small
"""

_base_ = './unet-patch4_1xb32-2400it_toy-voc.py'

model = dict(autocast=None, num_levels=4)
val_dataloader = dict(
    batch_size=50,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VOCDataset',
        data_root='data/toy_voc_prior/',
        ann_file='ImageSets/Main/val.txt',
        data_prefix=dict(sub_data_root=''),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='PackDetInputs', meta_keys=('img_id',)),
        ],
    ),
)
val_evaluator = dict(_delete_=True, type='mmdiff.DenoisingLoss')
val_cfg = dict(_delete_=True, type='ValLoop')
# An average from the first step on: the weights that a stage starts from are good.
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExponentialMovingAverage',
        momentum=0.001,
        update_buffers=False,
    ),
]
train_cfg = dict(max_iters=21_600, val_interval=2000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=200),
]
