"""A prior of VOC photographs at 128 px: 14.3 M parameters on patches of 4 px."""

_base_ = '../_base_/pretrain.py'

model = dict(
    model=dict(
        source=dict(
            sample_size=32,
            in_channels=48,
            out_channels=48,
            block_out_channels=(64, 96, 192, 256),
            down_block_types=(
                'DownBlock2D',
                'DownBlock2D',
                'AttnDownBlock2D',
                'DownBlock2D',
            ),
            up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D', 'UpBlock2D'),
            attention_head_dim=32,
            attn_norm_num_groups=16,
        ),
    )
)
train_dataloader = dict(
    dataset=dict(
        type='VOCDataset',
        data_root='data/VOCdevkit/',
        ann_file='VOC2007/ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(160, 160), keep_ratio=False),
            dict(
                type='RandomCrop',
                crop_type='absolute_range',
                crop_size=(96, 160),
                allow_negative_crop=True,
            ),
            dict(type='Resize', scale=(128, 128), keep_ratio=False),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs', meta_keys=('img_id',)),
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
train_cfg = dict(max_iters=2200, val_interval=500)
# The rate falls over the last 550 iterations.
param_scheduler = _base_.param_scheduler
param_scheduler[-1].update(begin=1650, end=2200)
