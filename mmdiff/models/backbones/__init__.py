from .diffusion_unet import DiffusionUNet

__all__ = ['DiffusionUNet']
