"""Token ids do not depend on the locale that a process runs in."""

import json
import os
import pathlib
import subprocess
import sys

from data.tokenizer.vocab_file import SPECIAL_TOKENS

ROOT = pathlib.Path(__file__).parents[3]
TEXTS = [
    "IT IS I, John Ingram's JIVE",
    "\u0130stanbul I\u0307 I\u0300 J\u0300 J\u0303 \u012e\u0301",
    "\u00ccma \u00cdma \u0128ma \u00cemin \u012aJ",
    "\u039f\u0394\u039f\u03a3 \u1e9e \u01c5",
]
PROGRAM = """
import json, sys
import tensorflow as tf
from data import ConvBertTokenizer
texts, vocab = json.load(sys.stdin)
rows = []
for options in ((True, True), (True, False), (False, False)):
    tokenizer = ConvBertTokenizer(vocab, *options)
    rows.append(tokenizer.tokenize(texts).to_list())
    rows.append(tf.function(tokenizer.tokenize)(tf.constant(texts)).to_list())
print(json.dumps(rows))
"""


def ids_in(locale, vocab):
    others = {name: text for name, text in os.environ.items() if not name.startswith("LC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([TEXTS, [*SPECIAL_TOKENS, *vocab]]),
        env=others | {"LC_ALL": locale, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_ids_are_the_same_in_every_locale():
    chars = {char for text in TEXTS for char in text + text.lower()} | set("i\u0131j\u0307")
    vocab = [f"{mark}{char}" for char in sorted(chars - {" "}) for mark in ("", "##")]
    expected = ids_in("C", vocab)
    assert [len(row) for row in expected] == [len(TEXTS)] * 6
    for locale in ("tr_TR.UTF-8", "lt_LT.UTF-8"):
        assert ids_in(locale, vocab) == expected, locale
