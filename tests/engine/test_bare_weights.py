"""What is left of a training when its model is deployed."""

import copy

import pytest
import torch
from attacks.classifiers import make_classifier
from conftest import TINY_UNET
from safetensors.torch import load_file

from mmdiff import AlignedModel
from mmdiff.engine import export_weights


def test_exported_weights_are_those_of_the_bare_model(tmp_path):
    bare = make_classifier(num_classes=3)
    model = AlignedModel(
        dict(
            type='mmdiff.AdversarialModel',
            model=copy.deepcopy(bare),
            attack=dict(type='mmdiff.PGD', eps=8),
        ),
        dict(model=TINY_UNET, timestep=10, out_indices=('mid',)),
        dict(in_channels=64, hidden_channels=8),
    )
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c')), cfg='model = ...')
    saved = dict(state_dict=model.state_dict(), optimizer={}, meta=meta)
    torch.save(saved, tmp_path / 'epoch_1.pth')
    for name in ('bare.pth', 'bare.safetensors'):
        count = export_weights(tmp_path / 'epoch_1.pth', tmp_path / name)
        assert count == len(bare.state_dict())
    read = torch.load(tmp_path / 'bare.pth', weights_only=True)
    assert set(read) == {'state_dict', 'meta'} and 'cfg' not in read['meta']
    for state in (read['state_dict'], load_file(tmp_path / 'bare.safetensors')):
        again = make_classifier(num_classes=3)
        again.load_state_dict(state)  # strict
        for first, second in zip(again.parameters(), bare.parameters()):
            assert first.equal(second)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    torch.save({'weights': 1}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='has no state_dict; give a checkpoint'):
        export_weights(tmp_path / 'x.pth', tmp_path / 'out.pth')
    with pytest.raises(ValueError, match='must end with one of .pth'):
        export_weights(tmp_path / 'x.pth', tmp_path / 'out.bin')
    with pytest.raises(FileNotFoundError, match='There is no checkpoint'):
        export_weights(tmp_path / 'y.pth', tmp_path / 'out.pth')
