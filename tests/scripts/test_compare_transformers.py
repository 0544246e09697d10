import pytest

from model.config import ConvBertConfig
from scripts import compare_transformers


@pytest.mark.peers
def test_transformers_opens_every_class_and_computes_the_same():
    config = ConvBertConfig.from_size("tiny", num_hidden_layers=2, initializer_range=0.08)
    rows = compare_transformers.compare(config)
    assert [row.name for row in rows] == list(compare_transformers.KINDS)
    for row in rows:
        assert max(row.unpadded, row.padded, row.pipeline or 0) < 1e-4, row
        assert row.largest_value > 0.1
    assert sum(row.pipeline is not None for row in rows) == 4
