from .diffusion_fpn import DiffusionFPN

__all__ = ['DiffusionFPN']
