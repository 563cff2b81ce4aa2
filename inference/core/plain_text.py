"""Text that others wrote (records, names of columns), made harmless for whoever reads it."""

import re

# Control characters of ASCII and Latin 1 (but tab and line feed), marks and overrides of the
# direction of writing, separators of lines, byte order marks, and halves of surrogate pairs.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def plain(text: str) -> str:
    r"""The text with characters that steer a terminal or turn the line written out, as `\x1b`.

    Whatever reaches a terminal or a page passes through here once or more often: a second time
    changes nothing.
    """
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
