_base_ = 'mmpretrain::_base_/default_runtime.py'

# Registers everything under the scope `mmdiff`.
custom_imports = dict(imports=['mmdiff'], allow_failed_imports=False)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
