"""Where priors are found."""

import pytest

from mmdiff import DiffusionModel


def test_missing_folder_and_unreachable_hub(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='There is no folder'):
        DiffusionModel.from_pretrained(str(tmp_path / 'nothing'))
    with pytest.raises(FileNotFoundError, match='there are: .*mmdiff::toy_voc'):
        DiffusionModel.from_pretrained('mmdiff::nothing')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError, match='could not be fetched from the hub'):
        DiffusionModel.from_pretrained('owner/name', cache_dir=str(tmp_path))
