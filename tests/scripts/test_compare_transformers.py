import sys

import pytest

from common.errors import InputError
from model.config import ConvBertConfig
from scripts import compare_transformers


@pytest.mark.peers
def test_transformers_opens_every_class_and_computes_the_same(tmp_path):
    config = ConvBertConfig.from_size("tiny", num_hidden_layers=2, initializer_range=0.08)
    _, rows = compare_transformers.compare(config, str(tmp_path), sys.executable)
    assert [row.name for row in rows] == list(compare_transformers.CLASSES)
    for row in rows:
        assert max(row.unpadded, row.padded, row.pipeline or 0) < 1e-4, row
        assert row.largest_value > 0.1
    assert sum(row.pipeline is not None for row in rows) == 4


def test_a_python_without_transformers_is_an_error(tmp_path):
    for python, message in (
        (tmp_path / "nowhere", r"--peer-python: .*nowhere"),
        ("false", "failed:"),
    ):
        with pytest.raises(InputError, match=message):
            compare_transformers.run_peer([], str(tmp_path), str(python))
