"""CIFAR-10 as class folders: data/cifar10/{train,minitest}/{airplane,...}/*.jpg."""

_base_ = './class_folders.py'

where = dict(
    data_root='data/cifar10',
    classes=(
        *('airplane', 'automobile', 'bird', 'cat', 'deer'),
        *('dog', 'frog', 'horse', 'ship', 'truck'),
    ),
)
train_dataloader = dict(dataset=where)
val_dataloader = dict(dataset=dict(where, data_prefix='minitest'))
test_dataloader = val_dataloader
del where
