"""The noised diffusion classifier on CIFAR-10: certified accuracy.

It is not trained: python tools/test.py CONFIG none. 110 copies of an image are about
10,000 passes of the U-Net.
"""

_base_ = './diffusion-classifier_cifar10-patch2_cifar10-folders.py'

model = dict(
    _delete_=True,
    type='mmdiff.SmoothedClassifier',
    classifier=dict(
        **_base_.model,
        # 0.25 of images in [0, 1]; also of the noise that votes are counted on.
        denoise_sigma=63.75,
    ),
    sigma=63.75,
    num_selection=10,
    num_copies=100,
)
test_evaluator = [
    dict(type='Accuracy', topk=(1,)),
    dict(type='mmdiff.CertifiedAccuracy', radii=(0, 32, 63.75)),
]
