"""The connection's state, with `h2` as the client: two state machines that hand each other bytes, without a socket."""

import struct
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from h2.exceptions import ProtocolError
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap.serving.grpc_server.http2 import Connection, Limits
from satrap.serving.grpc_server.http2_frames import PREFACE
from satrap.serving.grpc_server.http2_headers import Header
from satrap.serving.grpc_server.messages import RESPONSE_HEADERS, header_block

REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/m"),
    (":authority", "here"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
LIMITS = Limits()
TRAILERS = header_block([(b"grpc-status", b"0")])


class Heard:
    """What a connection says of its streams."""

    def __init__(self) -> None:
        self.headers: dict[int, Sequence[Header]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.over: list[int] = []
        self.resets: list[int] = []
        self.flushes: list[int] = []

    def opened(self, stream: int, headers: Sequence[Header], *, ended: bool) -> None:
        assert stream not in self.headers
        self.headers[stream], self.bodies[stream] = headers, bytearray()
        if ended:
            self.over.append(stream)

    def data(self, stream: int, data: memoryview) -> None:
        self.bodies[stream] += data

    def ended(self, stream: int) -> None:
        self.over.append(stream)

    def aborted(self, stream: int) -> None:
        self.resets.append(stream)

    def flushed(self, stream: int) -> None:
        self.flushes.append(stream)


class Pair:
    """Our connection and a client's."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.now = 0.0
        self.heard = Heard()
        self.server = Connection(self.heard, limits)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.client.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.exchange()

    def exchange(self) -> list[h2.events.Event]:
        """Hand over what either has to say until both are silent; the client's events of this time."""
        before = len(self.events)
        while True:
            to_server = self.client.data_to_send()
            to_client = b"".join(bytes(part) for part in self.server.take())
            if not to_server and not to_client:
                return self.events[before:]
            self.server.receive(memoryview(to_server), self.now)
            self.events += self.client.receive_data(to_client)

    def open(self, body: bytes | None = b"request", **fields: object) -> int:
        stream: int = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, REQUEST, end_stream=body is None, **fields)
        if body is not None:
            self.client.send_data(stream, body, end_stream=True)
        self.exchange()
        return stream

    def answer(self, stream: int, body: bytes) -> None:
        self.server.send_headers(stream, RESPONSE_HEADERS)
        self.server.send_data(stream, body)
        self.server.send_end(stream, TRAILERS)

    def answered(self, stream: int) -> bytes:
        """The whole answer that the client has seen, giving back its windows."""
        body = b""
        for event in self.events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                body += event.data
        return body


def test_a_request_and_its_answer() -> None:
    pair = Pair()
    stream = pair.open(b"x" * 50_000)
    assert dict(pair.heard.headers[stream])[b":path"] == b"/s/m"
    assert (pair.heard.bodies[stream], pair.heard.over) == (b"x" * 50_000, [stream])
    pair.answer(stream, b"answer")
    events = pair.exchange()
    assert [type(event).__name__ for event in events] == [
        "ResponseReceived",
        "DataReceived",
        "TrailersReceived",
        "StreamEnded",
    ]
    assert dict(events[0].headers)[b":status"] == b"200"
    assert events[2].headers == [(b"grpc-status", b"0")]
    assert (pair.server.open_streams, pair.server.failed) == (0, "")


def test_our_settings_reach_the_client() -> None:
    pair = Pair(Limits(streams=7, frame_bytes=65_536, stream_window=100_000))
    theirs = pair.client.remote_settings
    assert theirs.max_concurrent_streams == 7
    assert theirs.max_frame_size == 65_536
    assert theirs.initial_window_size == 100_000


def test_an_answer_waits_for_the_clients_windows() -> None:
    pair = Pair()
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    stream = pair.open()
    pair.answer(stream, bytes(range(100)))
    pair.exchange()
    assert len(pair.answered(stream)) == 10
    assert pair.server.waiting_bytes(stream) == 90
    pair.client.increment_flow_control_window(50, stream)
    pair.exchange()
    assert len(pair.answered(stream)) == 60
    assert pair.heard.flushes == []
    pair.client.update_settings(
        {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000}
    )  # while the stream is open
    events = pair.exchange()
    assert pair.answered(stream) == bytes(range(100))
    assert pair.heard.flushes == [stream]
    assert isinstance(events[-1], h2.events.StreamEnded), "the trailers come after the last byte"


def test_a_window_may_become_negative() -> None:
    pair = Pair()
    stream = pair.open()
    pair.server.send_headers(stream, RESPONSE_HEADERS)
    pair.server.send_data(stream, bytes(1000))
    pair.exchange()
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    pair.exchange()
    pair.server.send_data(stream, b"more")
    pair.server.send_end(stream, TRAILERS)
    pair.exchange()
    assert len(pair.answered(stream)) == 1000
    pair.client.increment_flow_control_window(2000, stream)
    pair.exchange()
    assert pair.answered(stream) == bytes(1000) + b"more"


def test_the_connections_window_is_shared_by_its_streams() -> None:
    pair = Pair()
    first, second = pair.open(), pair.open()
    for stream in (first, second):
        pair.answer(stream, bytes(60_000))
    pair.exchange()
    assert len(pair.answered(first)) + len(pair.answered(second)) == 65_535
    pair.client.increment_flow_control_window(100_000)
    pair.exchange()
    assert pair.answered(first) == pair.answered(second) == bytes(60_000)


def test_large_answers_come_in_frames_of_the_clients_size() -> None:
    pair = Pair()
    pair.client.increment_flow_control_window(2**20)
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
    stream = pair.open()
    pair.answer(stream, bytes(50_000))
    sizes = [len(e.data) for e in pair.exchange() if isinstance(e, h2.events.DataReceived)]
    assert sizes == [16_384, 16_384, 16_384, 50_000 - 3 * 16_384]


def test_the_client_gets_its_windows_back() -> None:
    pair = Pair(Limits(stream_window=65_536, connection_window=131_072))
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream, REQUEST)
    for _ in range(100):
        assert pair.client.local_flow_control_window(stream) >= 10_000
        pair.client.send_data(stream, bytes(10_000))
        pair.exchange()
    assert len(pair.heard.bodies[stream]) == 1_000_000


