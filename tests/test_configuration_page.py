"""docs/configuration.md and docs/security.md say what the code does."""

import re
from pathlib import Path

import pytest
import yaml

from satrap.config import GlobalConfig
from satrap.serving.ts_keys import KEYS, NO_EFFECT

DOCS = Path(__file__).parents[1] / "docs"


def rows(page: str, heading: str) -> dict[str, str]:
    """The table below its heading row, key to the rest."""
    table = page.split(f"| {heading} |\n|---|---|\n")[1].split("\n\n")[0]
    return dict(re.fullmatch(r"\| `(.+?)` \| (.+) \|", line).groups() for line in table.splitlines())


def test_every_key_of_torchserve_is_described():
    page = (DOCS / "configuration.md").read_text()
    assert rows(page, "key | here") == KEYS
    assert rows(page, "key | why") == NO_EFFECT


@pytest.mark.parametrize("name", ["configuration.md", "security.md"])
def test_examples_are_configurations(name):
    examples = re.findall(r"```yaml\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    assert examples
    for example in examples:
        GlobalConfig.model_validate(yaml.safe_load(example))


@pytest.mark.parametrize("name", ["configuration.md", "security.md"])
def test_keys_that_are_named_exist(name):
    """Every `section.key` in the text is one of global_config.yaml."""
    page = (DOCS / name).read_text()
    named = re.findall(r"\b((?:serving|internal_tls|infer_config|updates|middleware)\.[a-z_.]+[a-z_])", page)
    document = yaml.safe_load((DOCS.parent / "global_config.yaml").read_text())
    document["infer_config"] = document["common_config"]["infer_config"]
    assert named
    for dotted in named:
        value = document
        for part in dotted.split("."):
            assert part in value, dotted
            value = value[part]
