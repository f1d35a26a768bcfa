"""Images in class folders, flipped at random; children say where, and which classes."""

image_pipeline = [dict(type='LoadImageFromFile')]

train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmdiff.ClassFolders',
        data_prefix='train',
        pipeline=[
            *image_pipeline,
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdiff.ClassFolders',
        data_prefix='val',
        pipeline=[*image_pipeline, dict(type='PackInputs')],
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
del image_pipeline
