"""What is registered survives a restart, in TorchServe's own format."""

import asyncio
import contextlib
import errno
import json
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import javaproperties
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import ConfigError, ModelNotFoundError
from satrap.serving.query import Query
from satrap.serving.settings import ServingSettings
from satrap.serving.snapshot import Snapshot, VersionState, file_name, parse_snapshot, render_snapshot
from satrap.serving.snapshot_files import KEPT, SnapshotFiles
from satrap.serving.startup import register_startup_models
from satrap.serving.unrestored import Unrestored
from satrap.serving.version_spec import RegisterParameters

MOMENT = datetime(2026, 11, 20, 11, 28, 33, 803_000, tzinfo=UTC)

STATE = VersionState(
    version="1.0",
    archive="m.mar",
    is_default=True,
    min_workers=1,
    max_workers=2,
    batch_size=4,
    max_batch_delay=100,
    response_timeout=60,
    startup_timeout=90,
    runtime="python",
)

TORCHSERVE = r"""#Saving snapshot
#Fri Nov 20 11:28:33 UTC 2026
inference_address=http\://127.0.0.1\:8080
model_snapshot={\n  "name"\: "20261120112833803-snapshot.cfg",\n  "modelCount"\: 1,\n\
  "created"\: 1795174113803,\n  "models"\: {\n    "noop"\: {\n      "2.0"\: {\n\
        "defaultVersion"\: true,\n        "marName"\: "noop_v2.mar",\n\
        "minWorkers"\: 2,\n        "maxWorkers"\: 2,\n        "batchSize"\: 1,\n\
        "maxBatchDelay"\: 100,\n        "responseTimeout"\: 120,\n\
        "startupTimeout"\: 120,\n        "runtimeType"\: "python"\n      }\n    }\n  }\n}
load_models=ALL
"""


def test_it_is_torchserves_format() -> None:
    name = file_name("snapshot", MOMENT)
    assert name == "20261120112833803-snapshot.cfg"
    text = render_snapshot(Snapshot({"m": [STATE]}), name, MOMENT, {"inference_address": "http://[::1]:80"})
    properties = javaproperties.loads(text)
    assert properties["inference_address"] == "http://[::1]:80"
    assert json.loads(properties["model_snapshot"]) == {
        "name": name,
        "modelCount": 1,
        "created": 1795174113803,
        "models": {
            "m": {
                "1.0": {
                    "defaultVersion": True,
                    "marName": "m.mar",
                    "minWorkers": 1,
                    "maxWorkers": 2,
                    "batchSize": 4,
                    "maxBatchDelay": 100,
                    "responseTimeout": 60,
                    "startupTimeout": 90,
                    "runtimeType": "python",
                }
            }
        },
    }


def test_what_is_written_is_read() -> None:
    other = VersionState(
        version="ü 2", archive="n.mar", is_default=False, min_workers=0, max_workers=0, handler="h.py:go"
    )
    snapshot = Snapshot({"m": [STATE, other], "n": [other]})
    text = javaproperties.loads(render_snapshot(snapshot, "x", MOMENT, {}))["model_snapshot"]
    assert parse_snapshot(text, "x") == snapshot


def test_one_of_torchserve() -> None:
    parsed = parse_snapshot(javaproperties.loads(TORCHSERVE)["model_snapshot"], "x")
    (state,) = parsed.models["noop"]
    assert (state.version, state.archive, state.is_default) == ("2.0", "noop_v2.mar", True)
    assert (state.min_workers, state.max_workers, state.batch_size, state.handler) == (2, 2, 1, "")