def test_a_held_stream_gives_nothing_back_until_it_is_let_go() -> None:
    pair = Pair(Limits(stream_window=65_536))
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream, REQUEST)
    pair.exchange()
    pair.server.hold(stream, held=True)
    pair.client.send_data(stream, bytes(16_000))
    pair.client.send_data(stream, bytes(16_000))
    pair.client.send_data(stream, bytes(16_000))
    pair.exchange()
    assert pair.client.local_flow_control_window(stream) == 65_536 - 48_000
    pair.server.hold(stream, held=False)
    pair.exchange()
    assert pair.client.local_flow_control_window(stream) == 65_536


def test_headers_in_many_pieces_and_padding() -> None:
    pair = Pair()
    stream = pair.client.get_next_available_stream_id()
    long = [*REQUEST, ("long", "v" * 15_000)]
    pair.client.max_outbound_frame_size = 1000  # the rest travels in CONTINUATION frames
    pair.client.send_headers(stream, long)
    pair.client.send_data(stream, b"padded", end_stream=True, pad_length=200)
    pair.exchange()
    assert dict(pair.heard.headers[stream])[b"long"] == b"v" * 15_000
    assert (pair.heard.bodies[stream], pair.heard.over) == (b"padded", [stream])
    assert pair.server.failed == ""


