"""PreAct-ResNet-20 behind likelihood maximisation (Chen et al. 2024, Algorithm 1).

Five steps down the denoising error, at times where sigma / alpha is 0.4 to 0.6, within
8/255 of the image.
"""

_base_ = './preact-resnet20_one-step-shield_cifar10-folders.py'

model = dict(
    purifier=dict(
        _delete_=True,
        type='mmdiff.LikelihoodMaximization',
        model=dict(source='mmdiff::cifar10_patch2'),
        condition=10,
    )
)
