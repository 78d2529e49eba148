"""A whole store as a folder of three Parquet tables, for pandas, pyarrow, DuckDB or `datasets`.

    answers.parquet   uuid, query_id, kind, choice, teacher, labeller, shown_at, answered_at
                      (float64, seconds UTC), details (JSON text), supersedes (uuid or null),
                      stands (bool)
    queries.parquet   id, seed (text), round, index, clip_ids (list), n_wanted, expected,
                      expected_source
    clips.parquet     id, context_id, obs, actions, true_rewards or null, sim_states or null:
                      lists of numbers of the clips' own dtypes, each flat, with its shape in a
                      column of its own (obs_shape, ...)

The schemas' metadata holds, under "rlhf_gym", a JSON object of format, version and counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_gym.data import Array, Clip
from rlhf_gym.documents import parse_json
from rlhf_gym.errors import CorruptDataError
from rlhf_gym.feedback.formats.snapshot import Snapshot
from rlhf_gym.feedback.formats.tables import (
    FORMAT,
    VERSION,
    SnapshotBuilder,
    answer_rows,
    check_version,
    query_rows,
)
from rlhf_gym.feedback.formats.targets import new_folder
from rlhf_gym.reading import limited, require_regular

__all__ = ["read_parquet", "write_parquet"]

_KEY = b"rlhf_gym"
_ARRAYS = ("obs", "actions", "true_rewards", "sim_states")
_CHUNK_BYTES = 64 << 20
"""A row group of clips stays well below the 2^31 numbers that a list column can hold."""

_ID_BYTES = 16
"""What a row takes at least, however it is compressed: its uuid or sha256 is random."""

_GROUP_NUMBERS, _GROUP_BYTES = 1 << 28, 1 << 30
_FOOTER_BYTES = 16 << 20

_READ_ERRORS = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises on damaged files."""

_STRING = pa.string()
_ANSWERS = pa.schema(
    [
        ("uuid", _STRING),
        ("query_id", _STRING),
        ("kind", _STRING),
        ("choice", _STRING),
        ("teacher", _STRING),
        ("labeller", _STRING),
        ("shown_at", pa.float64()),
        ("answered_at", pa.float64()),
        ("details", _STRING),
        ("supersedes", _STRING),
        ("stands", pa.bool_()),
    ]
)
_QUERIES = pa.schema(
    [
        ("id", _STRING),
        ("seed", _STRING),
        ("round", pa.int64()),
        ("index", pa.int64()),
        ("clip_ids", pa.list_(_STRING)),
        ("n_wanted", pa.int64()),
        ("expected", _STRING),
        ("expected_source", _STRING),
    ]
)


def write_parquet(snapshot: Snapshot, folder: Path) -> None:
    """Write a snapshot.

    Args:
        snapshot: What to write.
        folder: A new folder for the three files.

    Raises:
        ConfigError: the folder exists.
        OSError: the disk is full; nothing is left behind.
    """
    answers = [
        {**row, "details": json.dumps(row["details"], allow_nan=False)}
        for row in answer_rows(snapshot)
    ]
    clips = snapshot.clips()
    counts = {
        "n_clips": len(clips),
        "n_queries": len(snapshot.queries),
        "n_answers": len(answers),
    }
    header = {"format": FORMAT, "version": VERSION, **counts}
    with new_folder(folder) as temporary:
        for name, schema, rows in (
            ("answers.parquet", _ANSWERS, answers),
            ("queries.parquet", _QUERIES, query_rows(snapshot)),
        ):
            schema = _with_header(schema, header)
            table = pa.Table.from_pylist(rows, schema)
            pq.write_table(table, temporary / name, write_page_checksum=True)
        _write_clips(temporary / "clips.parquet", clips, header)


def read_parquet(folder: Path) -> Snapshot:
    """Read what `write_parquet` wrote, and check all of it.

    Raises:
        CorruptDataError: a file is missing or damaged, another format or version, or rows that
            do not fit together.
    """
    builder = SnapshotBuilder(folder)
    header: dict[str, Any] = {}
    files = {name: _open(folder / f"{name}.parquet") for name in ("clips", "queries", "answers")}
    for name, file in files.items():
        with file:
            header = _header(file, folder / f"{name}.parquet")
            for number, row in _rows(file, folder / f"{name}.parquet"):
                where = f"{name}.parquet, row {number}"
                if name == "clips":
                    builder.add_clip(row, _unpack(row, header, folder, where), where)
                elif name == "queries":
                    builder.add_query(row, where)
                else:
                    builder.add_answer({**row, "details": _details(row, folder, where)}, where)
        if name == "answers" and builder.counts() != {n: header.get(n) for n in builder.counts()}:
            raise CorruptDataError(
                f"`{folder}` announces {header}, but holds {builder.counts()}: its files are not "
                "of one export. Nothing was imported."
            )
    return builder.snapshot()


def _with_header(schema: pa.Schema, header: Mapping[str, Any]) -> pa.Schema:
    return schema.with_metadata({_KEY: json.dumps(header).encode()})


