"""Every scenario; each gets a server of its own."""

from torchserve_calls.call import Scenario
from torchserve_calls.scenarios.answers_of_handlers import ANSWERS, CRASHES, STREAM_FAILURES, STREAMS
from torchserve_calls.scenarios.examples import EXAMPLES
from torchserve_calls.scenarios.life_of_a_model import LISTS, MODEL_API_OFF, REGISTRATION, SCALING, VERSIONS
from torchserve_calls.scenarios.requests_to_handlers import DECODING_OFF, REQUESTS
from torchserve_calls.scenarios.surroundings import (
    METRICS,
    OTHER_SETTINGS,
    PATHS,
    STARTUP,
    TOKENS,
    URLS,
)

__all__ = ["SCENARIOS"]

SCENARIOS: tuple[Scenario, ...] = (
    REQUESTS,
    DECODING_OFF,
    ANSWERS,
    CRASHES,
    STREAMS,
    STREAM_FAILURES,
    EXAMPLES,
    REGISTRATION,
    VERSIONS,
    SCALING,
    LISTS,
    MODEL_API_OFF,
    STARTUP,
    URLS,
    PATHS,
    METRICS,
    TOKENS,
    OTHER_SETTINGS,
)
