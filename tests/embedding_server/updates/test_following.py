"""A real server that follows a directory: what is published is served, and what people decide is obeyed."""

import os
import threading
import time

import grpc
import numpy as np

from satrap._core.table import TableReader
from satrap.errors import GuardrailError
from satrap.formats.decisions import Hold, Skip, add_skip, remove_hold, write_hold
from satrap.formats.packet import PacketContent
from satrap.protos import embedding_pb2 as pb
from satrap.storage import open_storage

DIM = 4
HOUR_NS = 3600 * 10**9


class TestFollowing:
    def test_what_is_there_at_start_is_applied_before_it_is_ready(self, packets, following):
        packets.publish(3)
        server = following()
        assert server.ready() and server.value() == 3
        status = server.server.status().updates
        assert (status.applied_sequence, status.newest_sequence, status.packets_behind) == (3, 3, 0)
        assert (status.format, status.stream, status.gap_detection) == ("satrap", "main", "sequence")
        assert (status.applied_packets, status.applied_rows) == (3, 300)
        assert status.directory == str(packets.directory) and not status.alarms

    def test_a_packet_is_seen_without_a_poll(self, packets, following):
        server = following({"poll_seconds": 3600.0})
        before = time.time_ns()
        packets.publish()
        status = server.wait_until(lambda status: status.applied_sequence == 1)
        assert server.value() == 1
        assert status.newest_event_ns >= before
        assert status.visible_seconds.count == 1 and 0 < status.visible_seconds.sum < 10

    def test_lookups_say_how_new_the_rows_are(self, packets, following):
        server = following()
        signs = packets.signs
        assert server.server.lookup((DIM, signs)).newest_event_ns == 0
        packets.publish(newest_event_ns=77)
        server.follow()
        answer = server.server.lookup((DIM, signs))
        assert answer.newest_event_ns == 77 and answer.groups[0].missing == 0
        packets.publish(newest_event_ns=5)  # an older event in a later packet
        server.follow()
        assert server.server.lookup((DIM, signs)).newest_event_ns == 77

    def test_deletes_new_dims_and_half_precision(self, packets, following):
        server = following()
        packets.publish(parts=[*packets.parts(1), *packets.parts(1, dim=8)])
        packets.publish(dtype="float16")
        packets.publish(parts=[PacketContent(DIM, packets.signs[:40])])
        status = server.follow()
        assert (status.applied_sequence, status.erased_rows) == (3, 40)
        (group,) = server.server.lookup((DIM, packets.signs)).groups
        assert (group.missing, group.dim_mismatch) == (0, 40)  # those have rows of the other dim
        assert set(np.frombuffer(group.rows, np.float32)[160:]) == {2}
        assert server.value(dim=8) == 1

    def test_an_attached_reader_sees_it(self, packets, following):
        packets.publish()
        server = following()
        status = server.server.status()
        reader = TableReader(status.table_path, status.instance_id, status.server_uid)
        packets.publish(parts=packets.parts(9, dim=16))
        server.follow()
        ((_, rows),), missing, _ = reader.lookup([(16, packets.signs.tobytes())])
        assert missing == 0 and set(np.frombuffer(rows, np.float32)) == {9}
        assert reader.applied[0] == 2
        reader.close()

    def test_a_shard_takes_its_own(self, packets, following):
        packets.publish(num_shards=3)
        servers = [following(replica_index=index, replica_size=2) for index in range(2)]
        found = [server.server.lookup((DIM, packets.signs)).groups[0].missing for server in servers]
        assert sum(found) == 100 and all(found)

    def test_a_directory_that_comes_later(self, packets, following):
        packets.directory.rmdir()
        server = following()
        assert server.ready() and server.codes() == ["storage"]
        assert "does not exist" in server.follow().alarms[0].message
        packets.publish()
        server.follow_until(lambda status: status.applied_sequence == 1 and not status.alarms)

    def test_any_fsspec_url(self, packets, following):
        url = f"memory://{packets.directory.name}-{os.getpid()}"
        storage = open_storage(url)
        for name, data in packets.files(1).items():
            storage.publish(name, data)
        server = following(packets=url)
        assert server.follow().applied_sequence == 1 and server.value() == 1

    def test_follow_now_answers_before_its_deadline(self, packets, following):
        """Whatever is left: a gap is no reason to wait for, and a deadline that has nearly passed is kept."""
        packets.put(packets.files(2))
        server = following({"gap_alarm_seconds": 1000.0})
        for timeout in (20, 0.5):
            answer = server.server.stub.FollowNow(pb.FollowNowRequest(), timeout=timeout)
            assert answer.applied_sequence == 0 and not answer.alarms

    def test_nothing_is_followed(self, serve, refused):
        server = serve()
        assert not server.status().HasField("updates")
        code, sentence = refused(lambda: server.stub.FollowNow(pb.FollowNowRequest(), timeout=5))
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "--packets" in sentence

    def test_lookups_go_on_and_see_whole_rows(self, packets, following):
        """While packet after packet is applied: a row is of one packet, and never goes back."""
        packets.publish()
        server = following()
        publisher = threading.Thread(target=packets.publish, args=(60,))
        publisher.start()
        before, lookups = np.zeros(100), 0
        while before.min() < 61:
            (group,) = server.server.lookup((DIM, packets.signs)).groups
            rows = np.frombuffer(group.rows, np.float32).reshape(-1, DIM)
            assert (rows == rows[:, :1]).all() and (rows[:, 0] >= before).all()
            before, lookups = rows[:, 0].copy(), lookups + 1
        publisher.join()
        assert server.follow().applied_sequence == 61 and lookups > 1

    def test_persias_packets_among_ours(self, packets, following, persia_data):
        packets.publish()
        server = following()
        (packets.directory / "s0" / "inc_20260101000000").mkdir(parents=True)
        (packets.directory / "s0" / "inc_20260101000000" / "0_0.inc").write_bytes(b"")
        packets.publish()
        status = server.follow()
        assert [alarm.code for alarm in status.alarms] == ["foreign_stream"] and status.applied_sequence == 2


