"""A model is put back as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmdiff.utils.modules import no_dropout, replaced


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


def test_attention_drops_nothing_while_losses_are_taken():
    """Transformers' text encoders drop inside attention by their own flag."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 6, 4)
    mask = torch.randn(6, 6)
    plain = functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3)
    with no_dropout():
        attend = functional.scaled_dot_product_attention
        by_name = attend(q, k, v, attn_mask=mask, dropout_p=0.9, scale=0.3)
        by_place = attend(q, k, v, mask, 0.9, False, scale=0.3)
    assert torch.equal(by_name, plain) and torch.equal(by_place, plain)
    dropped = functional.scaled_dot_product_attention(q, k, v, mask, 0.9, scale=0.3)
    assert not torch.equal(dropped, plain)
