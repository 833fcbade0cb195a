"""How far a follower is, as the message that Status carries."""

from satrap.embedding_server.updates.alarms import Alarm
from satrap.embedding_server.updates.follower_status import FollowerStatus
from satrap.embedding_server.updates.freshness import BOUNDS
from satrap.protos import embedding_pb2 as pb

__all__ = ["alarm_message", "update_status"]


def alarm_message(alarm: Alarm) -> pb.Alarm:
    """One alarm."""
    return pb.Alarm(code=alarm.code, message=alarm.message, since_ns=alarm.since_ns)


def update_status(status: FollowerStatus) -> pb.UpdateStatus:
    """The whole of it."""
    hold, counts, delays = status.hold, status.counts, status.delays
    return pb.UpdateStatus(
        directory=status.directory,
        format=status.format,
        stream=status.stream,
        applied_sequence=status.applied,
        newest_sequence=status.newest,
        packets_behind=status.behind,
        newest_event_ns=status.newest_event_ns,
        gap_detection=status.gap_detection,
        alarms=[alarm_message(alarm) for alarm in status.alarms],
        hold=pb.Hold(keep_through=hold.keep_through, who=hold.who, why=hold.why)
        if hold is not None
        else None,
        undo_reaches=status.undo_reaches,
        applied_packets=counts.packets,
        applied_rows=counts.rows,
        erased_rows=counts.erased,
        quarantined_packets=counts.quarantined,
        skipped_packets=counts.skipped,
        unmarked_packets=counts.unmarked,
        visible_seconds=pb.Histogram(
            bounds=BOUNDS, counts=delays.counts, count=delays.observed, sum=delays.total
        ),
        clock_skew_seconds=status.skew_seconds,
        verdicts=[
            pb.Verdict(sequence=record.sequence, name=record.name, code=record.code, decision=record.decision)
            for record in sorted(status.refused, key=lambda record: record.since_ns)
        ],
        not_ready=status.not_ready,
    )
