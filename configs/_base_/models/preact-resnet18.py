"""PreAct-ResNet-18 for images of 32 px from files."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=10,
        mean=[125.307, 122.961, 113.858],
        std=[51.587, 50.847, 51.255],
        to_rgb=True,
    ),
    # The momentum of normalisation is DM-AT's.
    backbone=dict(type='mmdiff.PreActResNet', norm_cfg=dict(type='BN', momentum=0.01)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512, topk=(1,)),
)