class TestRestart:
    def test_warm_goes_on_where_it_was(self, packets, following, table_directory):
        packets.publish(2)
        first = following(table_directory=table_directory)
        first.server.close()
        packets.publish(2)
        again = following(table_directory=table_directory)
        assert again.server.status().started == "warm"
        status = again.follow()
        assert (status.applied_sequence, status.applied_packets) == (4, 2) and again.value() == 4

    def test_the_stream_is_remembered(self, packets, following, table_directory):
        packets.publish()
        following(table_directory=table_directory).server.close()
        again = following(table_directory=table_directory)
        packets.put(packets.files(2, stream="other", writer="x"))
        assert again.codes() == ["foreign_stream"]
        packets.publish()
        assert again.follow().applied_sequence == 2 and again.value() == 2

    def test_cold_takes_everything_again(self, packets, following):
        packets.publish(3)
        assert following().value() == following().value() == 3


class TestGap:
    def test_waits_and_ends(self, packets, following):
        packets.publish()
        server = following()
        third = packets.files(3)
        packets.put(third)
        status = server.follow()
        assert [alarm.code for alarm in status.alarms] == ["gap"] and server.value() == 1
        assert (status.packets_behind, status.newest_sequence) == (1, 3)
        assert server.ready()
        packets.put(packets.files(2))
        assert server.follow().applied_sequence == 3 and not server.codes() and server.value() == 3

    def test_red_if_so_configured(self, packets, following):
        packets.put(packets.files(2))
        server = following({"ready_with_gap": False})
        assert not server.ready() and server.codes() == ["gap"]
        packets.put(packets.files(1))
        server.follow_until(lambda status: not status.alarms)
        assert server.ready()

    def test_the_alarm_has_patience(self, packets, following):
        packets.put(packets.files(2))
        server = following({"gap_alarm_seconds": 1000.0})
        assert server.codes() == []

    def test_given_up(self, packets, following, caplog):
        packets.publish()
        server = following()
        packets.put(packets.files(3))
        assert server.codes() == ["gap"]
        add_skip(open_storage(packets.directory), "main", Skip(2, "anna", "the disk is gone", 1))
        status = server.follow()
        assert status.applied_sequence == 3 and not status.alarms and server.value() == 3
        assert "skipped by anna (the disk is gone)" in caplog.text