def test_headers_that_come_again_are_decoded_right_though_the_table_changes() -> None:
    pair = Pair()
    for number in range(300):
        stream = pair.client.get_next_available_stream_id()
        changing = [*REQUEST, ("grpc-timeout", f"{number % 7}S"), ("x-seen", str(number // 9))]
        pair.client.send_headers(stream, changing, end_stream=True)
        pair.exchange()
        assert pair.heard.headers[stream] == [(k.encode(), v.encode()) for k, v in changing]
        pair.server.send_end(stream, RESPONSE_HEADERS + TRAILERS)


def test_a_smaller_header_table_is_acknowledged_in_our_next_block() -> None:
    pair = Pair()
    pair.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    stream = pair.open()
    pair.answer(stream, b"x")
    assert isinstance(pair.exchange()[-1], h2.events.StreamEnded)


def test_a_ping_is_answered_and_ours_counted() -> None:
    pair = Pair()
    pair.client.ping(b"12345678")
    assert [event.ping_data for event in pair.exchange() if isinstance(event, h2.events.PingAckReceived)] == [
        b"12345678"
    ]
    pair.server.ping()
    pair.exchange()
    assert pair.server.pings_answered == 1


def test_a_reset_stream_is_over() -> None:
    pair = Pair()
    stream = pair.open()
    pair.client.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    pair.exchange()
    assert pair.heard.resets == [stream]
    pair.answer(stream, b"too late")
    assert pair.exchange() == []
    other = pair.open()
    pair.answer(other, b"in time")
    pair.exchange()
    assert pair.answered(other) == b"in time"


def test_an_answer_before_the_request_is_whole_stops_the_rest() -> None:
    pair = Pair()
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream, REQUEST)
    pair.client.send_data(stream, b"part")
    pair.exchange()
    pair.server.send_end(stream, RESPONSE_HEADERS + TRAILERS)
    names = [type(event).__name__ for event in pair.exchange()]
    assert names == ["ResponseReceived", "StreamEnded", "StreamReset"]
    assert pair.server.open_streams == 0


def test_too_many_streams_are_refused_and_may_come_again() -> None:
    pair = Pair(Limits(streams=2))
    first, second = pair.open(), pair.open()
    pair.server.receive(memoryview(raw_headers(second + 2, BLOCK)))  # h2 itself would heed the limit
    assert b"".join(map(bytes, pair.server.take())) == frame(3, 0, second + 2, struct.pack(">I", 7))
    assert set(pair.heard.headers) == {first, second}
    pair.answer(first, b"")
    pair.exchange()
    pair.server.receive(memoryview(raw_headers(second + 4, BLOCK)))
    assert second + 4 in pair.heard.headers


def test_goodbye_lets_what_runs_finish_and_refuses_what_comes() -> None:
    pair = Pair()
    stream = pair.open()
    pair.server.say_goodbye(final=False)
    pair.server.receive(memoryview(raw_headers(stream + 2, BLOCK)))
    assert stream + 2 in pair.heard.headers, "its client had not heard it yet"
    pair.server.say_goodbye(final=True)
    first, last = sent(pair.server)
    assert first == frame(7, 0, 0, struct.pack(">II", 2**31 - 1, 0))
    assert last == frame(7, 0, 0, struct.pack(">II", stream + 2, 0))
    pair.server.receive(memoryview(raw_headers(stream + 4, BLOCK)))
    assert stream + 4 not in pair.heard.headers
    assert sent(pair.server) == [frame(3, 0, stream + 4, struct.pack(">I", 7))]
    pair.answer(stream, b"the last")
    assert b"the last" in b"".join(sent(pair.server))
    assert pair.server.open_streams == 1


def test_rapid_resets_end_the_connection() -> None:
    pair = Pair(Limits(resets=10))
    with pytest.raises(ProtocolError):
        for _ in range(100):
            stream = pair.client.get_next_available_stream_id()
            pair.client.send_headers(stream, REQUEST)
            pair.client.reset_stream(stream)
            pair.exchange()
    assert "only to be reset" in pair.server.failed
    assert len(pair.heard.headers) < 30


def test_so_do_resets_of_whole_requests() -> None:
    """Each has cost a method's call, and no limit of streams at once holds them back."""
    pair = Pair(Limits(resets=10))
    with pytest.raises(ProtocolError):
        for _ in range(100):
            pair.client.reset_stream(pair.open())
            pair.exchange()
    assert "only to be reset" in pair.server.failed
    assert len(pair.heard.headers) < 30


def test_clients_that_give_up_now_and_then_go_on() -> None:
    """Their deadlines pass: after some time, or with every second request."""
    pair = Pair(Limits(resets=10, resets_per_second=5))
    for _ in range(100):
        pair.now += 1
        for _ in range(10):
            pair.client.reset_stream(pair.open())
            pair.exchange()
    for _ in range(100):
        pair.answer(pair.open(), b"")
        pair.client.reset_stream(pair.open())
        pair.exchange()
    assert pair.server.failed == ""


def test_answers_that_are_cancelled_do_not_count() -> None:
    pair = Pair(Limits(resets=10))
    for _ in range(100):
        stream = pair.open()
        pair.server.send_headers(stream, RESPONSE_HEADERS)
        pair.exchange()
        pair.client.reset_stream(stream)
        pair.exchange()
    assert pair.server.failed == ""


# ---- what no client may send ----


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def sent(connection: Connection) -> list[bytes]:
    """The frames that it has to send."""
    data = b"".join(map(bytes, connection.take()))
    frames = []
    while data:
        length = 9 + int.from_bytes(data[:3], "big")
        frames.append(data[:length])
        data = data[length:]
    return frames


def raw_headers(stream: int, block: bytes, flags: int = 0x5) -> bytes:
    return frame(1, flags, stream, block)


BLOCK = header_block([(name.encode(), value.encode()) for name, value in REQUEST])
SETTINGS = frame(4, 0, 0)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "not HTTP/2"),
        (PREFACE + frame(0, 0, 0, b"x"), "which is not open"),
        (PREFACE + frame(0, 0, 1, b"x"), "which is not open"),
        (PREFACE + raw_headers(2, BLOCK), "headers on stream 2"),
        (PREFACE + raw_headers(0, BLOCK), "headers on stream 0"),
        (PREFACE + raw_headers(1, b"\xff\xff\xff\xff"), "cannot be decoded"),
        (PREFACE + raw_headers(1, b"\x80"), "cannot be decoded"),
        (PREFACE + raw_headers(1, b"\x3f\xe1\xff\x03"), "cannot be decoded"),
        (PREFACE + raw_headers(1, header_block([(b"a", b"x" * 17_000)])), "cannot be decoded"),
        (PREFACE + raw_headers(1, BLOCK) + raw_headers(1, BLOCK), "in the middle of stream 1"),
        (PREFACE + raw_headers(1, BLOCK, 0x4) + raw_headers(1, BLOCK, 0x4), "in the middle of stream 1"),
        (PREFACE + raw_headers(1, BLOCK) + frame(0, 0, 1, b"x"), "after its end"),
        (PREFACE + raw_headers(1, BLOCK, 0x1) + frame(6, 0, 0, bytes(8)), "in the middle of headers"),
        (PREFACE + raw_headers(1, BLOCK, 0x1) + frame(9, 4, 3), "in the middle of headers"),
        (PREFACE + raw_headers(1, BLOCK, 0x1) + frame(9, 0, 1, bytes(60_000)) * 2, "without end"),
        (PREFACE + raw_headers(1, b"\xff" + BLOCK, 0xD), "more padding"),
        (PREFACE + raw_headers(1, b"\x00", 0x25), "too short"),
        (PREFACE + frame(9, 4, 1), "CONTINUATION of nothing"),
        (PREFACE + frame(0, 8, 0, b"x"), "which is not open"),
        (PREFACE + raw_headers(1, BLOCK, 0x4) + frame(0, 8, 1, b"\x05xxx"), "more padding"),
        (PREFACE + frame(2, 0, 1, b"xx"), "PRIORITY"),
        (PREFACE + frame(3, 0, 1, bytes(4)), "RST_STREAM"),
        (PREFACE + frame(4, 0, 0, b"x"), "SETTINGS"),
        (PREFACE + frame(4, 1, 0, bytes(6)), "SETTINGS"),
        (PREFACE + frame(4, 0, 1), "SETTINGS"),
        (PREFACE + frame(4, 0, 0, struct.pack(">HI", 4, 2**31)), "a window of"),
        (PREFACE + frame(4, 0, 0, struct.pack(">HI", 5, 100)), "frames of 100 bytes"),
        (PREFACE + frame(5, 4, 1, bytes(4)), "pushes"),
        (PREFACE + frame(6, 0, 0, b"x"), "PING"),
        (PREFACE + frame(6, 0, 1, bytes(8)), "PING"),
        (PREFACE + frame(7, 0, 1, bytes(8)), "GOAWAY"),
        (PREFACE + frame(8, 0, 0, bytes(4)), "grows by nothing"),
        (PREFACE + frame(8, 0, 0, b"x"), "WINDOW_UPDATE"),
        (PREFACE + frame(8, 0, 9, b"\x00\x00\x00\x01"), "WINDOW_UPDATE"),
        (PREFACE + frame(8, 0, 0, b"\x7f\xff\xff\xff"), "too large"),
        (PREFACE + raw_headers(1, BLOCK) + frame(8, 0, 1, b"\x7f\xff\xff\xff"), "too large"),
        (PREFACE + struct.pack(">IBI", 0xFFFFFF00, 0, 1), "a frame of"),
        (PREFACE + frame(4, 0, 0, bytes(90_000)), "a control frame of"),
    ],
)
def test_a_breach_of_the_protocol_ends_the_connection_and_says_why(sent: bytes, why: str) -> None:
    for size in (len(sent), 1, 7):
        connection = Connection(Heard())
        for start in range(0, len(sent), size):
            connection.receive(memoryview(sent[start : start + size]))
        assert why in connection.failed
        goaway = b"".join(bytes(part) for part in connection.take())
        assert connection.failed.encode()[:100] in goaway
        connection.receive(memoryview(SETTINGS))
        assert connection.take() == [], "nothing is looked at any more"


