from .diffusion_unet import DiffusionUNet
from .pre_act_resnet import PreActResNet

__all__ = ['DiffusionUNet', 'PreActResNet']
