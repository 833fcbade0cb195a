"""Handlers of TorchServe's example kinds: an image classifier, digits, a text classifier, the base handler alone."""

import json

from torchserve_calls.call import Scenario
from torchserve_calls.scenarios.spelling import infer, manage, multipart, predict
from torchserve_calls.store import picture

__all__ = ["EXAMPLES"]

_JSON = [("Content-Type", "application/json")]
_TEXT = [("Content-Type", "text/plain")]
_IMAGE = multipart(("data", picture(), "kitten.png", "image/png"))
_DIGIT = bytes(range(0, 160, 10))

EXAMPLES = Scenario(
    "examples",
    [
        *(
            manage("POST", f"/models?url={name}.mar&initial_workers=1")
            for name in ("image", "digits", "sentiment", "base")
        ),
        infer("POST", "/predictions/image", picture(), note="raw"),
        infer("PUT", "/predictions/image", picture(), note="curl -T"),
        infer("POST", "/predictions/image", *_IMAGE, note="curl -F"),
        infer("POST", "/predictions/image", b"no image", note="no image"),
        predict("image", "", "image", data=picture()),
        predict("image", "", "no image", data=b"no image"),
        infer("POST", "/predictions/digits", _DIGIT),
        predict("digits", "", "digit", data=_DIGIT),
        infer("POST", "/predictions/digits", _DIGIT[:3], note="too few pixels"),
        infer("POST", "/predictions/sentiment", b"a wonderful film", _TEXT),
        infer("POST", "/predictions/sentiment", b"a boring bad film", note="bytes"),
        infer("POST", "/predictions/sentiment", json.dumps({"data": "good"}).encode(), _JSON, note="json"),
        predict("sentiment", data=b"a good film"),
        infer("POST", "/predictions/base", b"[[1.0, 2.0]]", _JSON, note="the base handler alone"),
        manage("GET", "/models/image"),
        manage("GET", "/models/digits?customized=true"),
    ],
)
