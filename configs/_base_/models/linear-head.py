"""A linear layer on averaged features of a frozen prior."""

model = dict(
    type='ImageClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, topk=(1,)),
)
