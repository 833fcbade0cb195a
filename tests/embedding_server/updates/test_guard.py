"""The guardrails: what is refused, and that the judgement depends on nothing but packet, configuration and limits."""

import inspect
from dataclasses import dataclass

import numpy as np
import pytest

from satrap._core import rows
from satrap.config import GuardrailsConfig
from satrap.embedding_server.updates.guard import judge, unjudged
from satrap.embedding_server.updates.packet import PacketPart, VerifiedPacket
from satrap.errors import ForeignConfigError, GuardrailError, MisroutedSignError, OrdinalRangeError
from satrap.formats.persia_checkpoint import ShardRoute

WHOLE = ShardRoute(0, 1)


@dataclass(frozen=True)
class Limit:
    rows: int
    norm_p999: float


def packet(*parts: PacketPart, ordinal: int = 7) -> VerifiedPacket:
    return VerifiedPacket("00000000000000000007-w.json", "s", ordinal, ordinal - 1, ordinal, parts)


def part(signs, rows, dim=2, dtype=np.float32) -> PacketPart:
    values = None if rows is None else np.array(rows, dtype)
    return PacketPart(dim, np.array(signs, np.uint64), values)


def check(candidate, *, route=WHOLE, row_dtype="float32", dims=(2,), limits=None, **bounds):
    judge(
        candidate,
        route=route,
        row_dtype=row_dtype,
        dims=dims,
        limits=limits or {},
        config=GuardrailsConfig(**bounds),
    )


def test_what_is_in_order_passes():
    check(packet(part([1, 2], [[1, 2], [3, 4]]), part([3], None)), max_norm=5.0)
    check(packet())
    check(packet(part([], np.zeros((0, 2)))))
    check(packet(part([1], [[1, 2]], dtype=np.float16)))
    check(packet(part([1], [[1, 2]])), dims=None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_must_be_finite(bad, dtype):
    values = np.ones((5, 2))
    values[3, 1] = bad
    with pytest.raises(GuardrailError, match=r"sign 13 \(dim 2, record 3\) is not finite"):
        check(packet(part(range(10, 15), values, dtype=dtype)))


def test_float16_tables_cannot_hold_what_float32_can():
    big = packet(part([5, 6], [[1, 1], [7e4, 0]]))
    check(big)
    with pytest.raises(GuardrailError, match=r"sign 6 .*float16"):
        check(big, row_dtype="float16")
    # A large norm of values that fit each.
    check(packet(part([5], [[6e4, 6e4]])), row_dtype="float16")


def test_the_norm():
    three = packet(part([1, 2], [[0, 1], [3, 4]]))
    check(three, max_norm=5.0)
    with pytest.raises(
        GuardrailError, match=r"sign 2 .* norm 5, above 4\.9 \(updates\.guardrails\.max_norm\)"
    ):
        check(three, max_norm=4.9)


def test_the_norm_over_the_checkpoints():
    three, limits = packet(part([1, 2], [[0, 1], [3, 4]])), {2: Limit(100, 1.0)}
    check(three, limits=limits, max_norm_over_checkpoint=5.0)
    with pytest.raises(GuardrailError, match=r"max_norm_over_checkpoint: 4\.5 times the 1 that"):
        check(three, limits=limits, max_norm_over_checkpoint=4.5)
    with pytest.raises(GuardrailError, match=r"max_norm\)"):  # the lower of the two
        check(three, limits=limits, max_norm_over_checkpoint=4.5, max_norm=4.0)


def test_the_share_of_rows_changed_is_of_the_checkpoints_rows():
    limits = {2: Limit(100, 1.0)}
    ten = packet(part(range(10), np.ones((10, 2))))
    check(ten, limits=limits, max_changed_share=0.1)
    with pytest.raises(GuardrailError, match=r"changes 11 rows of dim 2.*which is 10"):
        check(packet(part(range(11), np.ones((11, 2)))), limits=limits, max_changed_share=0.1)
    # Deletes change rows too; a sign that comes again does not change another one.
    with pytest.raises(GuardrailError, match="changes 11 rows"):
        check(
            packet(part(range(10), np.ones((10, 2))), part([5, 77], None)),
            limits=limits,
            max_changed_share=0.1,
        )
    check(packet(part([1] * 50, np.ones((50, 2)))), limits=limits, max_changed_share=0.1)


def test_a_shard_judges_its_share():
    route = ShardRoute(1, 2)
    signs = np.arange(400, dtype=np.uint64)
    own = rows.select(signs, None, 1, 2)[0][:11]
    limits = {2: Limit(200, 1.0)}
    check(packet(part(own[:10], np.ones((10, 2)))), route=route, limits=limits, max_changed_share=0.1)
    with pytest.raises(GuardrailError, match="changes 11 rows"):
        check(packet(part(own, np.ones((11, 2)))), route=route, limits=limits, max_changed_share=0.1)


def test_bounds_without_anything_to_compare_with_are_not_applied_and_said():
    many = packet(part(range(50), np.full((50, 2), 1e6)))
    bounds = {"max_norm_over_checkpoint": 2.0, "max_changed_share": 0.01}
    check(many, **bounds)
    check(many, limits={2: Limit(0, 0.0)}, **bounds)  # the first checkpoint of a job, without a row
    assert [sentence.split()[0] for sentence in unjudged(GuardrailsConfig(**bounds), {})] == [
        "updates.guardrails.max_norm_over_checkpoint",
        "updates.guardrails.max_changed_share",
    ]
    assert unjudged(GuardrailsConfig(**bounds), {2: Limit(1, 1.0)}) == []
    assert unjudged(GuardrailsConfig(max_norm=1.0), {}) == []


def test_dims_that_the_config_lacks():
    with pytest.raises(ForeignConfigError, match="rows of dim 2; the embedding config has dims 4, 8"):
        check(packet(part([1], [[1, 2]])), dims=(8, 4))
    with pytest.raises(ForeignConfigError, match="shape"):
        check(packet(part([1], [[1, 2, 3]])))


def test_signs_of_another_shard():
    with pytest.raises(MisroutedSignError, match="of another shard than 0 of 2"):
        check(packet(part(range(64), np.ones((64, 2)))), route=ShardRoute(0, 2))


@pytest.mark.parametrize("ordinal", [-1, 2**32])
def test_the_ordinal_must_fit(ordinal):
    with pytest.raises(OrdinalRangeError, match=str(ordinal)):
        check(packet(ordinal=ordinal))


def test_the_judgement_has_no_other_input():
    """No table, no clock: what was half applied before a crash, or when it happened, cannot change it."""
    assert set(inspect.signature(judge).parameters) == {
        "packet",
        "route",
        "row_dtype",
        "dims",
        "limits",
        "config",
    }
