"""A linear layer on averaged features of a frozen prior."""

model = dict(
    type='ImageClassifier',
    backbone=dict(),  # a prior replaces it
    head=dict(type='mmdiff.PooledLinearClsHead', num_classes=10, topk=(1,)),
)
