_base_ = 'mmdet::_base_/default_runtime.py'

# Registers everything under the scope `mmdiff`.
custom_imports = dict(imports=['mmdiff'], allow_failed_imports=False)
