import pytest

from mmdiff.utils import environment as stack


@pytest.mark.parametrize(
    'installed, found, words',
    [
        (stack.ONEDL + stack.OPENMMLAB, True, 'overwrite each other'),
        ((), False, 'mmdiff needs mmengine, mmcv, mmdet; install one family'),
        (stack.ONEDL, 'no ops', 'without its compiled ops'),
    ],
)
def test_what_is_missing_is_named(monkeypatch, installed, found, words):
    monkeypatch.setattr(
        stack, '_installed', lambda names: [n for n in names if n in installed]
    )
    monkeypatch.setattr(
        stack.importlib.util,
        'find_spec',
        lambda name: None if not found or (found == 'no ops' and '_ext' in name) else 1,
    )
    with pytest.raises(ImportError, match=words) as caught:
        stack.check_stack()
    assert '\n' not in str(caught.value)


def test_transformers_that_mmpretrain_cannot_take(monkeypatch):
    monkeypatch.setattr(stack, 'version', lambda name: '5.23.0')
    monkeypatch.setattr(
        stack, '_installed', lambda names: [n for n in names if n == 'transformers']
    )
    monkeypatch.setattr(stack.importlib.util, 'find_spec', lambda name: 1)
    with pytest.raises(ImportError, match="5.23.0; pip install 'transformers<5'"):
        stack.check_stack()
    monkeypatch.setattr(stack, 'version', lambda name: '4.57.6')
    stack.check_stack()


def test_this_stack_works():
    stack.check_stack()
