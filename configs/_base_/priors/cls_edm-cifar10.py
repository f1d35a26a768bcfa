"""EDM's class-conditional prior of CIFAR-10 (DDPM++, VP) in a classifier.

It is asked without a class, at step 4 of 18 from the clean end and the 7th block of the
decoder, the best of DDAE's linear probes (Xiang et al. 2023).
tools/convert_checkpoint.py writes the folder from edm-cifar10-32x32-cond-vp.pkl.
"""

_base_ = './cls_inputs.py'

prior = dict(
    backbone=dict(
        _delete_=True,
        type='mmdiff.DiffusionUNet',
        model=dict(source='checkpoints/edm-cifar10-32x32-cond-vp'),
        sigma=0.0599,
        out_indices=('up.1.1',),
    ),
    head=dict(in_channels=256),
)
