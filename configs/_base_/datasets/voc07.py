"""PASCAL VOC 2007 at 128 px, train -> minival; the root has the standard layout."""

_base_ = './voc_128px.py'

where = dict(data_root='data/VOCdevkit/', data_prefix=dict(sub_data_root='VOC2007/'))
train_dataloader = dict(
    dataset=dict(**where, ann_file='VOC2007/ImageSets/Main/train.txt')
)
val_dataloader = dict(
    dataset=dict(**where, ann_file='VOC2007/ImageSets/Main/minival.txt')
)
test_dataloader = val_dataloader
del where
