"""The structure of an HTML page, for tests."""

import collections
import html.parser
import re

_VOID = {"meta", "img", "input", "br", "link"}


class Page(html.parser.HTMLParser):
    """A parsed page, whose tags must be balanced.

    Attributes:
        tags: (name, attributes) of each element, in order.
        texts: the text of each element with an id, and of each kind of element, joined.
    """

    def __init__(self, source):
        super().__init__()
        self.tags, self.texts = [], collections.defaultdict(str)
        self._open = []
        self.feed(source)
        self.close()
        assert self._open == []
        # Neither other files nor the network.
        for _, attributes in self.tags:
            for name in ("src", "href", "action", "srcset"):
                assert attributes.get(name, "data:").startswith(("data:", "#"))
        assert not re.search(r"https?://|url\(|@import", source.replace("www.w3.org", ""))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for key in {key for opened in self._open for key in opened if key}:
            self.texts[key] += data

    def ids(self):
        """The ids of all elements, in order."""
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def count(self, tag):
        """How many elements of a kind there are."""
        return sum(name == tag for name, _ in self.tags)
