"""Questions to a busy shard become one: the decision alone, then with a shard that answers when told to."""

import random

import pytest

from satrap.errors import ShardUnavailableError
from satrap.middleware.coalescing import CoalescingShard, Turns


class TestTurns:
    def test_question_to_an_idle_shard_goes_at_once(self):
        turns = Turns(1)
        assert turns.asked("a") == ["a"]
        assert turns.ended() == []
        assert turns.asked("b") == ["b"]

    def test_questions_gather_while_it_is_busy(self):
        turns = Turns(1)
        assert turns.asked("a") == ["a"]
        assert turns.asked("b") == []
        assert turns.asked("c") == []
        assert turns.ended() == ["b", "c"]
        assert turns.asked("d") == []
        assert turns.ended() == ["d"]
        assert turns.ended() == []
        assert turns.asked("e") == ["e"]

    def test_busy_means_the_limit(self):
        turns = Turns(2)
        assert [turns.asked(question) for question in "abcd"] == [["a"], ["b"], [], []]
        assert turns.ended() == ["c", "d"]
        assert turns.ended() == []
        assert turns.asked("e") == ["e"]

    def test_every_question_is_sent_once_and_never_more_than_the_limit(self):
        rng = random.Random(5)
        turns, in_flight, sent = Turns(3), 0, []
        for question in range(2000):
            events = [turns.asked(question)]
            in_flight += bool(events[0])
            while in_flight and rng.random() < 0.4:
                events.append(turns.ended())
                in_flight -= not events[-1]
            sent += [each for event in events for each in event]
            assert in_flight <= 3
        while in_flight:
            questions = turns.ended()
            sent += questions
            in_flight -= not questions
        assert sent == list(range(2000))


class Call:
    """An answer that comes when the test says so."""

    def __init__(self, groups) -> None:
        self.groups, self.error, self._callback = groups, None, None
        self.newest_event_ns = 0

    def when_done(self, callback) -> None:
        self._callback = callback

    def end(self, error: Exception | None = None, newest_event_ns: int = 0) -> None:
        self.error, self.newest_event_ns = error, newest_event_ns
        self._callback()

    def result(self):
        if self.error:
            raise self.error
        return [(1, b"rows of " + signs) for _, signs in self.groups]


class FakeShard:
    replica_index, address = 0, "fake"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.closed = False

    def ask_from_any_thread(self, groups) -> Call:
        if self.closed:
            raise DOWN
        self.calls.append(Call(groups))
        return self.calls[-1]

    def close(self) -> None:
        self.closed = True


DOWN = ShardUnavailableError(0, 1, "fake", "down")


class TestShard:
    def test_rows_go_to_those_who_asked(self):
        fake = FakeShard()
        shard = CoalescingShard(fake, 1)
        first = shard.ask([(4, b"a")])
        second = shard.ask([(4, b"b"), (8, b"c")])
        third = shard.ask([(4, b"d")])
        assert [call.groups for call in fake.calls] == [[(4, b"a")]]
        fake.calls[0].end()
        assert first.result(0) == [(1, b"rows of a")]
        assert not second.done()
        assert [call.groups for call in fake.calls[1:]] == [[(4, b"b"), (8, b"c"), (4, b"d")]]
        fake.calls[1].end(newest_event_ns=17)
        assert second.result(0) == [(1, b"rows of b"), (1, b"rows of c")]
        assert third.result(0) == [(1, b"rows of d")]
        assert [answer.newest_event_ns for answer in (first, second, third)] == [0, 17, 17]

    def test_error_is_everybodys_who_was_in_the_call(self):
        fake = FakeShard()
        shard = CoalescingShard(fake, 1)
        answers = [shard.ask([(4, letter)]) for letter in (b"a", b"b", b"c")]
        fake.calls[0].end(DOWN)
        with pytest.raises(ShardUnavailableError):
            answers[0].result(0)
        fake.calls[1].end(DOWN)
        for answer in answers[1:]:
            with pytest.raises(ShardUnavailableError):
                answer.result(0)
        shard.ask([(4, b"d")])
        assert len(fake.calls) == 3  # the shard is asked again

    def test_waiting_questions_fail_when_it_is_closed(self):
        fake = FakeShard()
        shard = CoalescingShard(fake, 1)
        _, waiting = shard.ask([(4, b"a")]), shard.ask([(4, b"b")])
        shard.close()
        fake.calls[0].end()
        with pytest.raises(ShardUnavailableError):
            waiting.result(0)
        with pytest.raises(ShardUnavailableError):
            shard.ask([(4, b"c")]).result(0)
