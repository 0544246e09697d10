"""The arithmetic of models, counted by hand."""

from benchmarks.flops import encoder_flops, pretraining_flops
from model.config import ConvBertConfig, Objective


def test_a_count_by_hand():
    config = ConvBertConfig(
        vocab_size=100,
        embedding_size=6,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,  # two of each kind, of width 2: A = 4
        conv_kernel_size=3,
        linear_groups=2,
        intermediate_size=32,
    )
    layer = 3 * 8 * 4  # query, key, value
    layer += 2 * 10 * 4  # every position's scores, and their use
    layer += 8 * 4 + 8 * 4 + 4 * (2 * 3) + 4 * 3  # the convolution
    layer += 8 * 8  # output
    layer += 2 * (8 * 32 // 2)  # feed-forward, in two groups
    assert encoder_flops(config, 5, 10) == 2 * 5 * 10 * (2 * layer + 6 * 8)

    generator = config.generator(0.5)
    heads = 2 * 5 * (1 * (4 * 6 + 6 * 100) + 10 * (8 * 8 + 8))  # one masked position per row
    forward = heads + sum(encoder_flops(c, 5, 10) for c in (config, generator))
    objective = Objective(generator_hidden_size=0.5)
    assert pretraining_flops(config, objective, 5, 10) == 3 * forward


def test_published_sizes():
    config = ConvBertConfig.from_size("base", conv_type="noconv", head_ratio=1)
    layer = 4 * 768 * 768 + 2 * 128 * 768 + 2 * 768 * 3072
    assert encoder_flops(config, 1, 128) == 2 * 128 * 12 * layer
    flops = pretraining_flops(ConvBertConfig.from_size("medium-small"), Objective(), 16, 128)
    assert round(flops / 1e9) == 193


def test_other_objectives():
    config = ConvBertConfig.from_size("tiny")

    def forward(**objective):
        return pretraining_flops(config, Objective(**objective), 5, 10) // 3

    encoder, heads = encoder_flops(config, 5, 10), 2 * 5 * (128 + 30522) * 128
    detection = 2 * 5 * 10 * 129 * 128
    assert forward(electra_objective=False) == encoder + heads
    assert forward(uniform_generator=True) == encoder + detection
    assert forward(untied_generator=False) == 2 * encoder + heads + detection
