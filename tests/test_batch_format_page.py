"""docs/batch-format.md: its example writes a batch, and the keys that it lists are those that are read."""

import re
from pathlib import Path

from satrap.batch import decode
from satrap.batch.arrow_schema import ArrowFacts

PAGE = (Path(__file__).parent.parent / "docs/batch-format.md").read_text()


def test_the_example_writes_a_batch():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    decoded = decode(names["batch"])
    assert [part.tolist() for part in decoded.id_feature(0)[1:]] == [[10001, 10002], [0, 1, 2]]
    assert [part.tolist() for part in decoded.id_feature(1)[1:]] == [[7, 9, 7], [0, 3, 3]]
    assert [(name, array.tolist()) for name, array in decoded.non_id_features()] == [
        ("dense", [[0.5, 1.5], [2.5, 3.5]])
    ]


def test_every_key_is_listed():
    facts = ArrowFacts(roles=["id"], meta=b"m", requires_grad=True, batch_id=1)
    listed = set(re.findall(r"^\| `(satrap\.\w+)` \|", PAGE, re.MULTILINE))
    assert listed == {key.decode() for key in facts.to_metadata()}
