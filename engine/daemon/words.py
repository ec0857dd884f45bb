"""Words that one client says and others are shown: short, and nothing in them that a terminal would obey."""

LONGEST = 253
"""In characters: a host name's limit (RFC 1035, 2.3.4)."""


def check_word(field: str, word: str) -> None:
    """ValueError for a word that is too long or has characters that are not to be seen."""
    if len(word) > LONGEST or not (word.isprintable() or word == ""):
        raise ValueError(f"{field}: at most {LONGEST} characters, all of them visible")