def test_what_may_be_missing() -> None:
    parsed = parse_snapshot('{"models": {"m": {"1": {"marName": "a.mar", "minWorkers": 3}}}}', "x")
    (state,) = parsed.models["m"]
    assert (state.min_workers, state.max_workers, state.is_default, state.batch_size) == (3, 3, False, None)
    assert parse_snapshot("{}", "x") == Snapshot({})


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "model_snapshot: it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it has no mapping of models"),
        ('{"models": []}', "it has no mapping of models"),
        ('{"models": {"m": []}}', "models.m: it is not a mapping of versions"),
        ('{"models": {"m": {"1": 3}}}', "models.m: it is not a mapping of versions"),
        ('{"models": {"m": {"1": {}}}}', "models.m.1: it has no marName"),
        ('{"models": {"m": {"1": {"marName": 3}}}}', "marName is 3, not a string"),
        ('{"models": {"m": {"1": {"marName": "a", "minWorkers": -1}}}}', "minWorkers is -1"),
        ('{"models": {"m": {"1": {"marName": "a", "batchSize": 0}}}}', "batchSize is 0"),
        ('{"models": {"m": {"1": {"marName": "a", "batchSize": true}}}}', "batchSize is True"),
        ('{"models": {"m": {"1": {"marName": "a", "maxBatchDelay": "1"}}}}', "maxBatchDelay is '1'"),
    ],
)
def test_a_document_that_is_none(document: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        parse_snapshot(document, "x.cfg")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["models", "m", "1", "marName", "minWorkers", "maxWorkers", "batchSize", "handler"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_document_is_read_or_refused(document: Any) -> None:
    with contextlib.suppress(ConfigError):
        for versions in parse_snapshot(json.dumps(document), "x").models.values():
            for state in versions:
                assert state.archive and 0 <= state.min_workers <= state.max_workers


class TestUnrestored:
    def test_it_is_written_down_until_it_is_registered_or_given_up(self) -> None:
        unrestored = Unrestored()
        registered, other = replace(STATE, version="2.0"), replace(STATE, version="3.0", is_default=False)
        for model, state in [("m", STATE), ("n", STATE), ("n", other)]:
            unrestored.add(model, state)
        written = unrestored.added_to(Snapshot({"m": [registered]}))
        assert written == Snapshot(
            {"m": [replace(registered, is_default=False), STATE], "n": [STATE, other]}
        ), "one default"
        assert unrestored.forget("n", "3.0") and not unrestored.forget("n", "3.0")
        assert unrestored.forget("n") and not unrestored.forget("n")
        unrestored.default_chosen("m")
        assert unrestored.added_to(Snapshot({})) == Snapshot({"m": [replace(STATE, is_default=False)]})


class TestFiles:
    def test_the_newest_counts(self, tmp_path: Path, in_loop: Any) -> None:
        files = SnapshotFiles(tmp_path / "a" / "b", {"key": "value"})
        assert files.newest() is None
        in_loop(files.save(Snapshot({"m": [STATE]}), "startup"))
        in_loop(files.save(Snapshot({}), "snapshot"))
        in_loop(files.save(Snapshot({"n": [STATE]}), "shutdown"))
        path, snapshot = files.newest() or (Path(), None)
        assert snapshot == Snapshot({"n": [STATE]})
        assert re.fullmatch(r"\d{17}-shutdown\.cfg", path.name)
        assert javaproperties.loads(path.read_text())["key"] == "value"
        assert [p.name[18:] for p in sorted(path.parent.iterdir())] == [
            "startup.cfg",
            "snapshot.cfg",
            "shutdown.cfg",
        ]

    def test_a_clock_that_was_put_back(self, tmp_path: Path, in_loop: Any) -> None:
        (tmp_path / "29991231235959999-snapshot.cfg").write_text(TORCHSERVE)
        files = SnapshotFiles(tmp_path)
        in_loop(files.save(Snapshot({}), "snapshot"))
        assert files.newest() == (tmp_path / "30000101000000000-snapshot.cfg", Snapshot({}))

    def test_old_ones_are_removed_and_nothing_else(self, tmp_path: Path, in_loop: Any) -> None:
        for number in range(KEPT + 5):
            (tmp_path / f"20000101000000{number:03d}-snapshot.cfg").touch()
        (tmp_path / "19990101000000000-notes.txt").touch()
        in_loop(SnapshotFiles(tmp_path).save(Snapshot({}), "snapshot"))
        names = sorted(p.name for p in tmp_path.iterdir())
        assert len(names) == KEPT + 1 and names[0] == "19990101000000000-notes.txt"
        assert names[1] == "20000101000000006-snapshot.cfg"

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, in_loop: Any, caplog: Any) -> None:
        (tmp_path / "file").touch()
        files = SnapshotFiles(tmp_path / "file" / "folder")
        for _ in range(2):
            in_loop(files.save(Snapshot({}), "snapshot"))
        (record,) = caplog.records
        assert "--ncs turns snapshots off" in record.message

    def test_a_folder_that_cannot_be_read(
        self, tmp_path: Path, in_loop: Any, caplog: Any, monkeypatch: Any
    ) -> None:
        def refuse(_: Path) -> Any:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr("satrap.serving.snapshot_files.newest_snapshot", refuse)
        in_loop(SnapshotFiles(tmp_path).save(Snapshot({}), "snapshot"))
        assert "Too many open files" in caplog.text

    def test_nothing_is_written_when_it_is_closed(self, tmp_path: Path, in_loop: Any) -> None:
        """A model may become the default while the server stops."""
        files = SnapshotFiles(tmp_path)
        files.close()
        in_loop(files.save(Snapshot({}), "snapshot"))
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "20260101000000000-snapshot.cfg"
        for content in (b"model_snapshot=[]", b"a=\\u12"):
            path.write_bytes(content)
            with pytest.raises(ConfigError, match=r"20260101000000000-snapshot\.cfg"):
                SnapshotFiles(tmp_path).newest()
        path.write_bytes(b"")
        assert SnapshotFiles(tmp_path).newest() == (path, Snapshot({}))

    def test_without_writing(self, tmp_path: Path, in_loop: Any) -> None:
        in_loop(SnapshotFiles(tmp_path, is_written=False).save(Snapshot({}), "snapshot"))
        in_loop(SnapshotFiles(None).save(Snapshot({}), "snapshot"))
        assert list(tmp_path.iterdir()) == [] and SnapshotFiles(None).newest() is None

    @pytest.fixture
    def in_loop(self) -> Any:
        with asyncio.Runner() as runner:
            yield runner.run


HANDLER = """
class Handler:
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]

    def handle(self, data, context):
        return [self.version] * len(data)
"""


MEETING = """
class Handler:
    def initialize(self, context):
        if context.manifest["model"]["modelVersion"] == "1":
            open("FOLDER/both load", "w").close()  # waits for the other end
        else:
            open("FOLDER/both load").close()
            open("FOLDER/calls are accepted").close()

    def handle(self, data, context):
        return ["met"] * len(data)
"""


@pytest.mark.slow
def test_startup_models_load_at_the_same_time_and_requests_may_come_meanwhile(
    in_process: Any, open_service: Any, store: Any, tmp_path: Path
) -> None:
    for fifo in ("both load", "calls are accepted"):
        os.mkfifo(tmp_path / fifo)
    for version in "12":
        store.add(f"m{version}.mar", MEETING.replace("FOLDER", str(tmp_path)), version=version)
    service = open_service(default_startup_timeout_seconds=20)
    models: list[str] = []

    async def accept() -> None:
        models.extend(each["modelName"] for each in service.catalog.list_models()["models"])
        await asyncio.to_thread(lambda: (tmp_path / "calls are accepted").open("w").close())

    settings = ServingSettings(model_store=store.directory, startup_models="m1.mar,m2.mar")
    in_process.run(register_startup_models(settings, service, accept))
    assert models == ["m"]
    (default,) = in_process.run(service.catalog.describe("m"))
    assert default["modelVersion"] == "1"
    for version in "12":
        assert in_process.run(service.predict(Query("m", version, {"d": b""}))).value == b"met"


@pytest.mark.slow
class TestRestored:
    @pytest.fixture
    def start(self, in_process: Any, open_service: Any, store: Any) -> Any:
        def run(settings: dict[str, Any] | None = None, /, **config: Any) -> Any:
            service = open_service(settings, **config)
            given = {"model_store": store.directory, **(settings or {})}
            in_process.run(register_startup_models(ServingSettings(**given), service))
            return service

        return run

    def test_everything_is_as_it_was(self, in_process: Any, store: Any, start: Any) -> None:
        for version in "123":
            config = {"config": "batchSize: 2\nminWorkers: 1\n"} if version == "2" else {}
            store.add(f"m{version}.mar", HANDLER, version=version, **config)
        store.add("n.mar", HANDLER, name="n")
        service = start()

        async def default_is_two() -> None:
            service.set_default("m", "2")

        for url, more in [
            ("m1.mar", {"batch_size": 3, "max_batch_delay": 7}),
            ("m2.mar", {"response_timeout": 11, "startup_timeout": 12}),
            ("m3.mar", {}),
            ("n.mar", {"model_name": "other", "handler": "handler.py", "initial_workers": 1}),
        ]:
            in_process.run(service.register(RegisterParameters(url=url, synchronous=True, **more)))
        in_process.run(service.scale("m", "1", 2, 3, synchronous=True))
        in_process.run(service.scale("m", "2", 0, synchronous=True))
        in_process.run(service.unregister("m", "3"))
        in_process.run(default_is_two())
        before = {m: in_process.run(service.catalog.describe(m, "all")) for m in ("m", "other")}
        in_process.run(service.close())

        service = start()
        after = {m: in_process.run(service.catalog.describe(m, "all")) for m in ("m", "other")}
        for described in (*before["m"], *before["other"], *after["m"], *after["other"]):
            described["workers"] = [worker["status"] for worker in described["workers"]]
            del described["loadedAtStartup"]
        assert after == before
        assert in_process.run(service.predict(Query("m", "1", {"d": b""}))).value == b"1"
        (default,) = in_process.run(service.catalog.describe("m"))
        assert default["modelVersion"] == "2"
        in_process.run(service.close())
        names = sorted(p.name[18:] for p in (store.directory / ".satrap").iterdir())
        assert names == ["shutdown.cfg"] * 2 + ["snapshot.cfg"] * 8 + ["startup.cfg"] * 2

    def test_only_without_models_and_when_allowed(self, in_process: Any, store: Any, start: Any) -> None:
        for name in "mno":
            store.add(f"{name}.mar", HANDLER, name=name)
        service = start({"startup_models": "m.mar"})
        in_process.run(service.close())
        assert start({"startup_models": "n.mar", "write_snapshots": False}).catalog.startup_models() == ["n"]
        assert start({"restore": False, "write_snapshots": False}).catalog.startup_models() == []
        document = '{"models": {"o": {"1.0": {"marName": "o.mar"}}}}'
        given = {"model_snapshot": document, "startup_models": "n.mar", "write_snapshots": False}
        assert start(given).catalog.startup_models() == ["o"]
        assert start({"write_snapshots": False}).catalog.startup_models() == ["m"]

    def test_a_missing_archive_ends_the_start(self, in_process: Any, store: Any, start: Any) -> None:
        for name in "mn":
            store.add(f"{name}.mar", HANDLER, name=name)
        service = start({"startup_models": "m.mar,n.mar"})
        in_process.run(service.close())
        (store.directory / "n.mar").unlink()
        with pytest.raises(
            ConfigError, match=r"n\.mar, which is model n version 1\.0: put it into the model store"
        ):
            start()

    def test_a_model_that_does_not_load_is_tried_again(self, in_process: Any, store: Any, start: Any) -> None:
        for name in "mn":
            store.add(f"{name}.mar", HANDLER, name=name)
        service = start({"startup_models": "m.mar,n.mar"})
        in_process.run(service.close())
        store.add("m.mar", "raise ValueError('at import')")
        (store.directory / "n.mar").write_text("no archive")
        service = start()
        assert service.catalog.startup_models() == ["m"], "what cannot be unpacked is logged and left out"
        assert service.catalog.has_workers("m")

    def test_what_could_not_be_restored_is_tried_by_the_next_start(
        self, in_process: Any, store: Any, start: Any
    ) -> None:
        for version in "12":
            store.add(f"m{version}.mar", HANDLER, version=version)
        service = start({"startup_models": "m1.mar,m2.mar"})

        async def default_is_two() -> None:
            service.set_default("m", "2")

        in_process.run(default_is_two())
        in_process.run(service.close())
        whole = (store.directory / "m2.mar").read_bytes()
        (store.directory / "m2.mar").write_text("no archive")
        for _ in range(2):
            service = start()
            assert [
                each["modelVersion"] for each in in_process.run(service.catalog.describe("m", "all"))
            ] == ["1"]
            in_process.run(service.scale("m", "1", 1, 2))
            in_process.run(service.close())
        (store.directory / "m2.mar").write_bytes(whole)
        service = start()
        assert in_process.run(service.predict(Query("m", "", {"d": b""}))).value == b"2"

    def test_an_archive_that_a_newer_version_has_overwritten(
        self, in_process: Any, store: Any, start: Any, caplog: Any
    ) -> None:
        store.add("m.mar", HANDLER, version="1")
        service = start({"startup_models": "m.mar"})
        store.add("m.mar", HANDLER, version="2")
        in_process.run(
            service.register(
                RegisterParameters(url="m.mar", batch_size=5, initial_workers=1, synchronous=True)
            )
        )
        in_process.run(service.close())
        service = start()
        (described,) = in_process.run(service.catalog.describe("m", "all"))
        assert (described["modelVersion"], described["batchSize"]) == ("2", 5)
        assert "model m version 1 is not restored: m.mar: it holds version 2 now" in caplog.text
        assert "model m version 2" not in caplog.text

    def test_a_snapshot_that_calls_the_version_otherwise_than_its_archive(
        self, in_process: Any, store: Any, start: Any, caplog: Any
    ) -> None:
        store.add("m.mar", HANDLER, version="7")
        state = {"defaultVersion": True, "marName": "m.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": 3}
        service = start({"model_snapshot": json.dumps({"models": {"m": {"1.0": state}}})})
        (described,) = in_process.run(service.catalog.describe("m"))
        assert (described["modelVersion"], described["batchSize"]) == ("7", 3)
        assert [worker["status"] for worker in described["workers"]] == ["READY"]
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    def test_what_could_not_be_restored_can_be_given_up(
        self, in_process: Any, store: Any, start: Any
    ) -> None:
        store.add("m.mar", HANDLER)
        service = start({"startup_models": "m.mar"})
        in_process.run(service.close())
        (store.directory / "m.mar").write_text("no archive")
        service = start()
        with pytest.raises(ModelNotFoundError):
            in_process.run(service.unregister("m", "7"))
        in_process.run(service.unregister("m"))
        with pytest.raises(ModelNotFoundError):
            in_process.run(service.unregister("m"))
        in_process.run(service.close())
        (store.directory / "m.mar").unlink()
        assert start().catalog.startup_models() == []

    def test_a_folder_of_ones_own(self, in_process: Any, store: Any, start: Any, tmp_path: Path) -> None:
        store.add("m.mar", HANDLER)
        service = start({"properties": {"load_models": "m.mar"}}, snapshot_directory=str(tmp_path / "config"))
        in_process.run(service.register(RegisterParameters(url="m.mar")))
        newest = service.record.files.newest()
        assert newest is not None and newest[0].parent == tmp_path / "config"
        assert javaproperties.loads(newest[0].read_text())["load_models"] == "m.mar"
        assert not (store.directory / ".satrap").exists()
