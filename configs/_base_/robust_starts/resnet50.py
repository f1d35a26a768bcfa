"""Start of a ResNet-50: weights of adversarial training on ImageNet, Linf 4/255.

Salman et al. 2020, https://huggingface.co/madrylab/robust-imagenet-models:

python tools/convert_checkpoint.py robust-resnet resnet50_linf_eps4.0.ckpt \\
    data/robust/resnet50_linf4.pth

They expect what ResNets of mm packages have: RGB with ImageNet's mean and std.
"""

robust_start = dict(
    type='Pretrained',
    checkpoint='data/robust/resnet50_linf4.pth',
    prefix='backbone.',
)
