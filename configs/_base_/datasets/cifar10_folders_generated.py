"""As cifar10_folders_crop.py, with 70 % of each batch from a prior (DM-AT).

python tools/sample_images.py PRIOR --num 1000000 --out data/cifar10-generated
"""

_base_ = './cifar10_folders_crop.py'

augment = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=512,
    num_workers=4,
    batch_sampler=dict(type='mmdiff.MixedBatchSampler', real_ratio=0.3),
    dataset=dict(
        _delete_=True,
        type='mmdiff.MixedDataset',
        real=_base_.train_dataloader.dataset,
        generated=dict(
            type='mmdiff.GeneratedDataset',
            data_root='data/cifar10-generated',
            pipeline=augment,
        ),
    ),
)
del augment