def test_more_than_a_window_ends_the_connection() -> None:
    small = Limits(stream_window=70_000, connection_window=200_000)
    held = Connection(Heard(), small)
    held.receive(memoryview(PREFACE + raw_headers(1, BLOCK, 0x4)))
    held.hold(1, held=True)
    held.receive(memoryview(frame(0, 0, 1, bytes(60_000)) * 2))
    assert "stream 1's window" in held.failed
    whole = Connection(Heard(), small._replace(connection_window=100_000, frame_bytes=2**20))
    whole.receive(memoryview(PREFACE + raw_headers(1, BLOCK, 0x4) + frame(0, 0, 1, bytes(100_001))))
    assert "the connection's window" in whole.failed


def test_what_is_not_known_is_passed_over() -> None:
    heard = Heard()
    connection = Connection(heard)
    connection.receive(
        memoryview(
            PREFACE
            + frame(4, 0, 0, struct.pack(">HI", 99, 7))
            + frame(77, 0xFF, 5, b"an extension" * 1000)
            + frame(2, 0, 3, bytes(5))
            + raw_headers(1, bytes(5) + BLOCK, 0x24)
            + frame(0, 0, 1, b"")
            + frame(0, 9, 1, b"\x02ab??")
            + frame(8, 0, 1, b"\x00\x00\x00\x01")
            + frame(7, 0, 0, bytes(8))
        )
    )
    assert connection.failed == ""
    assert (heard.bodies[1], heard.over) == (b"ab", [1])


