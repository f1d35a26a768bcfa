"""mmdet's Faster R-CNN with light heads on 64 channels, for small images.

The neck of a child has to give these heads 64 channels at the strides 4 to 32:
`model['neck'].update(out_channels=64, out_strides=(4, 8, 16, 32))`.
"""

_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'

model = dict(
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[5], strides=(4, 8, 16, 32)),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=64,
            finest_scale=28,
            roi_layer=dict(sampling_ratio=2),
        ),
        # Boxes share their regression and convolutions: learns in few iterations.
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            conv_out_channels=64,
            in_channels=64,
            fc_out_channels=256,
            reg_class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)
