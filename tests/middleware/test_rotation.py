"""Whose turn it is: pure decisions, with a clock made of numbers."""

from satrap.middleware.rotation import Rotation


def test_in_turn():
    rotation = Rotation(3)
    assert [rotation.order(0.0) for _ in range(4)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


def test_dead_one_comes_last_for_a_second():
    rotation = Rotation(3)
    rotation.failed(1, 10.0)
    assert rotation.order(10.5) == [0, 2, 1]
    assert rotation.order(10.9) == [2, 0, 1]
    assert rotation.order(11.1) == [2, 0, 1]
    assert rotation.order(11.1) == [0, 1, 2]


def test_all_dead_are_tried_all_the_same():
    rotation = Rotation(2)
    rotation.failed(0, 0.0)
    rotation.failed(1, 0.0)
    assert rotation.order(0.1) == [0, 1]
    assert rotation.order(0.1) == [1, 0]


def test_one_place():
    rotation = Rotation(1)
    rotation.failed(0, 0.0)
    assert rotation.order(0.0) == [0]
