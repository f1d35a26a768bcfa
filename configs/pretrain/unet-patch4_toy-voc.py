r"""The prior that the package ships: patches of 4 px, strides 4 to 32, 128 px images.

Data (unlabelled; other images, and smaller shapes, than the detection set):
    python tools/make_toy_voc.py --out data/toy_voc_prior --num-train 12000 \
        --num-val 1 --seed 1 --small
"""

_base_ = '../_base_/pretrain.py'

model = dict(
    model=dict(
        source=dict(
            type='UNet2DModel',
            sample_size=32,
            in_channels=48,
            out_channels=48,
            block_out_channels=(64, 96, 128, 128),
            layers_per_block=1,
            down_block_types=('DownBlock2D',) * 4,
            up_block_types=('UpBlock2D',) * 4,
            add_attention=False,
            norm_num_groups=16,
            resnet_time_scale_shift='scale_shift',
        ),
        schedule=dict(
            beta_schedule='shifted_cosine', shift=0.5, prediction_type='v_prediction'
        ),
    )
)
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='VOCDataset',
        data_root='data/toy_voc_prior/',
        ann_file='ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root=''),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs', meta_keys=('img_id',)),
        ],
    ),
)
# The last weights, not an average of them: the run is short.
custom_hooks = []
val_cfg = val_evaluator = None
max_iters = 2400
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.01,
        by_epoch=False,
        begin=int(0.6 * max_iters),
        end=max_iters,
    ),
]
