"""Lookup over real gRPC: PERSIA's rows, bit for bit, and every way to ask wrongly."""

import threading

import grpc
import numpy as np
import pytest

from satrap._core.table import MAX_DIM
from satrap.trainer import write_persia_checkpoint


@pytest.fixture
def contents(contents_of):
    return contents_of("ckpt_2x4")


class TestPersiasRows:
    @pytest.mark.parametrize("replica_size", [1, 2, 3])
    def test_every_row_of_every_shard(self, serve, persia_data, contents, replica_size, rows_of):
        signs, dims = contents["sign"], contents["dim"]
        values = np.split(contents["values"], contents["offsets"][1:-1])
        seen = 0
        for index in range(replica_size):
            server = serve(
                checkpoint=persia_data / "ckpt_2x4", replica_index=index, replica_size=replica_size
            )
            response = server.lookup((8, signs), (16, signs), (32, signs))
            assert [group.dim for group in response.groups] == [8, 16, 32]
            for group in response.groups:
                rows = rows_of(group)
                present = 0
                for sign_dim, row, expected in zip(dims, rows, values, strict=True):
                    if sign_dim == group.dim and row.tobytes() == expected.tobytes():
                        present += 1
                    else:
                        assert row.tobytes() == bytes(row.nbytes)
                assert group.missing + group.dim_mismatch + present == len(signs)
                seen += present
        assert seen == len(signs)

    def test_float16_rows_are_rounded_once(self, serve, persia_data, contents):
        server = serve(checkpoint=persia_data / "ckpt_2x4", row_dtype="float16")
        chosen = np.flatnonzero(contents["dim"] == 16)
        (group,) = server.lookup((16, contents["sign"][chosen])).groups
        values = np.split(contents["values"], contents["offsets"][1:-1])
        with np.errstate(over="ignore", invalid="ignore"):
            expected = np.stack([values[i] for i in chosen]).astype(np.float16)
        assert group.rows == expected.tobytes()

    def test_every_row_of_a_damaged_list(self, serve, persia_data, contents_of):
        damaged = contents_of("ckpt_evicted_lru_corrupt")
        server = serve(checkpoint=persia_data / "ckpt_evicted_lru_corrupt")
        (group,) = server.lookup((8, damaged["scan_sign"])).groups
        assert group.rows == damaged["scan_values"].tobytes() and group.missing == 0
        (warning,) = server.status().warnings
        assert "95 are there" in warning


class TestCounting:
    @pytest.fixture
    def server(self, serve, tmp_path):
        tables = {
            2: (np.array([1, 2], np.uint64), np.full((2, 2), 2, np.float32)),
            4: (np.array([3], np.uint64), np.full((1, 4), 4, np.float32)),
        }
        write_persia_checkpoint(tmp_path / "ckpt", tables, num_shards=1)
        return serve(checkpoint=tmp_path / "ckpt")

    def test_absent_and_of_another_dim_are_zeros_and_counted_apart(self, server, rows_of):
        response = server.lookup((2, [1, 3, 9, 2, 9]), (4, [3, 1]), (8, [1, 3, 9]))
        assert [(g.missing, g.dim_mismatch) for g in response.groups] == [(2, 1), (0, 1), (1, 2)]
        assert rows_of(response.groups[0]).tolist() == [[2, 2], [0, 0], [0, 0], [2, 2], [0, 0]]
        assert rows_of(response.groups[1]).tolist() == [[4] * 4, [0] * 4]
        assert not rows_of(response.groups[2]).any() and rows_of(response.groups[2]).shape == (3, 8)
        status = server.status()
        assert (status.lookups, status.missing, status.dim_mismatch) == (10, 3, 4)

    def test_no_groups_and_no_signs(self, server):
        assert list(server.lookup().groups) == []
        (group,) = server.lookup((2, [])).groups
        assert (group.dim, group.rows, group.missing) == (2, b"", 0)

    def test_signs_at_the_ends_of_their_range(self, server):
        (group,) = server.lookup((2, [0, 2**64 - 1])).groups
        assert group.missing == 2

    def test_callers_at_once_are_all_counted(self, server):
        def ask() -> None:
            for _ in range(50):
                server.lookup((2, [1, 3, 9]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        status = server.status()
        assert (status.lookups, status.missing, status.dim_mismatch) == (600, 200, 200)


class TestBadRequests:
    @pytest.fixture
    def server(self, serve, persia_data):
        return serve(checkpoint=persia_data / "ckpt_1x1")

    @pytest.mark.parametrize("shard", [(1, 2), (0, 2), (1, 1)])
    def test_another_shard_is_meant(self, server, shard, refused):
        code, details = refused(lambda: server.lookup((8, [1]), shard=shard))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "is shard 0 of 1" in details and f"asked for shard {shard[0]} of {shard[1]}" in details

    def test_signs_that_are_cut(self, server, refused):
        code, details = refused(lambda: server.lookup((8, [1]), (8, b"123456789")))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "groups[1].signs has 9 bytes" in details

    @pytest.mark.parametrize("dim", [0, MAX_DIM + 1, 2**32 - 1])
    def test_dim_out_of_range(self, server, dim, refused):
        code, details = refused(lambda: server.lookup((dim, [1])))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"groups[0].dim is {dim}; it must be 1 to {MAX_DIM}" in details

    def test_answer_too_great_to_send(self, server, refused):
        signs = bytes(8 * 140_000)
        code, details = refused(lambda: server.lookup((MAX_DIM, signs)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "ask for fewer signs at a time" in details

    def test_bytes_that_are_no_message(self, server, refused):
        call = server.channel.unary_unary("/satrap.embedding.v1.EmbeddingService/Lookup")
        code, _ = refused(lambda: call(b"\xff\xff\xff\xff", timeout=20))
        assert code is grpc.StatusCode.INTERNAL

    def test_the_next_request_is_answered(self, server, refused, contents_of):
        signs = contents_of("ckpt_1x1")["sign"]
        for bad in ((8, b"1"), (0, [1])):
            refused(lambda bad=bad: server.lookup(bad))
            assert server.lookup((8, signs)).groups[0].missing == 0
