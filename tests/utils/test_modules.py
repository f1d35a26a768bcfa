"""A model is put back as it was."""

import pytest
from torch import nn

from mmdiff.utils.modules import replaced


class Model(nn.Module):
    def predict(self):
        return 'method'


def test_a_replaced_method_is_the_class_s_own_afterwards():
    model = Model()
    with replaced(model, 'predict', lambda: 'other'):
        assert model.predict() == 'other'
    assert model.predict() == 'method' and 'predict' not in vars(model)


def test_what_a_user_had_put_in_its_place_comes_back():
    """A defence that is set on the instance is still there after an attack."""
    model = Model()
    model.predict = lambda: 'defended'
    with pytest.raises(KeyError), replaced(model, 'predict', lambda: 'other'):
        assert model.predict() == 'other'
        raise KeyError
    assert model.predict() == 'defended'


def test_a_submodule_in_its_place_comes_back():
    model = Model()
    model.loss_cls = nn.Identity()
    with replaced(model, 'loss_cls', lambda x: 2 * x):
        assert model.loss_cls(1) == 2
    assert model.loss_cls(1) == 1 and isinstance(model.loss_cls, nn.Identity)