def test_data_for_a_stream_that_we_have_ended_is_dropped() -> None:
    heard = Heard()
    connection = Connection(heard)
    connection.receive(memoryview(PREFACE + raw_headers(1, BLOCK, 0x4)))
    connection.send_end(1, RESPONSE_HEADERS + TRAILERS)
    connection.receive(memoryview(frame(0, 0, 1, b"late") + frame(0, 1, 1, b"r") + frame(3, 0, 1, bytes(4))))
    assert (connection.failed, heard.bodies[1], heard.over, heard.resets) == ("", b"", [], [])


PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        frame,
        st.integers(0, 12),
        st.integers(0, 255),
        st.integers(0, 9),
        st.one_of(st.binary(max_size=60), st.just(BLOCK)),
    ),
    st.builds(raw_headers, st.integers(0, 9), st.just(BLOCK), st.sampled_from([0, 1, 4, 5, 0x24])),
)


@settings(max_examples=300)
@given(st.booleans(), st.lists(PIECES, max_size=12), st.data())
def test_no_bytes_raise_and_no_cut_makes_a_difference(
    begins: bool, pieces: list[bytes], data: st.DataObject
) -> None:
    sent = (PREFACE if begins else b"") + b"".join(pieces)
    whole, parts = Heard(), Heard()
    first, second = Connection(whole), Connection(parts)
    first.receive(memoryview(sent))
    rest = memoryview(sent)
    while rest:
        cut = data.draw(st.integers(1, len(rest)))
        second.receive(rest[:cut])
        rest = rest[cut:]
    assert vars(whole) == vars(parts)
    assert first.failed == second.failed
    assert b"".join(map(bytes, first.take())) == b"".join(map(bytes, second.take()))
    assert first.open_streams <= LIMITS.streams


@given(st.binary(max_size=2000), st.integers(1, 300), st.integers(1, 300))
def test_every_byte_of_an_answer_arrives_through_any_window(body: bytes, window: int, step: int) -> None:
    pair = Pair()
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    stream = pair.open()
    pair.answer(stream, body)
    pair.exchange()
    while pair.server.open_streams:
        pair.client.increment_flow_control_window(step, stream)
        pair.exchange()
    assert pair.answered(stream) == body
