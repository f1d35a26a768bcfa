r"""The prior that the package ships: patches of 4 px, strides 4 to 32, 128 px images.

Data (unlabelled; other images, and smaller shapes, than the detection set):
    python tools/make_toy_voc.py --out data/toy_voc_prior --num-train 12000 \
        --num-val 1 --seed 1 --small
"""

_base_ = '../_base_/pretrain.py'

model = dict(
    model=dict(
        source=dict(
            sample_size=32,
            in_channels=48,
            out_channels=48,
            block_out_channels=(64, 96, 128, 128),
            down_block_types=('DownBlock2D',) * 4,
            up_block_types=('UpBlock2D',) * 4,
            add_attention=False,
        ),
    )
)
train_dataloader = dict(
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
train_cfg = dict(max_iters=2400)
# The rate falls over the last 960 iterations.
param_scheduler = _base_.param_scheduler
param_scheduler[-1].update(begin=1440, end=2400)
