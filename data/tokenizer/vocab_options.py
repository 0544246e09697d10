"""The options of a vocabulary that is trained; imported without NumPy."""

from dataclasses import dataclass

from common.fields import check_settings, require, setting


@dataclass(frozen=True)
class VocabularyOptions:
    """The options of a vocabulary. With the corpus, they decide its tokens."""

    vocab_size: int = setting(30_522, "number of tokens", least=6, most=10_000_000)
    do_lower_case: bool = True
    strip_accents: bool = True
    num_unused: int = setting(0, "extra tokens [unused0], [unused1], … for your own use", least=0)
    min_frequency: int = setting(2, "how often two parts must occur together to merge", least=1)
    limit_alphabet: int | None = setting(
        None,
        "most characters in addition to ASCII's digits and symbols (default: the most common ones "
        "that make up 99.999% of the text)",
        least=1,
    )
    max_megabytes: int = setting(1000, "amount of text; a larger corpus is sampled", least=1)

    def __post_init__(self):
        check_settings(self)
        expected = f"below `vocab_size` ({self.vocab_size})"
        require(self.num_unused < self.vocab_size, "num_unused", expected, self.num_unused)
