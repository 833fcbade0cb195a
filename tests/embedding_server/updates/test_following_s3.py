"""A server that follows a bucket: there is no inotify and no rename, only listings after a name."""

import pytest

from satrap.formats.decisions import Hold, remove_hold, write_hold
from satrap.storage import open_storage

pytestmark = pytest.mark.slow


@pytest.fixture
def name(request):
    """Of a bucket of the test's own."""
    return request.node.name.replace("_", "-")


@pytest.fixture
def bucket(s3_endpoint, name):
    """A folder of that bucket."""
    import boto3

    boto3.client("s3").create_bucket(Bucket=name)
    return open_storage(f"s3://{name}/packets")


def test_applies_waits_and_rolls_back(bucket, packets, following):
    def publish(*sequences: int) -> None:
        for sequence in sequences:
            for file, data in packets.files(sequence).items():
                bucket.publish(file, data)

    publish(1, 2)
    server = following(packets=bucket.url)
    assert server.server.status().updates.applied_sequence == 2 and server.value() == 2
    publish(4)
    assert server.codes() == ["gap"]
    publish(3)
    server.wait_until(lambda status: status.applied_sequence == 4)  # by the poll alone
    assert server.value() == 4 and server.codes() == []
    write_hold(bucket, Hold("main", 3, "anna", "why", 1))
    assert server.follow().applied_sequence == 3 and server.value() == 3
    remove_hold(bucket, "main")
    assert server.follow().applied_sequence == 4 and server.value() == 4


def test_the_bucket_goes_away(bucket, name, packets, following):
    """Weather: the rows stay, the alarm says it, and it goes on when the bucket is back."""
    import boto3

    for file, data in packets.files(1).items():
        bucket.publish(file, data)
    server = following(packets=bucket.url)
    client = boto3.client("s3")
    for found in client.list_objects_v2(Bucket=name)["Contents"]:
        client.delete_object(Bucket=name, Key=found["Key"])
    client.delete_bucket(Bucket=name)
    server.follow_until(lambda status: [alarm.code for alarm in status.alarms] == ["storage"])
    assert server.value() == 1 and server.ready()
    client.create_bucket(Bucket=name)
    for file, data in packets.files(2).items():
        bucket.publish(file, data)
    server.follow_until(lambda status: status.applied_sequence == 2 and not status.alarms)
    assert server.value() == 2
