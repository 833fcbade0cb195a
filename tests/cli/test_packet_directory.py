"""Where packets are followed: the flag, then satrap's key, then PERSIA's."""

import pytest

from satrap.cli.options import packet_directory
from satrap.config import GlobalConfig

PERSIA = {"enable_incremental_update": True, "incremental_dir": "/inc"}


@pytest.mark.parametrize(
    ("flag", "ours", "persia", "expected"),
    [
        (None, "", {}, ""),
        (None, "", {"incremental_dir": "/inc"}, ""),  # not enabled
        (None, "", PERSIA, "/inc"),
        (None, "s3://packets", PERSIA, "s3://packets"),
        ("/flag", "s3://packets", PERSIA, "/flag"),
        ("", "s3://packets", PERSIA, ""),  # a flag that turns it off
    ],
)
def test_directory(flag, ours, persia, expected):
    config = GlobalConfig.model_validate(
        {"updates": {"directory": ours}, "embedding_parameter_server_config": persia}
    )
    assert packet_directory(flag, config) == expected
