"""The attention head on the features of a frozen prior."""

model = dict(
    type='ImageClassifier',
    backbone=dict(),  # a prior replaces it
    head=dict(type='mmdiff.AttentionClsHead', num_classes=10, topk=(1,)),
)