def _write_clips(path: Path, clips: Sequence[Clip], header: Mapping[str, Any]) -> None:
    # Parquet knows no byte order: the dtypes stand in the metadata, and come back from there.
    dtypes = {name: getattr(clips[0], name).dtype for name in ("obs", "actions") if clips}
    schema_fields = [("id", _STRING), ("context_id", _STRING)]
    for name in _ARRAYS:
        dtype = dtypes.get(name, np.dtype(np.float32)).newbyteorder("=")
        schema_fields += [
            (name, pa.list_(pa.from_numpy_dtype(dtype))),
            (f"{name}_shape", pa.list_(pa.int64())),
        ]
    described = {**header, "dtypes": {name: dtype.str for name, dtype in dtypes.items()}}
    schema = _with_header(pa.schema(schema_fields), described)
    # A dictionary of distinct numbers would neither shrink the lists nor keep every NaN's bits.
    options = {"use_dictionary": ["context_id"], "write_page_checksum": True}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for chunk in _chunks(clips):
            columns = [
                pa.array([clip.id for clip in chunk]),
                pa.array([clip.context_id for clip in chunk]),
            ]
            for i, name in enumerate(_ARRAYS):
                arrays = [getattr(clip, name) for clip in chunk]
                shapes = [None if a is None else np.array(a.shape, np.int64) for a in arrays]
                columns += [
                    _lists(arrays, schema.field(2 + 2 * i).type.value_type),
                    _lists(shapes, pa.int64()),
                ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _chunks(clips: Sequence[Clip]) -> Iterator[list[Clip]]:
    chunk: list[Clip] = []
    n_bytes = 0
    for clip in clips:
        size = sum(a.nbytes for a in (getattr(clip, n) for n in _ARRAYS) if a is not None)
        if chunk and n_bytes + size > _CHUNK_BYTES:
            yield chunk
            chunk, n_bytes = [], 0
        chunk.append(clip)
        n_bytes += size
    if chunk:
        yield chunk


def _lists(arrays: Sequence[Array | None], dtype: pa.DataType) -> pa.ListArray:
    """Arrays as flat lists in one column, None as null."""
    native = [
        np.zeros(0, dtype.to_pandas_dtype())
        if a is None
        else a.reshape(-1).astype(a.dtype.newbyteorder("="), copy=False)
        for a in arrays
    ]
    offsets = np.concatenate([[0], np.cumsum([len(a) for a in native])]).astype(np.int32)
    values = pa.array(np.concatenate(native), dtype, from_pandas=False)
    mask = pa.array([a is None for a in arrays], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=mask)


def _open(path: Path) -> pq.ParquetFile:
    try:
        require_regular(path)
        file = pq.ParquetFile(
            path,
            page_checksum_verification=True,
            thrift_string_size_limit=_FOOTER_BYTES,
            thrift_container_size_limit=_FOOTER_BYTES,
        )
    except CorruptDataError:
        raise
    except FileNotFoundError as error:
        raise CorruptDataError(
            f"`{path}` is missing; an export is a folder of answers.parquet, queries.parquet and "
            "clips.parquet: copy all three."
        ) from error
    except _READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the rights, not the content
        raise _damaged(path, error) from error
    try:
        _check_size(file.metadata, path)
    except BaseException:
        file.close()
        raise
    return file


def _check_size(metadata: pq.FileMetaData, path: Path) -> None:
    """Refuse what would unpack to more than an export holds: a run length costs a few bytes."""
    if metadata.num_rows * _ID_BYTES > path.stat().st_size:
        raise CorruptDataError(
            f"`{path}` promises {metadata.num_rows:,} rows in {path.stat().st_size:,} bytes, fewer "
            "than their ids take. Nothing was imported: copy it again."
        )
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            what = f"a row group of `{path}` promises in the column {column.path_in_schema}"
            limited(column.num_values, _GROUP_NUMBERS, what, "numbers")
            limited(column.total_uncompressed_size, _GROUP_BYTES, what)


def _damaged(path: Path, error: Exception) -> CorruptDataError:
    return CorruptDataError(
        f"`{path}` is damaged or not a Parquet file ({error}); nothing was imported: copy it again."
    )


def _header(file: pq.ParquetFile, path: Path) -> dict[str, Any]:
    try:
        header = parse_json((file.schema_arrow.metadata or {}).get(_KEY, b"{}"), "its header")
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error
    check_version(header if isinstance(header, dict) else {}, path)
    return dict(header)


def _rows(file: pq.ParquetFile, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number, from 1, and content; columns of numbers are numpy arrays, not lists."""
    number = 0
    try:
        for batch in file.iter_batches(batch_size=256):
            for i in range(batch.num_rows):
                number += 1
                yield number, {name: _cell(batch.column(name)[i]) for name in batch.schema.names}
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error


def _cell(scalar: pa.Scalar) -> Any:
    if isinstance(scalar, pa.ListScalar) and not pa.types.is_string(scalar.type.value_type):
        return None if not scalar.is_valid else scalar.values.to_numpy(zero_copy_only=False)
    return scalar.as_py()


def _unpack(
    row: Mapping[str, Any], header: Mapping[str, Any], folder: Path, where: str
) -> dict[str, Array | None]:
    arrays: dict[str, Array | None] = {}
    for name in _ARRAYS:
        flat, shape = row.get(name), row.get(f"{name}_shape", [])
        if flat is None:
            arrays[name] = None
            continue
        try:
            dtype = np.dtype(header["dtypes"].get(name, flat.dtype))
            if dtype.newbyteorder("=") != flat.dtype:
                raise ValueError(f"its dtype is {flat.dtype}, not {dtype}")
            arrays[name] = flat.astype(dtype).reshape([int(n) for n in shape])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptDataError(
                f"`{folder}`, {where}: `{name}` is not an array as they are stored here "
                f"({type(error).__name__}: {error}). Nothing was imported."
            ) from error
    return arrays


def _details(row: Mapping[str, Any], folder: Path, where: str) -> Any:
    try:
        return parse_json(row["details"], "it")
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(
            f"`{folder}`, {where}: `details` is not JSON ({error}). Nothing was imported."
        ) from error
