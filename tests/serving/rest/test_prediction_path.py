"""Which paths are predictions, of which model and version."""

import pytest

from satrap.errors import ResourceNotFoundError
from satrap.serving.rest.prediction_path import Ping, Predict, Unsupported, parse_path
from satrap.serving.rest.request import segments_of


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/ping", Ping()),
        ("/ping/", Ping()),
        ("/ping/anything/at/all", Ping()),
        ("/predictions/m", Predict("m", "", "")),
        ("/predictions/m/", Predict("m", "", "")),
        ("/predictions/m///", Predict("m", "", "")),
        ("/predictions/m/1.0", Predict("m", "1.0", "")),
        ("/predictions/m/1.0/a", Predict("m", "1.0", "a")),
        ("/predictions/m/1.0/a/b//c/", Predict("m", "1.0", "a/b//c")),
        ("/predictions/m//x", Predict("m", "", "x")),
        ("/predictions//x", Predict("", "x", "")),
        ("/invocations", Predict(None, with_parameters=True)),
        ("/models/m/invoke", Predict("m", with_parameters=True)),
        ("/m/predict", Predict("m", with_parameters=True)),
        ("/m/2.0/predict", Predict("m", "2.0", with_parameters=True)),
        ("/v1/models/m:predict", Predict("m", url_path=None)),
        ("/v1/models/m:predict:x", Predict("m", url_path=None)),
        ("/v2/models/m/infer", Predict("m", url_path=None)),
        ("/explanations/m", Unsupported("explanations")),
        ("/explanations/m/1.0", Unsupported("explanations")),
        ("/v1/models/m:explain", Unsupported("explanations")),
        ("/v2/models/m/explain", Unsupported("explanations")),
        ("/wfpredict/m", Unsupported("workflows")),
        ("/", None),
        ("//ping", None),
        ("/Ping", None),
        ("/nowhere", None),
        ("/models", None),
        ("/models/m", None),
        ("/v1/models/m", None),
        ("/v2/models/m", None),
        ("/v2/models/m/ready", None),
        ("/a/b/c/predict", None),
    ],
)
def test_paths(path: str, asked: object) -> None:
    assert parse_path(segments_of(path)) == asked


@pytest.mark.parametrize(
    "path",
    [
        "/predictions",
        "/predictions/",
        "/explanations",
        "/invocations/m",
        "/models/m/1.0",
        "/models/m/predict",
    ],
)
def test_paths_that_begin_well(path: str) -> None:
    with pytest.raises(ResourceNotFoundError):
        parse_path(segments_of(path))
