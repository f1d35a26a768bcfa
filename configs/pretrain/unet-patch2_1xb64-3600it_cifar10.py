"""A class-conditional prior of CIFAR-10 at 32 px: 7.4 M parameters on patches of 2 px.

Data, as class folders: data/cifar10/train/{airplane,...}/*.jpg (and minitest).
"""

_base_ = '../_base_/pretrain.py'

model = dict(
    label_dropout=0.1,
    model=dict(
        source=dict(
            sample_size=16,
            in_channels=12,
            out_channels=12,
            block_out_channels=(64, 128, 192),
            down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'),
            up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
            attention_head_dim=32,
            attn_norm_num_groups=16,
            num_class_embeds=11,
            null_class=10,
        ),
        schedule=dict(shift=1.0),
    ),
)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        type='mmpretrain.CustomDataset',
        data_root='data/cifar10',
        data_prefix='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmpretrain.RandomFlip', prob=0.5),
            dict(type='mmpretrain.PackInputs', meta_keys=('img_path',)),
        ],
    ),
)
# Held-out images: 50 of each class.
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmpretrain.CustomDataset',
        data_root='data/cifar10',
        data_prefix='minitest',
        indices=list(range(0, 5000, 10)),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmpretrain.PackInputs', meta_keys=('img_path',)),
        ],
    ),
)
train_cfg = dict(max_iters=3600, val_interval=500)
# The rate falls over the last 1440 iterations.
param_scheduler = _base_.param_scheduler
param_scheduler[-1].update(begin=2160, end=3600)
