"""Which attacks run on which detectors of mmdet: the table of docs/compatibility.md.

Each detector is built from mmdet's own config, with random weights, and every attack
takes one step on one small image. What is refused stands in the table with its
sentence.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import mmdet
import torch
from mmdet.models.backbones.trident_resnet import TridentConv
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.structures import InstanceData, PixelData
from rich.console import Console
from rich.progress import track

from mmdiff.attacks import DAG, PGD, Attack, NotApplicable, Square, oracle_of
from mmdiff.engine.ground_truth import truth_needed
from mmdiff.utils.files import whole_file

ATTACKS: dict[str, Attack] = {
    'total': PGD(steps=1),
    'cls': PGD(steps=1, objective='cls'),
    'reg': PGD(steps=1, objective='reg'),
    'cwa': PGD(steps=1, objective='cwa'),
    'vanishing': PGD(steps=1, objective='vanishing'),
    'fabrication': PGD(steps=1, objective='fabrication'),
    'mislabel': PGD(steps=1, objective='mislabel'),
    'detections': PGD(steps=1, objective='detections'),
    'targeted': PGD(steps=1, objective='targeted'),
    'Square': Square(steps=2),
    # Untrained heads show nothing: every box counts.
    'DAG': DAG(steps=1, active_iou=-1.0, active_score=-1.0, max_proposals=50),
}
# Family: config of mmdet.
FAMILIES = {
    'ATSS': 'atss/atss_r50_fpn_1x_coco',
    'AutoAssign': 'autoassign/autoassign_r50-caffe_fpn_1x_coco',
    'BoxInst': 'boxinst/boxinst_r50_fpn_ms-90k_coco',
    'Cascade R-CNN': 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco',
    'Cascade RPN': 'cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco',
    'CenterNet': 'centernet/centernet_r18_8xb16-crop512-140e_coco',
    'CenterNet (update)': 'centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco',
    'CentripetalNet': (
        'centripetalnet/centripetalnet_hourglass104_16xb6-crop511-210e-mstest_coco'
    ),
    'CondInst': 'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance',
    'Conditional DETR': 'conditional_detr/conditional-detr_r50_8xb2-50e_coco',
    'CornerNet': 'cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco',
    'CrowdDet': 'crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman',
    'DAB-DETR': 'dab_detr/dab-detr_r50_8xb2-50e_coco',
    'DDOD': 'ddod/ddod_r50_fpn_1x_coco',
    'DDQ DETR': 'ddq/ddq-detr-4scale_r50_8xb2-12e_coco',
    'Deformable DETR': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
    'DetectoRS': 'detectors/detectors_cascade-rcnn_r50_1x_coco',
    'DETR': 'detr/detr_r50_8xb2-150e_coco',
    'DINO': 'dino/dino-4scale_r50_8xb2-12e_coco',
    'Double heads': 'double_heads/dh-faster-rcnn_r50_fpn_1x_coco',
    'Dynamic R-CNN': 'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco',
    'DyHead': 'dyhead/atss_r50_fpn_dyhead_1x_coco',
    'Faster R-CNN': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
    'FCOS': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'FoveaBox': 'foveabox/fovea_r50_fpn_4xb4-1x_coco',
    'FreeAnchor': 'free_anchor/freeanchor_r50_fpn_1x_coco',
    'FSAF': 'fsaf/fsaf_r50_fpn_1x_coco',
    'GFL': 'gfl/gfl_r50_fpn_1x_coco',
    'GHM': 'ghm/retinanet_r50_fpn_ghm-1x_coco',
    'Grid R-CNN': 'grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco',
    'Guided anchoring': 'guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco',
    'HTC': 'htc/htc-without-semantic_r50_fpn_1x_coco',
    'LAD': 'lad/lad_r50-paa-r101_fpn_2xb8_coco_1x',
    'LD': 'ld/ld_r18-gflv1-r101_fpn_1x_coco',
    'Libra R-CNN': 'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco',
    'Mask R-CNN': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
    'Mask2Former': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco',
    'MaskFormer': 'maskformer/maskformer_r50_ms-16xb1-75e_coco',
    'MS R-CNN': 'ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco',
    'NAS-FCOS': 'nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco',
    'PAA': 'paa/paa_r50_fpn_1x_coco',
    'Panoptic FPN': 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco',
    'PISA': 'pisa/faster-rcnn_r50_fpn_pisa_1x_coco',
    'PointRend': 'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco',
    'QueryInst': 'queryinst/queryinst_r50_fpn_1x_coco',
    'RepPoints': 'reppoints/reppoints-moment_r50_fpn_1x_coco',
    'RetinaNet': 'retinanet/retinanet_r50_fpn_1x_coco',
    'RPN': 'rpn/rpn_r50_fpn_1x_coco',
    'RTMDet': 'rtmdet/rtmdet_tiny_8xb32-300e_coco',
    'SABL': 'sabl/sabl-retinanet_r50_fpn_1x_coco',
    'SCNet': 'scnet/scnet_r50_fpn_1x_coco',
    'Seesaw loss': 'seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1',
    'SOLO': 'solo/solo_r50_fpn_1x_coco',
    'SOLOv2': 'solov2/solov2_r50_fpn_1x_coco',
    'Sparse R-CNN': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco',
    'SSD': 'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco',
    'TOOD': 'tood/tood_r50_fpn_1x_coco',
    'TridentNet': 'tridentnet/tridentnet_r50-caffe_1x_coco',
    'VFNet': 'vfnet/vfnet_r50_fpn_1x_coco',
    'YOLACT': 'yolact/yolact_r50_1xb8-55e_coco',
    'YOLOF': 'yolof/yolof_r50-c5_8xb8-1x_coco',
    'YOLOv3': 'yolo/yolov3_d53_8xb8-320-273e_coco',
    'YOLOX': 'yolox/yolox_tiny_8xb8-300e_coco',
}
# Folders of mmdet's configs that have no row, by the reason.
WITHOUT_ROW = {
    'no detector of objects, or more than one image at a time': (
        'bytetrack clrnet deepsort mask2former_vis masktrack_rcnn ocsort qdtrack reid '
        'sort strongsort'
    ),
    'the classes are a text: ground truth alone does not name what to attack': (
        'glip grounding_dino mm_grounding_dino'
    ),
    'how a detector is trained, not which one: see the row of its detector': (
        'albu_example common gn gn+ws instaboost legacy_1.x misc resnet_strikes_back '
        'scratch selfsup_pretrain simple_copy_paste soft_teacher strong_baselines '
        'timm_example'
    ),
    'backbones, necks and RoI extractors: losses and predictions are those of the '
    'detector they are put in': (
        'carafe convnext dcn dcnv2 efficientnet empirical_attention fpg gcnet groie '
        'hrnet nas_fpn pafpn pvt regnet res2net resnest swin'
    ),
    'proposals are read from a file, none are made of the image': 'fast_rcnn',
    'data sets: see the row of the detector': (
        'cityscapes deepfashion dsdl lvis objects365 openimages pascal_voc v3det '
        'wider_face'
    ),
}
# DETR's relatives choose 900 queries among the cells of their features; DDOD has a
# kernel larger than the smallest level of a small image.
LARGE = {'DDOD': 384, 'DDQ DETR': 256, 'DINO': 256}
# Of all its boxes at once the head of Grid R-CNN keeps more than 24 GiB.
FEWER_BOXES = {
    FAMILIES['Grid R-CNN']: {
        'model.train_cfg.rcnn.max_num_grid': 2,
        'model.test_cfg.rcnn.max_per_img': 2,
        'model.test_cfg.rpn.max_per_img': 16,
    }
}
HEADER = """# What runs on which detector

