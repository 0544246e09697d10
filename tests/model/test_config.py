import json

import pytest

from common.errors import InputError
from common.fields import override
from model.config import MODEL_SIZES, ConvBertConfig, Objective, load_hparams


@pytest.mark.parametrize(
    ("size", "heads", "head_size", "generator"),
    [
        ("tiny", 2, 32, (64, 2, 1, 32)),
        ("small", 2, 64, (64, 1, 1, 64)),
        ("medium-small", 4, 48, (96, 2, 1, 48)),
        ("base", 6, 64, (256, 4, 2, 64)),
    ],
)
def test_heads_of_each_size_and_its_generator(size, heads, head_size, generator):
    config = ConvBertConfig.from_size(size)
    assert (config.num_heads, config.head_size) == (heads, head_size)
    smaller = config.generator(MODEL_SIZES[size].generator_hidden_size)
    assert generator == (
        smaller.hidden_size,
        smaller.num_attention_heads,
        smaller.num_heads,
        smaller.head_size,
    )
    assert smaller.intermediate_size == 4 * smaller.hidden_size


def test_transformers_can_represent_all_generators_but_the_small_one():
    refused = [
        size
        for size, row in MODEL_SIZES.items()
        if ConvBertConfig.from_size(size)
        .generator(row.generator_hidden_size)
        .transformers_incompatibility()
    ]
    assert refused == ["small"]


def test_hf_dict_round_trip():
    config = ConvBertConfig.from_size(
        "small", id2label=("no", "yes"), problem_type="regression", mask_padding=False
    )
    fields = json.loads(json.dumps(config.to_hf_dict("ConvBertModel")))
    assert fields["num_groups"] == 1
    assert fields["id2label"] == {"0": "no", "1": "yes"}
    assert ConvBertConfig.from_hf_dict(fields, "config.json") == config


def test_multiple_choice_from_transformers_uses_the_last_token():
    fields = {"architectures": ["ConvBertForMultipleChoice"]}

    def summary_type(**more):
        return ConvBertConfig.from_hf_dict(fields | more, "config.json").summary_type

    assert summary_type() == "last"
    assert summary_type(summary_type="first", summary_use_proj=False) == "first"
    assert summary_type(architectures=["ConvBertModel"], summary_use_proj=True) == "first"
    projection = {"summary_type": "first", "summary_use_proj": True}
    assert summary_type(**projection, summary_activation="gelu") == "first"
    for wrong, name in (
        (projection, "summary_activation"),
        (projection | {"summary_activation": "tanh"}, "summary_activation"),
        ({"summary_activation": "gelu"}, "summary_activation"),
        (
            projection | {"summary_activation": "gelu", "summary_proj_to_labels": True},
            "summary_proj_to_labels",
        ),
    ):
        with pytest.raises(InputError, match=f"`{name}` is .*ConvBertModel"):
            summary_type(**wrong)
    ours = ConvBertConfig(summary_type="last", beam_size=5).to_hf_dict("ConvBertForMultipleChoice")
    assert (ours["summary_type"], ours["beam_size"]) == ("last", 5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"summary_type": "mean"}, '`summary_type` must be one of "first", "last"'),
        ({"beam_size": 0}, "`beam_size` must be at least 1"),
        ({"hidden_sise": 1}, r"unknown hyper-parameter `hidden_sise`\. Did you mean `hidden_size`"),
        ({"hidden_size": "384"}, "`hidden_size` must be an integer"),
        ({"vocab_size": True}, "`vocab_size` must be an integer"),
        ({"mask_padding": 1}, "`mask_padding` must be true or false"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` must be at least 1"),
        ({"conv_kernel_size": 8}, "`conv_kernel_size` must be odd"),
        ({"hidden_act": "gleu"}, "`hidden_act` must be one of"),
        ({"conv_type": "noconv"}, "`head_ratio` must be 1 with conv_type"),
        ({"hidden_size": 100}, "`hidden_size` must be a multiple of `num_attention_heads`"),
        ({"linear_groups": 5}, "`hidden_size` must be a multiple of `linear_groups`"),
        ({"hidden_dropout_prob": 1.0}, "`hidden_dropout_prob` must be at least 0 and below 1"),
        ({"id2label": ["a"]}, "`id2label` must be one name for each of the 2 labels"),
    ],
)
def test_impossible_values_are_named(overrides, message):
    with pytest.raises(InputError, match=message):
        override(ConvBertConfig(), overrides)


def test_override_converts_types_that_json_lacks():
    config = override(ConvBertConfig(), {"hidden_dropout_prob": 0, "id2label": ["a", "b"]})
    assert config.hidden_dropout_prob == 0.0
    assert config.id2label == ("a", "b")


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("mask_prob", {"mask_prob": 1.5}),
        ("temperature", {"temperature": 0.0}),
        ("generator_layers", {"generator_layers": 0.0}),
        ("untied_generator_embeddings", {"uniform_generator": True}),
        ("untied_generator_embeddings", {"untied_generator": False}),
        ("uniform_generator", {"electra_objective": False}),
    ],
)
def test_impossible_objectives_are_named(name, overrides):
    with pytest.raises(InputError, match=f"`{name}` must be"):
        override(Objective(), {name: True} | overrides)


def test_load_hparams(tmp_path):
    path = tmp_path / "hparams.json"
    path.write_text('{"seed": 3}')
    assert load_hparams(str(path)) == load_hparams(' {"seed": 3}') == {"seed": 3}
    with pytest.raises(InputError, match="no such file"):
        load_hparams("nowhere.json")
    with pytest.raises(InputError, match="not JSON at line 1, column 9"):
        load_hparams('{"seed" 3}')
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"hparams\.json: expected a JSON object"):
        load_hparams(str(path))