class TestHold:
    def test_takes_back_and_releases(self, packets, following, table_directory):
        packets.publish(6)
        server = following(table_directory=table_directory)
        storage = open_storage(packets.directory)
        write_hold(storage, Hold("main", 4, "anna", "bad loss", 1))
        status = server.follow()
        assert (status.applied_sequence, status.hold.keep_through, status.hold.who) == (4, 4, "anna")
        assert [alarm.code for alarm in status.alarms] == ["held"] and server.value() == 4
        packets.publish()
        assert server.follow().applied_sequence == 4
        server.server.close()
        again = following(table_directory=table_directory)  # which starts later, and obeys
        assert again.value() == 4 and again.ready()
        remove_hold(storage, "main")
        assert again.follow().applied_sequence == 7 and again.value() == 7 and not again.codes()

    def test_further_than_the_undo_log_reaches(self, packets, following):
        packets.publish(6)
        server = following({"undo_packets": 2})
        assert server.follow().undo_reaches == 4
        write_hold(open_storage(packets.directory), Hold("main", 2, "anna", "why", 1))
        status = server.follow()
        assert status.applied_sequence == 6 and server.value() == 6
        assert [alarm.code for alarm in status.alarms] == ["held"]
        assert "the undo log reaches 4" in status.alarms[0].message

    def test_a_hold_that_cannot_be_read_stops_everything(self, packets, following):
        packets.publish()
        server = following()
        (packets.directory / "hold-main.json").write_text("{")
        packets.publish()
        status = server.follow()
        assert status.applied_sequence == 1 and [alarm.code for alarm in status.alarms] == ["held"]
        assert "until it is mended, or removed" in status.alarms[0].message
        (packets.directory / "hold-main.json").unlink()
        server.follow_until(lambda status: status.applied_sequence == 2 and not status.alarms)


class TestQuarantine:
    def bad(self, packets) -> dict[str, bytes]:
        rows = np.full((3, DIM), np.nan, np.float32)
        return packets.files(packets.last + 1, parts=[PacketContent(DIM, packets.signs[:3], rows)])

    def test_holds_until_dropped(self, packets, following, table_directory):
        packets.publish()
        server = following(table_directory=table_directory)
        packets.put(self.bad(packets))
        packets.last += 1
        packets.publish()
        status = server.follow()
        assert status.applied_sequence == 1 and server.value() == 1
        assert [alarm.code for alarm in status.alarms] == ["quarantined"]
        assert [verdict.code for verdict in status.verdicts] == [GuardrailError.code]
        (record,) = server.quarantine("list")
        assert (record.sequence, record.decision) == (2, "waiting") and "not finite" in record.reason
        server.server.close()
        again = following(table_directory=table_directory)
        assert again.codes() == ["quarantined"] and again.value() == 1
        assert again.quarantine("drop", record.name)[0].decision == "dropped"
        status = again.follow()
        assert status.applied_sequence == 3 and status.skipped_packets == 1 and again.value() == 3

    def test_skips_by_policy(self, packets, following):
        packets.publish()
        server = following({"quarantine": "skip"})
        packets.put(self.bad(packets))
        packets.last += 1
        packets.publish()
        status = server.follow()
        assert status.applied_sequence == 3 and not status.alarms
        assert (status.quarantined_packets, status.skipped_packets) == (1, 1)

    def test_judged_again(self, packets, following):
        server = following()
        packets.put(self.bad(packets))
        assert server.codes() == ["quarantined"]
        name = server.quarantine("list")[0].name
        server.quarantine("retry", name)
        assert server.codes() == ["quarantined"]  # still bad
        packets.publish()  # the same name, published anew
        server.quarantine("retry", name)
        # what was read of its manifest before is not what counts
        server.follow_until(lambda status: status.applied_sequence == 1)


class TestClocks:
    def test_a_trainer_ahead_of_us(self, packets, following):
        server = following()
        packets.publish(published_ns=time.time_ns() + HOUR_NS, newest_event_ns=time.time_ns() + HOUR_NS)
        status = server.follow()
        assert status.applied_sequence == 1 and [alarm.code for alarm in status.alarms] == ["clock_ahead"]
        assert 3590 < status.clock_skew_seconds <= 3600
        assert (status.visible_seconds.count, status.visible_seconds.sum) == (1, 0)
        packets.publish()
        assert server.follow().clock_skew_seconds == 0 and not server.codes()

    def test_stale_is_red(self, packets, following):
        packets.publish(newest_event_ns=time.time_ns() - HOUR_NS)
        server = following({"max_staleness_seconds": 60.0})
        assert not server.ready()
        packets.publish()
        server.follow()
        assert server.ready()
