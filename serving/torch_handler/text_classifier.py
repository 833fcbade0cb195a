"""TorchServe's `text_classifier`: a text in, the probabilities of its classes out."""

from typing import Any

import torch

from satrap.serving.label_mapping import map_class_to_label
from satrap.serving.prediction import PredictionException
from satrap.serving.torch_handler.refusals import row_value
from satrap.serving.torch_handler.text_handler import TextHandler
from satrap.serving.torch_handler.text_tokens import ngrams_iterator

__all__ = ["TextClassifier"]


class TextClassifier(TextHandler):
    """Answers a text with `{label: probability}` of all classes.

    The model takes what `torch.nn.EmbeddingBag` takes: the numbers of all tokens (words, and runs of up to `ngrams`)
    and where each text begins, so a batch is one forward. A request's input is called `data` or `body`.
    """

    ngrams = 2

    def preprocess(self, data: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """All texts' numbers, and where each text begins.

        Raises:
            PredictionException: no request has a text.
        """
        texts = self.accepted(data, self.numbers_of)
        begins = [0]
        for numbers in texts[:-1]:
            begins.append(begins[-1] + len(numbers))
        tokens = [number for numbers in texts for number in numbers]
        return torch.tensor(tokens, device=self.device), torch.tensor(begins, device=self.device)

    def numbers_of(self, row: Any) -> list[int]:
        """One text's numbers.

        Raises:
            PredictionException: it is no text, or none of its tokens is in the vocabulary.
        """
        text = row_value(row)
        if isinstance(text, bytes | bytearray):
            try:
                text = text.decode()
            except UnicodeDecodeError as error:
                raise PredictionException(f"the input is not text in UTF-8: {error}", 400) from error
        if not isinstance(text, str):
            raise PredictionException(f"the input is {type(text).__name__}, not text", 400)
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        text = self._remove_punctuation(self._remove_accented_characters(text))
        numbers = self.numbers(ngrams_iterator(self._tokenize(text), self.ngrams))
        if not numbers:
            raise PredictionException("no word of the text is in the model's vocabulary", 400)
        return numbers

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model with the numbers and where each text begins."""
        tokens, begins = data
        return super().inference(tokens, begins, *args, **kwargs)

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """One dict per text."""
        return list(map_class_to_label(torch.softmax(data, dim=-1).tolist(), self.mapping))
