"""From English text to the tokens of TorchServe's text handlers: plain words, or torchtext's `basic_english`."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "CLEANUP_REGEX",
    "expand_contractions",
    "get_tokenizer",
    "ngrams_iterator",
    "remove_accents",
]

CLEANUP_REGEX = re.compile(r"<.*?>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
"""Tags and entities of HTML."""

_BASIC_ENGLISH = (
    (re.compile(r"'"), " '  "),
    (re.compile(r'"'), ""),
    (re.compile(r"\."), " . "),
    (re.compile(r"<br />"), " "),
    (re.compile(r","), " , "),
    (re.compile(r"\("), " ( "),
    (re.compile(r"\)"), " ) "),
    (re.compile(r"!"), " ! "),
    (re.compile(r"\?"), " ? "),
    (re.compile(r"[;:]"), " "),
)

# Whole words first: their expansions do not follow from the endings below.
_WORDS = {
    "ain't": "is not",
    "can't": "cannot",
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "shan't": "shall not",
    "won't": "will not",
    "y'all": "you all",
    "'cause": "because",
    "'tis": "it is",
    "'twas": "it was",
}
_ENDINGS = {
    "n't": " not",
    "'re": " are",
    "'ve": " have",
    "'ll": " will",
    "'d": " would",
    "'m": " am",
}
_IS = frozenset(
    ["it", "he", "she", "that", "this", "there", "here", "what", "when", "where", "who", "why", "how", "so"]
)
"""After these words `'s` is a verb; after others it is mostly a genitive, which stays."""

_WORD = re.compile(r"[A-Za-z]*'[A-Za-z]+")


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """The tokens, then every run of 2 to `ngrams` of them with spaces between."""
    yield from token_list
    for size in range(2, ngrams + 1):
        for start in range(len(token_list) - size + 1):
            yield " ".join(token_list[start : start + size])


def get_tokenizer(tokenizer: str | None, language: str = "en") -> Callable[[str], list[str]]:
    """`None` splits at white space; `basic_english` lowers letters and parts punctuation from words.

    Raises:
        ValueError: another tokenizer, or another language.
    """
    if tokenizer is None:
        return str.split
    if tokenizer != "basic_english" or language != "en":
        raise ValueError(
            f"no tokenizer {tokenizer!r} for {language!r}: there is None and 'basic_english' for 'en'"
        )
    return _basic_english


def _basic_english(line: str) -> list[str]:
    line = line.lower()
    for pattern, replacement in _BASIC_ENGLISH:
        line = pattern.sub(replacement, line)
    return line.split()


def expand_contractions(text: str) -> str:
    """`don't` becomes `do not`, and so on; apostrophes that remain are removed."""
    return _WORD.sub(lambda found: _expanded(found.group()), text.replace("\u2019", "'")).replace("'", "")


def _expanded(word: str) -> str:
    lowered = word.lower()
    if lowered in _WORDS:
        whole = _WORDS[lowered]
        return word[0] + whole[1:] if word[0].isalpha() else whole
    for ending, expansion in _ENDINGS.items():
        if lowered.endswith(ending) and len(word) > len(ending):
            return word[: -len(ending)] + expansion
    if lowered.endswith("'s") and lowered[:-2] in _IS:
        return word[:-2] + " is"
    return word


def remove_accents(text: str) -> str:
    """The letters without their marks; what is not ASCII then is left out."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
