"""TrainCtx: what it publishes is what was committed, in order, once."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from satrap.config import EmbeddingConfig, GlobalConfig
from satrap.errors import ConfigError, ConflictError, InvalidInputError, UnknownFeatureError
from satrap.formats.manifest import Dense
from satrap.trainer import TrainCtx
from satrap.trainer.signs import feature_signs

USER, ITEM = 1 << 56, 2 << 56


def rows(n: int, value: float, dim: int = 4) -> np.ndarray:
    return np.full((n, dim), value, np.float32) + np.arange(n, dtype=np.float32)[:, None]


def test_a_packet_has_what_was_committed_last(train, published):
    ctx = train()
    ctx.commit("user", [1, 2, 3], rows(3, 1), event_time_ns=500)
    ctx.commit("user", [3, 3, 4], rows(3, 7), event_time_ns=400)
    ctx.commit("tags", [9], rows(1, 5, dim=2), event_time_ns=600)
    ctx.delete("user", [2, 77], event_time_ns=450)
    assert ctx.waiting_rows == 6
    assert ctx.flush() == 1
    assert (ctx.sequence, ctx.published, ctx.waiting_rows, ctx.row_count) == (1, 1, 0, 4)
    (manifest,) = published.manifests()
    assert (manifest.stream, manifest.writer, manifest.previous) == ("default", ctx.writer, 0)
    assert (manifest.oldest_event_ns, manifest.newest_event_ns) == (400, 600)
    assert {(entry.kind, entry.dim, entry.rows) for entry in manifest.files} == {
        ("rows", 4, 3),
        ("deletes", 4, 2),
        ("rows", 2, 1),
    }
    assert published.states()[1] == {
        (4, USER + 1): [1.0] * 4,
        (4, USER + 3): [8.0] * 4,
        (4, USER + 4): [9.0] * 4,
        (2, 3 * (1 << 56) + 9): [5.0] * 2,
    }


def test_without_a_change_nothing_is_published(train, published, packets):
    ctx = train()
    assert ctx.flush() == 0
    ctx.commit("user", [], np.empty((0, 4)))
    assert ctx.flush() == 0
    assert not packets.exists()
    assert published.states() == {0: {}}


def test_persias_rule_is_more_than_the_buffer_size(train, config, published):
    ctx = train(config(buffer_size=5))
    ctx.commit("user", range(5), rows(5, 0))
    ctx.commit("user", range(3), rows(3, 1))  # the same rows again are no more rows
    assert ctx.sequence == 0
    ctx.commit("item", [1], rows(1, 0))
    assert ctx.sequence == 1
    assert ctx.waiting_rows == 0
    ctx.flush()
    assert len(published.states()[1]) == 6


def test_the_time_rule_needs_no_further_call(train, config, published):
    ctx = train(config(seconds=0.01))
    ctx.commit("user", [1], rows(1, 0))
    with ctx._writer.lock:
        assert ctx._writer.lock.wait_for(lambda: ctx.published == 1, 30)
    ctx.commit("user", [2], rows(1, 0))
    with ctx._writer.lock:
        assert ctx._writer.lock.wait_for(lambda: ctx.published == 2, 30)
    assert [manifest.previous for manifest in published.manifests()] == [0, 1]


def test_no_packet_has_a_part_of_a_step(train, config, published):
    ctx = train(config(buffer_size=2, seconds=0.01))
    with ctx.step():
        ctx.commit("user", range(10), rows(10, 0))
        with ctx.step():
            ctx.commit("item", range(10), rows(10, 0))
        assert ctx.sequence == 0
        with pytest.raises(ConflictError, match=r"not within step\(\)"):
            ctx.flush()
        with pytest.raises(ConflictError, match=r"not within step\(\)"):
            ctx.dump()
        ctx.delete("tags", [1])
    assert ctx.sequence == 1
    ctx.flush()
    assert [manifest.records for manifest in published.manifests()] == [21]


def test_a_flush_waits_for_another_threads_step(train, published):
    ctx = train()
    inside, leave = threading.Event(), threading.Event()

    def step() -> None:
        with ctx.step():
            ctx.commit("user", [1], rows(1, 0))
            inside.set()
            leave.wait(30)
            ctx.commit("user", [2], rows(1, 0))

    thread = threading.Thread(target=step)
    thread.start()
    inside.wait(30)
    flusher = threading.Thread(target=ctx.flush)
    flusher.start()
    leave.set()
    thread.join(30)
    flusher.join(30)
    ctx.flush()
    assert [manifest.records for manifest in published.manifests()] == [2]


def test_steps_that_overlap_do_not_keep_a_due_packet_away(train, config):
    ctx = train(config(buffer_size=0))
    seen: list[int] = []

    def other() -> None:
        with ctx.step():
            seen.append(ctx.sequence)
            ctx.commit("user", [2], rows(1, 0))

    with ctx.step():
        ctx.commit("user", [1], rows(1, 0))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        assert seen == []  # a packet is due, so no other step begins before it is cut
    thread.join(30)
    assert seen == [1]
    assert ctx.flush() == 2


def test_a_step_that_fails_keeps_what_was_committed(train, published):
    ctx = train()
    with pytest.raises(ZeroDivisionError), ctx.step():
        ctx.commit("user", [1], rows(1, 0))
        raise ZeroDivisionError
    ctx.flush()
    assert len(published.states()[1]) == 1


def test_threads_whose_steps_overlap(train, config, published):
    ctx = train(config(buffer_size=7, seconds=0.01))

    def work(first: int) -> None:
        for i in range(50):
            with ctx.step():
                ctx.commit("user", [first + i], rows(1, i))
                ctx.commit("item", [first + i], rows(1, i))

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        ctx.flush()
    for thread in threads:
        thread.join(60)
    last = ctx.flush()
    states = published.states()
    assert len(states[last]) == 400
    for state in states.values():  # both rows of a step, or none
        users = {sign - USER for _, sign in state if sign < ITEM}
        assert users == {sign - ITEM for _, sign in state if sign >= ITEM}


def test_shards_are_as_many_as_told(train, config, checkpoints, packets, checkpoint_rows, published):
    ctx = train(config(num_shards=3, row_dtype="float16"))
    ctx.commit("user", range(100), rows(100, 0.5))
    ctx.dump()
    manifest = published.manifests()[0]
    assert manifest.shards == 3
    assert {(entry.shard, entry.dtype) for entry in manifest.files} == {(i, "float16") for i in range(3)}
    published.shards = 3
    (_, state) = published.full()[0]
    assert state == published.states()[1]
    assert len(state) == 100


def test_lookup(train):
    ctx = train()
    ctx.commit("user", [1, 2], rows(2, 3))
    ctx.delete("user", [2])
    vectors, found = ctx.lookup("user", [2, 1, 5])
    assert found.tolist() == [False, True, False]
    assert vectors.tolist() == [[0.0] * 4, [3.0] * 4, [0.0] * 4]


def test_a_feature_with_a_hash_stack_has_rows_by_bucket(train, published):
    ctx = train()
    buckets = ctx.buckets("wide", [2**63, 5])
    ctx.commit("wide", buckets, rows(4, 0))
    ctx.flush()
    assert len(published.states()[1]) == 4
    with pytest.raises(InvalidInputError, match="hash stack"):
        ctx.commit("wide", [2**63], rows(1, 0))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda ctx: ctx.commit("usr", [1], rows(1, 0)), UnknownFeatureError),
        (lambda ctx: ctx.commit("user", [1], rows(2, 0)), InvalidInputError),
        (lambda ctx: ctx.commit("user", [1], rows(1, np.nan)), InvalidInputError),
        (lambda ctx: ctx.commit("user", [-1], rows(1, 0)), InvalidInputError),
        (lambda ctx: ctx.commit("user", [1], rows(1, 0), event_time_ns=1.5), InvalidInputError),
        (lambda ctx: ctx.commit("user", [1], rows(1, 0), event_time_ns=-1), InvalidInputError),
        (lambda ctx: ctx.commit("user", [1], rows(1, 0), event_time_ns=True), InvalidInputError),
        (lambda ctx: ctx.delete("usr", [1]), UnknownFeatureError),
        (lambda ctx: ctx.lookup("usr", [1]), UnknownFeatureError),
        (lambda ctx: ctx.buckets("user", [1]), InvalidInputError),
    ],
)
def test_bad_input_changes_nothing(train, call, error, packets):
    ctx = train()
    with pytest.raises(error):
        call(ctx)
    assert (ctx.waiting_rows, ctx.row_count, ctx.flush()) == (0, 0, 0)
    assert not packets.exists()


def test_leaving_the_context_publishes_what_waits(train, published):
    with train() as ctx:
        ctx.commit("user", [1], rows(1, 0))
    assert len(published.states()[1]) == 1
    ctx.close()
    with pytest.raises(ConflictError, match="closed"):
        ctx.commit("user", [1], rows(1, 0))


def test_an_error_in_training_is_not_hidden_and_loses_nothing(train, published):
    with pytest.raises(ZeroDivisionError), train() as ctx:
        ctx.commit("user", [1], rows(1, 0))
        raise ZeroDivisionError
    assert len(published.states()[1]) == 1


def test_many_threads_commit(train, config, published):
    ctx = train(config(buffer_size=50, waiting_packets=1))

    def commit(first: int) -> None:
        for i in range(40):
            ctx.commit("user", [first + i, first + i + 1], rows(2, i))

    threads = [threading.Thread(target=commit, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    last = ctx.flush()
    manifests = published.manifests()
    assert [manifest.sequence for manifest in manifests] == list(range(1, last + 1))
    state = published.states()[last]
    assert len(state) == 4 * 41
    for n in range(4):
        assert state[4, USER + 1000 * n + 40] == [40.0] * 4


def test_a_dense_version_that_belongs_to_a_packet_is_in_its_manifest(train, published):
    ctx = train()
    ctx.commit("user", [1], rows(1, 0))
    ctx._writer.flush(Dense("ctr", "7"))
    assert published.manifests()[0].dense == Dense("ctr", "7")


def test_without_a_directory_only_dumps_write(tmp_path, embedding_config, config, checkpoint_rows):
    with TrainCtx(config(buffer_size=1), embedding_config) as ctx:
        ctx.commit("user", range(9), rows(9, 0))
        assert ctx.dump(tmp_path / "a").wait().sequence == 1
        assert ctx.dump(tmp_path / "b").wait().sequence == 1
        ctx.commit("user", [1], rows(1, 0))
        assert ctx.dump(tmp_path / "c").wait().sequence == 2
    assert len(checkpoint_rows(tmp_path / "c")) == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_the_configuration_says_where_things_go(tmp_path, embedding_config):
    path = tmp_path / "global_config.yaml"
    path.write_text(
        f"""
        common_config: {{infer_config: {{servers: [a, b], embedding_checkpoint: {tmp_path}/all}}}}
        embedding_parameter_server_config: {{enable_incremental_update: true, incremental_dir: {tmp_path}/inc}}
        trainer: {{stream: ads}}
        """
    )
    config_path = tmp_path / "embedding_config.yml"
    config_path.write_text("slots_config: {user: {dim: 4}}")
    with TrainCtx(path, str(config_path)) as ctx:
        ctx.commit("user", [1], rows(1, 0))
        handle = ctx.dump()
    assert ctx.stream == "ads"
    assert handle.url.startswith(f"{tmp_path}/all/00000000000000000001-")
    assert handle.wait().shards == 2
    assert len(list((tmp_path / "inc").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stream": "_ads"}, InvalidInputError, "letter or digit"),
        ({"stream": ""}, InvalidInputError, "letter or digit"),
        ({"stream": "a b"}, InvalidInputError, "letter or digit"),
        ({"stream": "a" * 65}, InvalidInputError, "letter or digit"),
        ({"writer": "a/b"}, InvalidInputError, "writer"),
        ({"writer": ""}, InvalidInputError, "writer"),
        ({"num_shards": 0}, InvalidInputError, "num_shards"),
        ({"num_shards": 70_000}, InvalidInputError, "num_shards"),
        ({"directory": "gopher://x"}, InvalidInputError, "gopher"),
    ],
)
def test_arguments_that_cannot_be(embedding_config, arguments, error, message):
    with pytest.raises(error, match=message):
        TrainCtx(GlobalConfig(), embedding_config, **arguments)


def test_a_config_file_that_is_not_there(tmp_path, embedding_config):
    with pytest.raises(ConfigError):
        TrainCtx(tmp_path / "none.yaml", embedding_config)


def test_torch_and_pyarrow_are_imported_when_they_are_needed():
    code = "import sys, satrap.trainer; sys.exit(bool({'torch', 'pyarrow', 'fsspec'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60).returncode == 0


operation = st.one_of(
    st.tuples(st.just("commit"), st.sampled_from(["user", "item"]), st.lists(st.integers(0, 12), max_size=6)),
    st.tuples(st.just("delete"), st.sampled_from(["user", "item"]), st.lists(st.integers(0, 12), max_size=6)),
    st.tuples(st.sampled_from(["flush", "dump"]), st.just(""), st.just([])),
)


@given(st.lists(operation, max_size=15), st.integers(0, 8))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_committed_is_what_servers_end_with(
    tmp_path_factory, config, embedding_config, checkpoint_rows, operations, buffer_size
):
    folder = tmp_path_factory.mktemp("trained")
    state: dict[tuple[int, int], list[float]] = {}
    signs = feature_signs(embedding_config, pytest.fail)
    dumps = []
    with TrainCtx(config(buffer_size=buffer_size), embedding_config, directory=folder / "packets") as ctx:
        for number, (what, feature, ids) in enumerate(operations):
            if what == "flush":
                ctx.flush()
            elif what == "dump":
                dumps.append((ctx.dump(folder / f"c{number}", blocking=False), dict(state)))
            elif what == "delete":
                ctx.delete(feature, ids)
                for sign in signs[feature].signs(ids).tolist():
                    state.pop((4, sign), None)
            else:
                vectors = rows(len(ids), number)
                ctx.commit(feature, ids, vectors)
                for sign, row in zip(signs[feature].signs(ids).tolist(), vectors.tolist(), strict=True):
                    state[4, sign] = row
        last = ctx.flush()
    from_packets = replay(folder)
    assert from_packets[last] == state
    for dump, then in dumps:
        manifest = dump.wait()
        assert checkpoint_rows(dump.url) == then == from_packets[manifest.sequence]


def replay(folder):
    from satrap.formats.packet import read_manifest, read_shard
    from satrap.formats.persia_checkpoint import ShardRoute
    from satrap.storage import open_storage

    storage = open_storage(folder / "packets")
    states: dict[int, dict] = {0: {}}
    names = [entry.name for entry in storage.list() if entry.name.endswith(".json")]
    for number, name in enumerate(names, 1):
        manifest = read_manifest(storage, name)
        assert (manifest.sequence, manifest.previous) == (number, number - 1)
        state = dict(states[number - 1])
        for dim, signs, values in read_shard(storage, manifest, ShardRoute()):
            for index, sign in enumerate(signs.tolist()):
                if values is None:
                    state.pop((dim, sign), None)
                else:
                    state[dim, sign] = values[index].tolist()
        states[number] = state
    return states


def test_the_embedding_config_may_be_loaded_already():
    config = EmbeddingConfig.model_validate({"slots_config": {"a": {"dim": 1}}})
    assert TrainCtx(GlobalConfig(), config).stream == "default"
