"""The manifest: what it says, and each way in which it can be bad."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import (
    FormatVersionError,
    InvalidInputError,
    ManifestError,
    OrdinalRangeError,
    PathEscapeError,
    RowCountError,
    UpdateError,
)
from satrap.formats.manifest import (
    MAX_SEQUENCE,
    Dense,
    DimLimits,
    FileEntry,
    Manifest,
    after_sequence,
    format_manifest,
    manifest_name,
    parse_manifest,
    parse_manifest_name,
)

ROWS = FileEntry("x.16-float32.0-of-2.arrow", "rows", 16, "float32", 0, 10, 1700, "xxh3_64:00000000000000ff")
DELETES = FileEntry("x.16-deletes.1-of-2.arrow", "deletes", 16, None, 1, 3, 700, "xxh3_64:0123456789abcdef")
PACKET = Manifest(
    kind="incremental",
    stream="ads",
    writer="5a1c",
    sequence=812,
    previous=811,
    shards=2,
    published_ns=1_700_000_000_000_000_003,
    oldest_event_ns=1_700_000_000_000_000_001,
    newest_event_ns=1_700_000_000_000_000_002,
    files=(ROWS, DELETES),
    embedding_config="ab" * 32,
    dense=Dense("ctr", "7"),
)
CHECKPOINT = replace(
    PACKET,
    kind="full",
    previous=None,
    files=(ROWS,),
    limits={8: DimLimits(0, 0.0), 16: DimLimits(10, 1.5)},
    dense=None,
    embedding_config=None,
)


def content_of(manifest=PACKET):
    return json.loads(format_manifest(manifest))


def parse(content, path="folder/manifest"):
    return parse_manifest(path, content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.mark.parametrize(
    "manifest", [PACKET, CHECKPOINT, replace(PACKET, files=()), replace(CHECKPOINT, sequence=0)]
)
def test_what_is_written_is_read(manifest):
    assert parse_manifest(f"folder/{manifest.name}", format_manifest(manifest)) == manifest


def test_unknown_keys_are_left_alone():
    content = content_of()
    content["later"] = {"a": [1]}
    content["files"][0]["later"] = 1.5
    assert parse(content) == PACKET


def test_names_sort_as_sequences_do():
    names = [manifest_name(sequence, "5a1c") for sequence in (0, 1, 9, 10, 99, 100, MAX_SEQUENCE)]
    assert names == sorted(names)
    assert parse_manifest_name(names[3]) == (10, "5a1c")
    assert [name for name in names if name > after_sequence(10)] == names[3:]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "manifest.json",
        "1-a.json",
        f"{1:020d}-.json",
        f"{1:020d}-a.jsonx",
        f"{1:020d}-a.json\n",
        f"{1:020d}-a.b.json",
        f".{1:020d}-a.json",
        f"{1:020d}-{'a' * 65}.json",
        f"{'٣' * 20}-a.json",
        "hold-ads.json",
        ROWS.name,
    ],
)
def test_other_names_are_no_manifests(name):
    assert parse_manifest_name(name) is None


def test_a_copy_under_another_name_is_refused():
    with pytest.raises(ManifestError, match=r"its name is another manifest's.*0812-5a1c"):
        parse_manifest(f"folder/{manifest_name(813, '5a1c')}", format_manifest(PACKET))


@pytest.mark.parametrize("key", sorted(set(content_of()) - {"dense", "embedding_config"}))
def test_a_missing_key_is_named(key):
    content = content_of()
    del content[key]
    with pytest.raises(ManifestError, match=key):
        parse(content)


@pytest.mark.parametrize("key", sorted(set(vars(ROWS))))
def test_a_missing_key_of_a_file_is_named(key):
    content = content_of()
    del content["files"][0][key]
    with pytest.raises(ManifestError, match=rf"files\[0\]\.{key}"):
        parse(content)


INTEGERS = ["version", "sequence", "previous", "shards", "published_ns", "oldest_event_ns", "newest_event_ns"]


@pytest.mark.parametrize("value", [-1, 1.0, 1.5, True, "1", None, [], {}, 2**63, 10**400])
@pytest.mark.parametrize("key", INTEGERS)
def test_what_is_no_integer_in_range_is_refused(key, value):
    content = content_of() | {key: value}
    allowed = (FormatVersionError,) if key == "version" else (OrdinalRangeError,) if key == "sequence" else ()
    with pytest.raises((ManifestError, *allowed), match=r"version|integer|32 bits"):
        parse(content)


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, 2**63])
@pytest.mark.parametrize("key", ["dim", "shard", "rows", "bytes"])
def test_what_is_no_integer_of_a_file_is_refused(key, value):
    content = content_of()
    content["files"][0][key] = value
    with pytest.raises(ManifestError, match=rf"files\[0\]\.{key} must be an integer"):
        parse(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "another kind of file"),
        ({"format": None}, "another kind of file"),
        ({"kind": "partial"}, "incremental or full"),
        ({"kind": ["full"]}, "incremental or full"),
        ({"stream": ""}, "stream"),
        ({"stream": "a/b"}, "stream"),
        ({"stream": "../b"}, "stream"),
        ({"stream": "a" * 101}, "stream"),
        ({"stream": "a\u0000"}, "stream"),
        ({"stream": "\ud800"}, "stream"),
        ({"writer": "a.b"}, "writer"),
        ({"writer": 5}, "writer"),
        ({"sequence": 0}, "sequence must be an integer from 1"),
        ({"previous": 812}, "previous"),
        ({"previous": None}, "previous"),
        ({"shards": 0}, "shards"),
        ({"shards": 65_537}, "shards"),
        ({"oldest_event_ns": 5, "newest_event_ns": 4}, "later than"),
        ({"embedding_config": ""}, "embedding_config"),
        ({"embedding_config": 5}, "embedding_config"),
        ({"embedding_config": "a" * 257}, "embedding_config"),
        ({"dense": "ctr"}, "dense must be an object"),
        ({"dense": {"model": "ctr"}}, "dense.version is missing"),
        ({"dense": {"model": "", "version": "1"}}, "dense.model"),
        ({"files": {}}, "files must be a list"),
        ({"files": [5]}, r"files\[0\] must be an object"),
        ({"files": [vars(ROWS), vars(ROWS)]}, "named twice"),
    ],
)
def test_values_that_may_not_be(change, reason):
    with pytest.raises(ManifestError, match=reason):
        parse(content_of() | change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "upserts"}, "rows or deletes"),
        ({"dtype": "float64"}, "float32 or float16"),
        ({"dtype": None}, "float32 or float16"),
        ({"dim": 0}, "dim"),
        ({"dim": 4097}, "dim"),
        ({"shard": 2}, "shard must be an integer from 0 to 1"),
        ({"bytes": 0}, "bytes"),
        ({"checksum": "xxh3_64:00000000000000FF"}, "checksum"),
        ({"checksum": "md5:00"}, "checksum"),
        ({"name": ".hidden"}, "unfinished"),
        ({"name": manifest_name(812, "5a1c")}, "a manifest"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "a" * 257}, "1 to 256"),
    ],
)
def test_values_of_a_file_that_may_not_be(change, reason):
    content = content_of()
    content["files"][0] |= change
    with pytest.raises(ManifestError, match=reason):
        parse(content)


def test_deletes_have_no_dtype():
    content = content_of()
    content["files"][1]["dtype"] = "float32"
    with pytest.raises(ManifestError, match="deletes have no rows"):
        parse(content)


@pytest.mark.parametrize(
    "name", ["../x.arrow", "/etc/passwd", "a/b.arrow", "..", ".", "a\\b", "sub/../x", "s3://bucket/x"]
)
def test_a_file_elsewhere_is_refused(name):
    content = content_of()
    content["files"][0]["name"] = name
    with pytest.raises(PathEscapeError, match="not one of its own folder"):
        parse(content)


@pytest.mark.parametrize("sequence", [2**32, 2**63, 10**30])
def test_a_sequence_without_an_ordinal_is_refused(sequence):
    with pytest.raises(OrdinalRangeError, match="32 bits"):
        parse(content_of() | {"sequence": sequence})
    assert parse(content_of() | {"sequence": 2**32 - 1}).sequence == MAX_SEQUENCE


@pytest.mark.parametrize("rows", [11, 1_700, 2**62])
def test_more_rows_than_the_bytes_can_hold_are_refused(rows):
    content = content_of()
    content["files"][0] |= {"rows": rows, "bytes": 10 * 72}
    with pytest.raises(RowCountError, match=f"said to have {rows} records of 72 bytes in 720 bytes"):
        parse(content)


def test_a_later_version_is_told_from_a_broken_file():
    with pytest.raises(FormatVersionError, match="format version 2, and this satrap reads 1"):
        parse({"format": "satrap-update", "version": 2})


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ([], "limits must be an object"),
        ({"0": {"rows": 1, "norm_p999": 1}}, "is not a dim"),
        ({"016": {"rows": 1, "norm_p999": 1}}, "is not a dim"),
        ({"4097": {"rows": 1, "norm_p999": 1}}, "is not a dim"),
        ({"16": 5}, "must be an object"),
        ({"16": {"rows": 1}}, "limits.16.norm_p999 is missing"),
        ({"16": {"rows": 1.0, "norm_p999": 1}}, "limits.16.rows"),
        ({"16": {"rows": 1, "norm_p999": "1"}}, "a number"),
        ({"16": {"rows": 1, "norm_p999": True}}, "a number"),
        ({"16": {"rows": 1, "norm_p999": -1}}, "not negative"),
        ({"16": {"rows": 1, "norm_p999": 10**400}}, "finite"),
    ],
)
def test_limits_that_may_not_be(limits, reason):
    with pytest.raises(ManifestError, match=reason):
        parse(content_of(CHECKPOINT) | {"limits": limits})


def test_an_infinite_limit_is_refused():
    data = format_manifest(CHECKPOINT).replace(b"1.5", b"1e999")
    with pytest.raises(ManifestError, match="finite"):
        parse(data)


def test_a_checkpoint_has_neither_deletes_nor_a_previous():
    with pytest.raises(ManifestError, match="has no deletes"):
        parse(content_of(CHECKPOINT) | {"files": [vars(DELETES)]})
    with pytest.raises(ManifestError, match="previous must be null"):
        parse(content_of(CHECKPOINT) | {"previous": 811})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (format_manifest(PACKET)[:-3], "not JSON"),
        (format_manifest(PACKET) + b"{}", "not JSON"),
        (format_manifest(PACKET).replace(b"ads", b"\xffds"), r"not UTF-8 \(at byte"),
        (format_manifest(PACKET).decode().encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf" + format_manifest(PACKET), "not JSON"),
        (format_manifest(PACKET).replace(b"811", b"NaN"), "NaN is not JSON"),
        (format_manifest(PACKET).replace(b"811", b"-Infinity"), "-Infinity is not JSON"),
        (format_manifest(PACKET).replace(b'"previous"', b'"sequence"'), "'sequence' comes twice"),
        (format_manifest(PACKET).replace(b'"dim": 16, ', b'"dim": 16, "dim": 8, ', 1), "'dim' comes twice"),
        (format_manifest(PACKET).replace(b"811", b"8" * 5_000), "not JSON that can be read"),
        (b'{"a":' * 100_000, "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_not_json(data, reason):
    with pytest.raises(ManifestError, match=reason):
        parse(data)


def test_an_enormous_manifest_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr("satrap.formats.strict_json.MAX_JSON_BYTES", 100)
    with pytest.raises(ManifestError, match="more than 100 bytes"):
        parse(PACKET and format_manifest(PACKET))


def test_every_error_is_bad_input_with_a_code():
    for error in (ManifestError, FormatVersionError, OrdinalRangeError, PathEscapeError, RowCountError):
        assert issubclass(error, UpdateError) and issubclass(error, InvalidInputError) and error.code


@given(st.data())
def test_any_byte_changed_is_read_or_refused(data):
    content = bytearray(format_manifest(data.draw(st.sampled_from([PACKET, CHECKPOINT]))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        manifest = parse(bytes(content))
    except UpdateError:
        return
    assert parse(format_manifest(manifest)) == manifest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([PACKET, CHECKPOINT]), st.data())
def test_any_value_is_read_or_refused(manifest, data):
    content = content_of(manifest)
    place = content["files"][0] if data.draw(st.booleans()) else content
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    try:
        read = parse(content)
    except UpdateError:
        return
    assert parse(format_manifest(read)) == read


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(ManifestError):
        parse(data)
