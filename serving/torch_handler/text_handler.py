"""TorchServe's `TextHandler`: what its handlers of English text share."""

import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from satrap.errors import ArchiveError
from satrap.serving.context import Context
from satrap.serving.torch_handler.refusals import RefusingHandler
from satrap.serving.torch_handler.text_tokens import (
    CLEANUP_REGEX,
    expand_contractions,
    get_tokenizer,
    remove_accents,
)

__all__ = ["TextHandler"]

_SOURCE_VOCABULARY = "source_vocab.pt"
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_UNKNOWN = "<unk>"


class TextHandler(RefusingHandler):
    """Has the archive's vocabulary and the steps that clean a text.

    The vocabulary is `source_vocab.pt` among the extra files, or the manifest's `sourceVocab`: a dict of token to
    number, or an object that is indexed by token, as torchtext's are (then torchtext has to be installed).
    """

    def __init__(self) -> None:
        """Nothing is loaded before `initialize`."""
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer = get_tokenizer("basic_english")

    def initialize(self, context: Context) -> None:
        """Load the model and the vocabulary.

        Raises:
            ArchiveError: there is no vocabulary, or it cannot be loaded.
        """
        super().initialize(context)
        self.initialized = False
        named = context.manifest.get("model", {}).get("sourceVocab")
        path = Path(named) if named else Path(self.get_source_vocab_path(context))
        try:
            # An archive's files are as trusted as its handler: both run code.
            self.source_vocab = torch.load(path, weights_only=False)
        except ModuleNotFoundError as error:
            raise ArchiveError(
                path.name,
                f"needs the package {error.name}, which is not installed; a dict of tokens does not",
            ) from error
        except Exception as error:  # torch raises many kinds for a bad file
            raise ArchiveError(path.name, f"cannot be loaded: {error}") from error
        self.initialized = True

    def get_source_vocab_path(self, ctx: Context) -> str:
        """Where the vocabulary is.

        Raises:
            ArchiveError: it is not in the archive.
        """
        path = Path(str(ctx.system_properties["model_dir"]), _SOURCE_VOCABULARY)
        if not path.is_file():
            raise ArchiveError(ctx.model_name, f"{_SOURCE_VOCABULARY} is not in the archive (--extra-files)")
        return str(path)

    def numbers(self, tokens: Iterable[str]) -> list[int]:
        """The tokens' numbers. One that a dict does not have is its `<unk>`, or left out where it has none."""
        vocabulary = self.source_vocab
        if not isinstance(vocabulary, Mapping):
            return [int(vocabulary[token]) for token in tokens]
        unknown = vocabulary.get(_UNKNOWN)
        found = (vocabulary.get(token, unknown) for token in tokens)
        return [int(number) for number in found if number is not None]

    def get_word_token(self, input_tokens: Iterable[str]) -> list[str]:
        """Tokens of a byte-pair tokenizer without its mark of a space."""
        return [token.replace("\u0120", "") for token in input_tokens]

    # The steps have TorchServe's names: handlers that derive from this class call them.

    def _expand_contractions(self, text: str) -> str:
        return expand_contractions(text)

    def _remove_accented_characters(self, text: str) -> str:
        return remove_accents(text)

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(_PUNCTUATION)

    def _remove_puncutation(self, text: str) -> str:
        return self._remove_punctuation(text)

    def _tokenize(self, text: str) -> list[str]:
        return self.tokenizer(text)
