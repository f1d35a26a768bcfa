"""The generated demo set (python tools/make_toy_voc.py)."""

_base_ = './voc_128px.py'

where = dict(
    data_root='data/toy_voc/',
    data_prefix=dict(sub_data_root=''),
    metainfo=dict(
        classes=('disk', 'square', 'triangle', 'star', 'ring', 'cross'),
        palette=[
            (220, 20, 60),
            (0, 130, 200),
            (60, 180, 75),
            (245, 130, 48),
            (145, 30, 180),
            (0, 128, 128),
        ],
    ),
)
train_dataloader = dict(
    batch_size=4, dataset=dict(**where, ann_file='ImageSets/Main/train.txt')
)
val_dataloader = dict(dataset=dict(**where, ann_file='ImageSets/Main/val.txt'))
test_dataloader = val_dataloader
val_evaluator = dict(eval_mode='area')
test_evaluator = val_evaluator
del where