Made by `python tools/compatibility.py` ({versions}): each detector from mmdet's
own config with random weights, one step of every attack on one image of {side} px
(larger for DINO and DDQ DETR, which choose 900 cells, and for DDOD; 16 proposals for
Grid R-CNN, whose head keeps more than 24 GiB for 1,000).

- `yes`: the attack changed the image, and its objective is a number. Of DAG: it found
  the boxes and their scores, which are those of the head, and ran; an untrained head
  may show no object to attack.
- A digit: the attack is refused with that sentence below.
- The columns from `total` to `targeted` are objectives of PGD; MIM and APGD take them
  too. `detections_fabrication` and `margin` run where `detections` does.

"""


@dataclass
class Table:
    """Rows by family, and the sentences that cells refer to."""

    rows: dict[str, list[str]] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    def refer(self, sentence: str) -> str:
        """Number of a sentence."""
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return str(self.sentences.index(sentence) + 1)

    def to_markdown(self) -> str:
        lines = ['| detector | ' + ' | '.join(ATTACKS) + ' |']
        lines.append('|---' * (len(ATTACKS) + 1) + '|')
        for family, cells in self.rows.items():
            lines.append(f'| {family} | ' + ' | '.join(cells) + ' |')
        lines.append('')
        lines += [f'{i}. {text}' for i, text in enumerate(self.sentences, 1)]
        missing = [family for family in FAMILIES if family not in self.rows]
        if missing:
            lines += ['', f'Not run for this table: {", ".join(missing)}.']
        lines += ['', "Folders of mmdet's configs without a row:", '']
        for reason, folders in WITHOUT_ROW.items():
            names = ', '.join(f'`{name}`' for name in folders.split())
            lines.append(f'- {reason}: {names}.')
        return '\n'.join(lines) + '\n'


def without_weights(config: object) -> None:
    """Remove what would be loaded from the network."""
    if isinstance(config, dict):
        if 'Pretrained' in str(config.get('init_cfg')):
            config['init_cfg'] = None
        if 'pretrained' in config:
            config['pretrained'] = None
        for value in config.values():
            without_weights(value)
    elif isinstance(config, list | tuple):
        for value in config:
            without_weights(value)


def build_detector(name: str) -> torch.nn.Module:
    """An mmdet detector with random weights, in eval mode."""
    cfg: Config = get_config(f'mmdet::{name}.py')
    without_weights(cfg.model)
    cfg.merge_from_dict(FEWER_BOXES.get(name, {}))
    if 'teacher_config' in cfg.model:  # a path from the root of mmdet's sources
        name = cfg.model.teacher_config.removeprefix('configs/')
        cfg.model.teacher_config = get_config(f'mmdet::{name}')
        without_weights(cfg.model.teacher_config.model)
    if 'teacher_ckpt' in cfg.model:
        cfg.model.teacher_ckpt = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for module in model.modules():  # mmdet leaves these as memory was
        if isinstance(module, TridentConv):
            torch.nn.init.kaiming_normal_(module.weight)
    model.eval()  # a detector with a teacher does not return itself
    return model


def make_batch(side: int, with_masks: bool, with_map: bool) -> dict:
    """One image with two objects, as a test pipeline gives it."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, side, side), generator=generator).byte()
    size = (side, side)
    meta = {'img_id': 0, 'img_shape': size, 'ori_shape': size, 'scale_factor': (1, 1)}
    meta['batch_input_shape'] = size
    # Of CenterNet's pipeline: no border was added.
    meta['border'] = (0, side, 0, side)
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.4, 0.3, 0.9, 0.9]]) * side
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0))
    if with_masks:
        masks = torch.zeros(2, side, side, dtype=torch.uint8)
        for mask, box in zip(masks, boxes.round().int().tolist()):
            mask[box[1] : box[3], box[0] : box[2]] = 1
        sample.gt_instances.masks = BitmapMasks(masks.numpy(), side, side)
    if with_map:
        sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, side, side).long())
    return {'inputs': [image], 'data_samples': [sample]}


