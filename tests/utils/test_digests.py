"""Names of contents."""

import hashlib
from functools import partial

import numpy as np
import torch

from mmdiff.utils.digests import digest_file, digest_json, digest_tensors


def test_a_file_has_the_digest_that_sha256sum_prints(tmp_path):
    content = bytes(range(256)) * 10_000  # more than one chunk
    (tmp_path / 'a').write_bytes(content)
    assert digest_file(tmp_path / 'a') == hashlib.sha256(content).hexdigest()


def test_settings_with_another_value_have_another_digest():
    assert digest_json({'a': [1, None]}) == digest_json({'a': [1, None]})
    assert digest_json({'a': [1, None]}) != digest_json({'a': [1, 0]})


def test_tensors_differ_by_name_and_by_value():
    a = torch.tensor(1.5, dtype=torch.bfloat16)
    assert digest_tensors([('a', a)]) == digest_tensors([('a', a.clone())])
    assert digest_tensors([('a', a)]) != digest_tensors([('b', a)])
    assert digest_tensors([('a', a)]) != digest_tensors([('a', -a)])


class Wordless:
    def __init__(self, size):
        self.size = size


def test_what_has_no_words_is_told_apart_by_class_and_attributes_not_address():
    assert digest_json([Wordless(1)]) == digest_json([Wordless(1)])
    assert digest_json([Wordless(1)]) != digest_json([Wordless(2)])


def test_functions_and_arrays_have_names_that_other_processes_give_them_too():
    assert digest_json(digest_json) == digest_json('mmdiff.utils.digests.digest_json')
    one, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1  # which str() leaves out
    assert digest_json(one) != digest_json(other)
    assert digest_json(partial(max, 1)) == digest_json(partial(max, 1))
    assert digest_json(partial(max, 1)) != digest_json(partial(max, 2))
