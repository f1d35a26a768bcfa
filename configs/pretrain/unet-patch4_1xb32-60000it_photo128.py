"""A prior of photographs at 128 px: 21.8 M parameters on patches of 4 px.

12 thousand photographs without labels: VOC07 `train` and Imagenette `train` (shorter
side 160 px). Trained in stages: each starts from the exported weights of the one
before, with new optimizer state and a short warm-up; add up the crops of the stages
(their cards count steps and images a step). The aim is 2 million; the rate is to fall
in the last stage only. A stage starts from weights by

    --cfg-options model.model.source=mmdiff::photo128

and the first one from a prior of 157 thousand crops of VOC `train` alone, by
`model.model.source=data/priors/voc128_patch4`; without, it starts from random weights.
"""

_base_ = '../_base_/pretrain.py'

crop = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.RandomResizedCrop', scale=128, crop_ratio_range=(0.3, 1.0)),
    dict(type='mmpretrain.RandomFlip', prob=0.5),
    dict(type='mmpretrain.PackInputs', meta_keys=('img_path',)),
]
model = dict(
    autocast=None,
    num_levels=4,
    model=dict(
        source=dict(
            sample_size=32,
            in_channels=48,
            out_channels=48,
            block_out_channels=(64, 128, 192, 256),
            layers_per_block=2,
            down_block_types=(
                'DownBlock2D',
                'DownBlock2D',
                'AttnDownBlock2D',
                'DownBlock2D',
            ),
            up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D', 'UpBlock2D'),
            attention_head_dim=32,
        ),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
train_dataloader = dict(
    dataset=dict(
        type='ConcatDataset',
        # The sets name their classes differently, and no class is used.
        ignore_keys=['classes', 'palette', 'dataset_type'],
        datasets=[
            dict(
                type='VOCDataset',
                data_root='data/VOCdevkit/',
                ann_file='VOC2007/ImageSets/Main/train.txt',
                data_prefix=dict(sub_data_root='VOC2007/'),
                pipeline=crop,
            ),
            dict(
                type='mmpretrain.CustomDataset',
                data_root='data/imagenette160',
                data_prefix='train',
                with_label=False,
                pipeline=crop,
            ),
        ],
    ),
)
# Held-out images: every fifth of minival.
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VOCDataset',
        data_root='data/VOCdevkit/',
        ann_file='VOC2007/ImageSets/Main/minival.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        indices=list(range(0, 1250, 5)),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(128, 128), keep_ratio=False),
            dict(type='PackDetInputs', meta_keys=('img_id',)),
        ],
    ),
)
# An average from the first step on: the weights that a stage starts from are good.
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExponentialMovingAverage',
        momentum=0.001,
        update_buffers=False,
    ),
]
train_cfg = dict(max_iters=60_000, val_interval=2000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=200),
]
del crop
