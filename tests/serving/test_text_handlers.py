"""TorchServe's text classifier: cleaning, tokens, a vocabulary, and batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from satrap.errors import ArchiveError
from satrap.serving.context import Context, RequestProcessor
from satrap.serving.torch_handler.text_classifier import TextClassifier
from satrap.serving.torch_handler.text_tokens import (
    expand_contractions,
    get_tokenizer,
    ngrams_iterator,
    remove_accents,
)

VOCABULARY = {"good": 0, "bad": 1, "very": 2, "not": 3, "very good": 4, "do": 5, "it": 6, "is": 7, "cafe": 8}


def model(tokens: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    bag = torch.nn.functional.embedding_bag(tokens, torch.eye(16)[:, :2], offsets, mode="sum")
    return bag.detach()


def handler(folder: Path, vocabulary: Any = VOCABULARY) -> TextClassifier:
    torch.save(vocabulary, folder / "source_vocab.pt")
    (folder / "index_to_name.json").write_text(json.dumps({"0": "praise", "1": "blame"}))
    made = TextClassifier()
    made.initialize(Context("m", str(folder), {"model": {}}, 4, None, "0"))
    made.model = model
    return made


def ask(classifier: TextClassifier, *rows: dict[str, Any]) -> Any:
    assert classifier.context is not None
    classifier.context.request_processor = [RequestProcessor({}) for _ in rows]
    return classifier.handle(list(rows), classifier.context)


def test_a_batch_of_texts_is_one_forward(tmp_path: Path) -> None:
    answers = ask(
        handler(tmp_path),
        {"data": b"good"},
        {"body": "Bad, <b>BAD</b> and bad!"},
        {"data": bytearray(b"good bad")},
    )
    expected = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0])]
    for answer, sums in zip(answers, expected, strict=True):
        assert [answer["praise"], answer["blame"]] == pytest.approx(torch.softmax(sums, 0).tolist())


def test_what_becomes_of_a_text(tmp_path: Path) -> None:
    numbers = handler(tmp_path).numbers_of
    assert numbers({"data": "very good"}) == [2, 0, 4], "words, then pairs"
    assert numbers({"data": "I don't &amp; it's café"}) == [5, 3, 6, 7, 8]
    assert numbers({"data": "unknown good"}) == [0], "what a dict lacks is left out"
    assert handler(tmp_path, {**VOCABULARY, "<unk>": 9}).numbers_of({"data": "unknown good"}) == [9, 0, 9]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"data": b"\xff\xfe"}, "the input is not text in UTF-8"),
        ({"data": ["good"]}, "the input is list, not text"),
        ({"data": "nothing known"}, "no word of the text is in the model's vocabulary"),
        ({"other": "good"}, "it has 'other'"),
    ],
)
def test_a_request_without_a_text_alone_is_refused(row: Any, reason: str, tmp_path: Path) -> None:
    good, refused = ask(handler(tmp_path), {"data": "good"}, row)
    assert max(good, key=good.get) == "praise"
    assert (reason in refused.message, refused.error_code) == (True, 400)


def test_a_vocabulary_that_is_not_there_or_bad(tmp_path: Path) -> None:
    context = Context("m", str(tmp_path), {"model": {}}, 4, None, "0")
    with pytest.raises(ArchiveError, match=r"m: source_vocab\.pt is not in the archive"):
        TextClassifier().initialize(context)
    (tmp_path / "source_vocab.pt").write_bytes(b"nothing")
    with pytest.raises(ArchiveError, match=r"source_vocab\.pt: cannot be loaded"):
        TextClassifier().initialize(context)
    torch.save(VOCABULARY, tmp_path / "named.pt")
    named = Context("m", str(tmp_path), {"model": {"sourceVocab": str(tmp_path / "named.pt")}}, 4, None, "0")
    classifier = TextClassifier()
    classifier.initialize(named)
    assert classifier.source_vocab == VOCABULARY


class _Absent:
    def __reduce__(self) -> Any:
        return __import__, ("no_such_text_package",)


def test_a_vocabulary_of_a_package_that_is_not_installed(tmp_path: Path) -> None:
    torch.save(_Absent(), tmp_path / "source_vocab.pt")
    with pytest.raises(ArchiveError, match="needs the package no_such_text_package, which is not installed"):
        TextClassifier().initialize(Context("m", str(tmp_path), {"model": {}}, 4, None, "0"))


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("Don't", "Do not"),
        ("can't won't shan't", "cannot will not shall not"),
        ("Won't", "Will not"),
        ("they've you'll we're I'm she'd", "they have you will we are I am she would"),
        ("it's, that's", "it is, that is"),
        ("Ann's and the dogs'", "Anns and the dogs"),
        ("\u2018don\u2019t", "\u2018do not"),
        ("'tis", "it is"),
    ],
)
def test_contractions(text: str, expanded: str) -> None:
    assert expand_contractions(text) == expanded


def test_tokens() -> None:
    basic = get_tokenizer("basic_english")
    assert basic('He said: "Stop!" (twice), isn\'t it?<br />') == [
        *("he", "said", "stop", "!", "(", "twice", ")", ",", "isn", "'", "t", "it", "?")
    ]
    assert get_tokenizer(None)(" a  b ") == ["a", "b"]
    with pytest.raises(ValueError, match="no tokenizer 'spacy'"):
        get_tokenizer("spacy")
    assert list(ngrams_iterator(["a", "b", "c"], 3)) == ["a", "b", "c", "a b", "b c", "a b c"]
    assert remove_accents("Straße à la crème") == "Strae a la creme"
