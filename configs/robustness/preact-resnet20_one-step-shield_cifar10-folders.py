"""PreAct-ResNet-20 behind a shield: each image is noised, then denoised in one step.

Noise of sigma / alpha = 0.16, in images of [-1, 1], is that of the timestep 100 of this
prior, which is asked without a class (10). The checkpoint is that of the bare network
(configs/adversarial_training/preact-resnet20_1xb128-2e_cifar10-folders.py).
"""

_base_ = '../adversarial_training/preact-resnet20_1xb128-2e_cifar10-folders.py'

model = dict(
    _delete_=True,
    type='mmdiff.PurifiedModel',
    model=_base_.model,
    purifier=dict(
        type='mmdiff.OneStepDenoiser',
        model=dict(source='mmdiff::cifar10_patch2'),
        condition=10,
        timestep=100,
    ),
)
test_dataloader = dict(batch_size=16)
