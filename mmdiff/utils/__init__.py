"""Helpers that know nothing of diffusion, attacks or detection.

Import the module you need (``mmdiff.utils.files``): some need torch or mmengine.
"""
