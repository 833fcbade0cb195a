"""What `satrap up` decides."""

from satrap.cli.up import ready_line, serving_ports, shard_count


def test_the_flag_wins_over_the_config_and_one_is_the_least():
    assert shard_count(3, ["a:1", "b:2"]) == 3
    assert shard_count(None, ["a:1", "b:2"]) == 2
    assert shard_count(None, []) == 1


def test_the_ready_line_adds_up_what_the_children_said():
    assert (
        ready_line(
            [
                "satrap embedding-server ready on 127.0.0.1:41: shard 0 of 2, 1,500 rows",
                "satrap embedding-server ready on 127.0.0.1:42: shard 1 of 2, 500 rows",
                "satrap serving ready on 127.0.0.1:7070 (inference), 127.0.0.1:7071 (management): 1 model",
            ]
        )
        == "satrap up ready on 127.0.0.1:7070 (inference), 127.0.0.1:7071 (management): 1 model, 2 shards, 2,000 rows"
    )


def test_serving_keeps_the_ports_that_it_picked():
    line = "satrap serving ready on [::1]:4101 (inference), [::1]:4102 (management): 1 model"
    assert serving_ports(line) == {"inference": 4101, "management": 4102}


def test_a_unix_socket_has_no_port_and_apis_that_share_one_have_it_both():
    line = (
        "satrap serving ready on 127.0.0.1:1 (inference), 127.0.0.1:2 (management), 127.0.0.1:3 (REST inference), "
        "127.0.0.1:3 (metrics), unix:/a/b:80 (REST management): 1 model"
    )
    assert serving_ports(line) == {"inference": 1, "management": 2, "REST inference": 3, "metrics": 3}