def try_attack(attack: Attack, model: torch.nn.Module, batch: dict) -> str:
    """``'yes'``, or why not in one sentence."""
    try:
        with truth_needed(batch['data_samples'][0]):
            result = attack.run(oracle_of(model), batch)
    except NotApplicable as error:
        return str(error)
    except ValueError as error:
        return str(error) if 'ground truth' in str(error) else f'**{error}**'
    except Exception as error:  # the table is there to show these
        text = ' '.join(f'{type(error).__name__}: {error}'.split())[:160]
        if cannot_predict(model, batch):
            return f'mmdet itself cannot predict with this detector: {text}.'
        return f'**Not refused, but fails:** {text}'
    if not result.stats.changed and not isinstance(attack, DAG):
        return '**The attack left the image as it was.**'
    if any(loss != loss for loss in result.losses) and not isinstance(attack, DAG):
        return '**The objective is not a number.**'
    return 'yes'


def cannot_predict(model: torch.nn.Module, batch: dict) -> bool:
    """Whether the detector fails without any attack."""
    with torch.no_grad():
        try:
            model.test_step(batch)
        except Exception:
            return True
    return False


def try_family(family: str, side: int, table: Table) -> None:
    """Add the row of one family."""
    try:
        model = build_detector(FAMILIES[family])
    except Exception as error:  # a package that is not there, say
        text = ' '.join(str(error).split())[:160]
        cell = table.refer(f'mmdet cannot build it here: {text}')
        table.rows[family] = [cell] * len(ATTACKS)
        return
    # mmdet's RTMDet fails on masks that it does not need.
    names = ' '.join(name.lower() for name, _ in model.named_modules())
    side = LARGE.get(family, side)
    batch = make_batch(side, 'mask' in names, 'semantic' in names)
    answers = [try_attack(attack, model, batch) for attack in ATTACKS.values()]
    table.rows[family] = [
        answer if answer == 'yes' else table.refer(answer) for answer in answers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'families', nargs='*', help=f'default: all of {", ".join(FAMILIES)}'
    )
    parser.add_argument('--out', type=Path, help='Markdown file to write')
    parser.add_argument('--size', type=int, default=128, help='side of the image')
    args = parser.parse_args()
    if unknown := [name for name in args.families if name not in FAMILIES]:
        sys.exit(
            f'compatibility.py: there is no {unknown[0]!r}; choose from '
            f'{", ".join(FAMILIES)}.'
        )
    register_all_modules(init_default_scope=True)
    versions = f'mmdet {mmdet.__version__}, torch {torch.__version__}'
    header = HEADER.format(versions=versions, side=args.size)
    table = Table()
    for family in track(args.families or list(FAMILIES), 'attacking detectors'):
        try_family(family, args.size, table)
        if args.out is not None:  # each row as it comes: the run may be ended
            with whole_file(args.out) as partial:
                partial.write_text(header + table.to_markdown(), encoding='utf-8')
    if args.out is None:
        Console().print(header + table.to_markdown(), markup=False)


if __name__ == '__main__':
    main()
