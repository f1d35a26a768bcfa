"""The attention head on the features of a frozen prior."""

model = dict(
    type='ImageClassifier',
    head=dict(type='mmdiff.AttentionClsHead', num_classes=10, topk=(1,)),
)
