"""The inputs of `hostile.py`: files that nobody sound would write, for every door of the program.

A case is a folder that `make` fills and the command line that is then given there. `Sample` holds
sound ones to damage: a finished run, a store of texts, and exports of both.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import socket
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MARK", "Case", "Sample", "all_cases", "make_sample"]

MARK = "HOSTILE_MARK"
"""The environment variable that names the file which planted code would write."""
STEER = "\x1b[31mred\x1b]52;c;aGk=\x07\x9b2J\u202eevil\r[/]x[red]"
PLANT = f"import os\nopen(os.environ[{MARK!r}], 'w').write(__name__)\n"
SMALL = [
    "--env", "rlhf_gym/PointMass-v0", "--labels", "20", "--steps", "1600", "--rounds", "2",
    "--clip-length", "10", "--eval-episodes", "1", "--final-episodes", "2",
    "--ensemble.hidden", "8", "--ensemble.fit.max-epochs", "2",
    "--hyperparameters", "n_envs=2", "n_steps=100", "batch_size=100", "n_epochs=1",
]  # fmt: skip

Make = Callable[[Path, random.Random], None]
Content = bytes | Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One hostile input."""

    name: str
    make: Make
    """Fills the folder that the command stands in."""
    arguments: list[str]
    fresh: bool = False
    """Whether it needs an interpreter of its own: what is planted would be imported only once."""
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Sound material to damage."""

    run: Path
    texts: Path
    pairs: Path
    jsonl: Path
    parquet: Path


def make_sample(parent: Path, main: Callable[[list[str]], None]) -> Sample:
    """A tiny finished run, a store of texts, and the run's exports."""
    sample = Sample(*(parent / name for name in ("run", "texts", "pairs.jsonl", "e.jsonl", "pq")))
    main(["train", *SMALL, "--out", str(sample.run)])
    rows = [
        {"prompt": f"{STEER} {i}", "chosen": f"good {STEER}", "rejected": f"bad {i}"}
        for i in range(6)
    ]
    sample.pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["import", str(sample.pairs), "--into", str(sample.texts)])
    main(["export", str(sample.run), "--out", str(sample.jsonl)])
    main(["export", str(sample.run), "--format", "parquet", "--out", str(sample.parquet)])
    return sample


# -- files of any kind ----------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has 107 bytes at most
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(path.name)
    os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS: dict[str, Callable[[Path], None]] = {
    "fifo": _fifo,
    "socket": _socket,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "sparse terabyte": _sparse,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


def _repeated(unit: bytes, n_bytes: int, start: bytes = b"", packed: bool = False) -> Content:
    """A large file, made when it is needed."""

    def write(path: Path) -> None:
        block = unit * max((1 << 20) // len(unit), 1)
        opened: Any = gzip.open(path, "wb", 6) if packed else path.open("wb")
        with opened as file:
            file.write(start)
            for _ in range(n_bytes // len(block)):
                file.write(block)

    return write


YAML: dict[str, Content] = {
    "alias bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
    )
    + b"env_kwargs: {x: *j}\n",
    "merge bomb": b"a: &a {k: 1}\n"
    + b"".join(
        b"%c: &%c {<<: [%s]}\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9))
        for i in range(9)
    ),
    "deep": b"env_kwargs: " + b"[" * 5000 + b"]" * 5000,
    "deep blocks": b"".join(b" " * i + b"a:\n" for i in range(900)),
    "digits": b"seed: " + b"9" * 5001,
    "inf": b"label_slack: 1e999\nwarm_up: .inf\n",
    "nan": b"initial_labels: .nan\n",
    "twice": b"seed: 1\nseed: 2\n",
    "nul": b"env: a\x00b\n",
    "nul escape": b'env: "a\\0b"\n',
    "latin": b"env: caf\xe9\n",
    "bom": b"\xef\xbb\xbfseed: x\n",
    "utf-16": "seed: x\n".encode("utf-16"),
    "cr": b"seed: 1\rsed: 2\r",
    "surrogate": b'env: "\\ud800"\n',
    "object": b"env: !!python/object/apply:os.system ['touch executed']\n",
    "itself": b"&a env_kwargs: &b {x: *b}\n",
    "unhashable": b"? {a: 1}\n: 2\n",
    "list": b"- 1\n",
    "empty": b"",
    "sexagesimal": b"seed: " + b"1:" * 3000 + b"1\n",
    "no date": b"env: 2001-99-99\n",
    "steer": f"env: {json.dumps(STEER)}\n".encode(),
    "steer key": f"{json.dumps(STEER)}: 1\n".encode(),
    "large": _repeated(b"x", 20 << 20, b"# "),
    "values": b"env_kwargs: {a: [" + b"1," * 400_000 + b"]}\n",
    "int key": b"1: 2\n",
    "wrong types": b"env: [1]\nlabels: {a: b}\nensemble: 3\n",
    "huge numbers": b"labels: 99999999999999999999\nsteps: 99999999999999999999\n",
    "too many labels": b"env: rlhf_gym/PointMass-v0\nlabels: 9223372036854775807\n",
    "hidden": b"ensemble: {hidden: 1000000000}\nenv: rlhf_gym/PointMass-v0\nlabels: 2\n",
    "no such env": b"env: rlhf_gym/Nothing-v0\n",
}

JSON: dict[str, Content] = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 3000 + b"1" + b"}" * 3000,
    "depth 900": b'{"a":' * 900 + b"1" + b"}" * 900,
    "digits": b'{"round": ' + b"9" * 5001 + b"}",
    "inf": b'{"round": 1e999, "true_return_mean": Infinity}',
    "nan": b'{"round": NaN, "seed": NaN}',
    "twice": b'{"round": 0, "round": 1}',
    "nul": b'{"round": 0}\x00',
    "latin": b'{"env_id": "caf\xe9"}',
    "bom": b"\xef\xbb\xbf{}",
    "surrogate": b'{"env_id": "\\ud800", "algo": "\\udfff"}',
    "steer": json.dumps({"env_id": STEER, "algo": STEER, "seed": STEER, STEER: 1}).encode(),
    "script": b'{"env_id": "<script>alert(1)</script>$\\\\frac{", "algo": "<b>"}',
    "list": b"[1, 2]",
    "number": b"3",
    "null": b"null",
    "wrong types": b'{"round": "x", "env_id": [1], "evaluation_returns": {"a": 1}, "seconds": 3, '
    b'"true_return_mean": "x", "n_labels": [], "reference": 5, "calibration": [1], "samples": 7}',
    "nulls": b'{"round": null, "n_labels": null, "env_steps": null, "seconds": null}',
    "huge": b'{"round": 1, "n_labels": ' + b"9" * 90 + b', "true_return_mean": 1e308}',
    "large": _repeated(b"x", 300 << 20, b'{"a": "'),
    "empty": b"",
    "cut": b'{"round": 1, "n_lab',
}

_PAIR = b'{"chosen": "a", "rejected": "b", "prompt": "c"}\n'
LINES: dict[str, Content] = {
    "long line": _repeated(b"x", 150 << 20, b'{"chosen": "'),
    "gzip bomb": _repeated(b"\n", 300 << 20, packed=True),
    "gzip bomb of rows": _repeated(b"{}\n", 300 << 20, packed=True),
    "gzip bomb of pairs": _repeated(_PAIR, 200 << 20, packed=True),
    "gzip bomb of a line": _repeated(b"x", 400 << 20, b'{"chosen": "', packed=True),
    "gzip cut": gzip.compress(_PAIR * 100)[:-20],
    "gzip damaged": gzip.compress(os.urandom(0) + _PAIR * 100)[:30] + b"\xff" * 40,
    "gzip header": b"\x1f\x8b",
    "blank lines": b"\n" * (3 << 20),
    "cr": _PAIR.replace(b"\n", b"\r") * 3,
    "nul": _PAIR + b"\x00\x00\n",
    "nul escape": b'{"chosen": "a\\u0000", "rejected": "b", "prompt": "c"}\n',
    "latin": b'{"chosen": "caf\xe9", "rejected": "b", "prompt": "c"}\n',
    "surrogate": b'{"chosen": "\\ud800", "rejected": "b", "prompt": "c"}\n',
    "twice": b'{"chosen": "a", "chosen": "b", "rejected": "c", "prompt": "d"}\n',
    "deep": b'{"chosen": ' + b"[" * 2000 + b"]" * 2000 + b', "rejected": "b"}\n',
    "deep columns": b'{"chosen": "a", "rejected": "b", "prompt": "p", "x": ' + b"[" * 500
    + b"]" * 500 + b"}\n",
    "digits": b'{"chosen": "a", "rejected": "b", "prompt": "p", "margin": ' + b"9" * 5000 + b"}\n",
    "inf": b'{"chosen": "a", "rejected": "b", "prompt": "p", "margin": 1e999}\n',
    "types": b'{"chosen": {"a": 1}, "rejected": ["x", 3], "prompt": 7}\n',
    "turns": b'{"chosen": [{"role": "\\u001b[31m", "content": 3}], "rejected": [{}]}\n',
    "steer columns": json.dumps({STEER: 1, "b": 2}).encode() + b"\n",
    "steer": json.dumps({"chosen": STEER, "rejected": "b", "prompt": STEER, STEER: 1}).encode()
    + b"\n",
    "steer header": json.dumps({"format": STEER, "version": STEER, "type": STEER}).encode() + b"\n",
    "panda": json.dumps({"instruction": STEER, "input": 3, "response1": "a", "response2": "b",
                         "annotator1": STEER, "annotator2": 99, "annotator3": None}).encode(),
    "empty": b"",
    "not json": b"hello\n" * 200_000,
}  # fmt: skip


def _put(name: str, content: Content) -> Make:
    def make(folder: Path, rng: random.Random) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)

    return make


def _copied(source: Path, name: str, change: Callable[[Path, random.Random], None]) -> Make:
    def make(folder: Path, rng: random.Random) -> None:
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder / name)
        change(folder / name, rng)

    return make


def _replaced(inner: str, content: Content) -> Make:
    """In a copied folder, another file in the place of one."""

    def change(folder: Path, rng: random.Random) -> None:
        path = folder / inner
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        _put(inner, content)(folder, rng)

    return change


def _flipped(inner: str, n: int = 8) -> Make:
    """In a copied folder, some bytes of one file changed, checkpoints sealed again."""

    def change(folder: Path, rng: random.Random) -> None:
        path = folder / inner if inner else folder
        content = bytearray(path.read_bytes())
        for _ in range(n):
            content[rng.randrange(min(len(content), 4000))] = rng.randrange(256)
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        if "checkpoints" in inner and path.name != "state.json":
            seal(path.parent)

    return change


def seal(checkpoint: Path, **changes: Any) -> None:
    """Write a state.json whose sums are right, as somebody would who forges a checkpoint."""
    path = checkpoint / "state.json"
    content = {**json.loads(path.read_bytes()), **changes}
    for name in content["files"] if isinstance(content["files"], dict) else ():
        if (checkpoint / name).is_file():
            content["files"][name] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    content.pop("sha256")
    text = json.dumps(content, sort_keys=True)
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(content))


# -- doors ----------------------------------------------------------------------------------------


def _options(sample: Sample) -> Iterator[Case]:
    """YAML through `--config`, `benchmark`, `--keys` and `config.yaml`; texts as rubrics."""
    for name, content in {**YAML, **KINDS}.items():
        yield Case(f"config: {name}", _put("o.yaml", content), ["train", "--config", "o.yaml"])
    for name in [*list(YAML)[:20], "steer", "large", "values", *KINDS]:
        content = {**YAML, **KINDS}[name]
        yield Case(f"benchmark: {name}", _put("s.yml", content), ["benchmark", "s.yml"])
    for name in ["alias bomb", "deep", "digits", "utf-16", "steer", "steer key", "large", *KINDS]:
        make = _both(
            _put("k.yaml", {**YAML, **KINDS}[name]), _copied(sample.texts, "s", lambda f, r: None)
        )
        yield Case(f"keys: {name}", make, ["label", "s", "--terminal", "--keys", "k.yaml"])
    rubrics: dict[str, Content] = {
        "20 MB": _repeated(b"# x\n", 20 << 20),
        "latin": b"\xe9",
        **KINDS,
    }
    for name, rubric in rubrics.items():
        make = _both(_put("r.md", rubric), _copied(sample.texts, "s", lambda f, r: None))
        yield Case(f"rubric: {name}", make, ["label", "s", "--terminal", "--rubric", "r.md"])
    for i, name in enumerate(YAML):
        command = [["report", "r"], ["evaluate", "r"], ["train", "--resume", "r"], ["fit", "r"]][
            i % 4
        ]
        make = _copied(sample.run, "r", _replaced("config.yaml", YAML[name]))
        yield Case(f"config.yaml: {name}", make, command)


def _both(*makes: Make) -> Make:
    def make(folder: Path, rng: random.Random) -> None:
        for one in makes:
            one(folder, rng)

    return make


def _documents(sample: Sample) -> Iterator[Case]:
    """JSON of a run, and the binary files of its checkpoint."""
    for name, content in JSON.items():
        for inner in ("metrics.jsonl", "summary.json"):
            is_line = isinstance(content, bytes) and inner == "metrics.jsonl"
            text = content + b"\n" if is_line else content
            make = _copied(sample.run, "r", _replaced(inner, text))
            yield Case(f"{inner}: {name}", make, ["report", "r"])
        if name in ("deep", "surrogate", "wrong types", "steer", "null", "twice"):
            make = _copied(sample.run, "r", _replaced("provenance.json", content))
            yield Case(f"provenance: {name}", make, ["report", "r"])
        if name in ("deep", "digits", "wrong types", "null", "steer", "large", "nan"):
            inner = "checkpoints/round-0001/state.json"
            make = _copied(sample.run, "r", _replaced(inner, content))
            yield Case(f"state.json: {name}", make, ["evaluate", "r"])
    for name, kind in KINDS.items():
        for inner, command in (
            ("metrics.jsonl", "report"), ("summary.json", "report"), ("config.yaml", "evaluate"),
            ("checkpoints/round-0001/agent.safetensors", "evaluate"), ("preferences.db", "labels"),
            ("preferences.db-journal", "labels"), ("clips/round-0000/obs.npy", "fit"),
        ):  # fmt: skip
            if name != "dangling link":
                make = _copied(sample.run, "r", _replaced(inner, kind))
                yield Case(f"{inner} as {name}", make, [command, "r"])
    states: dict[str, Any] = {
        "state a list": {"state": [1]}, "no state": {"state": None}, "round text": {"round": "x"},
        "files a list": {"files": ["a"]}, "files outside": {"files": {"../../config.yaml": "0"}},
        "files absolute": {"files": {"/dev/zero": "0"}}, "format text": {"format": "x"},
        "format newer": {"format": 10**9}, "round huge": {"round": 10**18},
        "state of strings": {"state": {"last_sequence": "x", "n_labels": {}, "n_asked": []}},
    }  # fmt: skip
    for name, changes in states.items():
        make = _copied(sample.run, "r", _sealed(changes))
        for command in (["evaluate", "r"], ["train", "--resume", "r"]):
            yield Case(f"sealed state, {name}: {command[0]}", make, command)


def _sealed(changes: dict[str, Any]) -> Make:
    def change(folder: Path, rng: random.Random) -> None:
        seal(folder / "checkpoints" / "round-0001", **changes)
        (folder / "summary.json").unlink()

    return change


def _binary(sample: Sample) -> Iterator[Case]:
    """Tensors, arrays and archives."""
    inner = "checkpoints/round-0001"
    for name in ("agent.safetensors", "recorder.npz", "agent.json", "reward_model.safetensors"):
        for i in range(5):
            make = _copied(sample.run, "r", _flipped(f"{inner}/{name}"))
            command = ["evaluate", "r"] if i % 2 else ["train", "--resume", "r"]
            yield Case(f"{name} flipped {i}", make, command)
    forged = {
        "header of 2**62 bytes": (2**62).to_bytes(8, "little") + b"{}",
        "offsets": _tensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        "negative": _tensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
        "names": _tensors({STEER: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
    }
    for name, content in forged.items():
        make = _copied(sample.run, "r", _forged(f"{inner}/agent.safetensors", content))
        yield Case(f"safetensors: {name}", make, ["evaluate", "r"])
    archives = {"bomb": _npz_bomb(), "objects": _npz_of_objects(), "promise": _npz(_promise())}
    for name, content in archives.items():
        make = _copied(sample.run, "r", _forged(f"{inner}/recorder.npz", content))
        yield Case(f"npz: {name}", make, ["evaluate", "r"])
    for name, content in {"promise": _promise(), "objects": _objects(), "empty": b""}.items():
        make = _copied(sample.run, "r", _replaced("clips/round-0000/obs.npy", content))
        for command in ("fit", "export"):
            out = ["--out", "new.jsonl"] if command == "export" else []
            yield Case(f"npy: {name}: {command}", make, [command, "r", *out])


def _forged(inner: str, content: bytes) -> Make:
    def change(folder: Path, rng: random.Random) -> None:
        _replaced(inner, content)(folder, rng)
        seal((folder / inner).parent)

    return change


def _tensors(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 4


def _promise() -> bytes:
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + b"\0" * 16


def _objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    return buffer.getvalue()


def _npz(content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("obs.npy", content)
    return buffer.getvalue()


def _npz_of_objects() -> bytes:
    return _npz(_objects())


def _npz_bomb() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(1 << 26, np.float32))
    return _npz(buffer.getvalue(), zipfile.ZIP_DEFLATED)


def _imports(sample: Sample) -> Iterator[Case]:
    """Every format, by name and by looking."""
    formats = ["auto", "pairs", "hh", "pandalm", "jsonl"]
    for i, (name, content) in enumerate({**LINES, **KINDS}.items()):
        for form in (
            formats if name in ("types", "turns", "steer") else ["auto", formats[1 + i % 4]]
        ):
            arguments = ["import", "in.jsonl", "--into", "new", "--format", form]
            yield Case(f"import {form}: {name}", _put("in.jsonl", content), arguments)
    for i in range(12):
        make = _copied(sample.jsonl, "in.jsonl", _flipped("", 1 + i % 4))
        yield Case(f"import flipped {i}", make, ["import", "in.jsonl", "--into", "new"])
    for i in range(9):
        file = ("answers", "queries", "clips")[i % 3]
        make = _copied(sample.parquet, "pq", _flipped(f"{file}.parquet", 1 + i))
        yield Case(f"import parquet flipped {i}", make, ["import", "pq", "--into", "new"])
    for name, kind in KINDS.items():
        make = _copied(sample.parquet, "pq", _replaced("clips.parquet", kind))
        yield Case(f"import parquet as {name}", make, ["import", "pq", "--into", "new"])
    for name, edit in RECORDS.items():
        make = _copied(sample.jsonl, "in.jsonl", _edited(edit))
        yield Case(f"import record: {name}", make, ["import", "in.jsonl", "--into", "new"])
    make = _both(_put("in.jsonl", b"{}\n"), _copied(sample.texts, "new", lambda f, r: None))
    yield Case("import into a store", make, ["import", "in.jsonl", "--into", "new"])


RECORDS: dict[str, dict[str, Any]] = {
    "monotonic": {"details": {"answered_monotonic": [1]}},
    "before shown": {"shown_at": 2e9, "answered_at": 1e9},
    "kind": {"kind": STEER},
    "labeller": {"labeller": STEER},
    "teacher": {"teacher": STEER},
    "time": {"shown_at": 1e308, "answered_at": 1e308},
    "itself": {"supersedes": "0" * 32},
    "details": {"details": {STEER: STEER, "left": [1], "shown": {"a": {}}}},
    "seconds": {"details": {"shown_monotonic": "x", "answered_monotonic": {}}},
}


def _edited(changes: dict[str, Any]) -> Callable[[Path, random.Random], None]:
    def change(path: Path, rng: random.Random) -> None:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        row = next(row for row in rows if row["type"] == "answer")
        row.update(changes)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return change


SQL: dict[str, str] = {
    "endless view": "PRAGMA writable_schema=ON; DROP TABLE leases; CREATE VIEW leases AS WITH "
    "RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT x AS query, '' AS labeller, "
    "'' AS sitting, 0.0 AS expires_at FROM c",
    "trigger": "CREATE TRIGGER evil AFTER INSERT ON answers BEGIN DELETE FROM queries; END",
    "no answers": "DROP TABLE answers",
    "payload": "DROP TRIGGER answers_stand; UPDATE answers SET payload = '" + "[" * 5000 + "'",
    "payload null": "DROP TRIGGER answers_stand; UPDATE answers SET payload = 'null'",
    "payload blob": "DROP TRIGGER answers_stand; UPDATE answers SET payload = x'00ff'",
    "large payload": "DROP TRIGGER answers_stand; UPDATE answers SET payload = "
    "hex(zeroblob(40000000)) WHERE sequence = 1",
    "kind": f"DROP TRIGGER answers_stand; UPDATE answers SET kind = '{STEER}'",
    "labeller": f"DROP TRIGGER answers_stand; UPDATE answers SET labeller = '{STEER}'",
    "teacher": f"DROP TRIGGER answers_stand; UPDATE answers SET teacher = '{STEER}'",
    "times": "DROP TRIGGER answers_stand; UPDATE answers SET shown_at = 'x', answered_at = 9e999",
    "cycle": "DROP TRIGGER answers_stand; UPDATE answers SET supersedes = sequence",
    "no clips": "PRAGMA foreign_keys=OFF; DELETE FROM query_clips WHERE place = 1",
    "rows": "UPDATE clips SET row = 1000000000, length = -5",
    "seed": "UPDATE queries SET seed = 'x', round = 'y'",
    "shard name": "UPDATE shards SET name = '../../..' WHERE shard = 1",
    "shard size": "UPDATE shard_files SET n_bytes = 9000000000000",
    "layout": "UPDATE shards SET layout = '[1]'",
    "context": f"UPDATE clips SET context = '{STEER}'",
    "version": "PRAGMA user_version = 99",
    "version 1": "PRAGMA user_version = 1",
    "not ours": "PRAGMA application_id = 1",
}


def _databases(sample: Sample) -> Iterator[Case]:
    """Stores: SQL that no store has, values of other types, damaged pages."""
    commands = [
        ["labels", "r"], ["fit", "r"], ["export", "r", "--out", "new.jsonl"],
        ["train", *SMALL, "--preferences", "r", "--out", "new"],
        ["labels", "r", "--json"],
    ]  # fmt: skip
    for i, (name, statements) in enumerate(SQL.items()):
        make = _copied(sample.run, "r", _executed(statements))
        for command in (commands[i % 5], commands[(i + 2) % 5]):
            yield Case(f"store, {name}: {command[0]}", make, command)
    for i in range(12):
        make = _copied(sample.run, "r", _flipped("preferences.db", 3 + 4 * i))
        yield Case(f"store flipped {i}", make, commands[i % 5])


def _executed(statements: str) -> Callable[[Path, random.Random], None]:
    def change(folder: Path, rng: random.Random) -> None:
        with closing(sqlite3.connect(folder / "preferences.db")) as connection:
            connection.executescript(statements)

    return change


def _code_and_links(sample: Sample) -> Iterator[Case]:
    """What would run a stranger's code, or write outside of the run."""
    options = {
        "env": "planted:Evil-v0", "algo": "planted:Agent", "teacher": "planted:Teacher",
        "acquisition": "planted:choose", "reward_model": "planted:Model",
    }  # fmt: skip
    for option, value in options.items():
        change = _both(_set_option(option, value), _put("planted.py", PLANT.encode()))
        for command in (["evaluate", "r"], ["fit", "r"], ["train", "--resume", "r"]):
            make = _both(_copied(sample.run, "r", change), _put("planted.py", PLANT.encode()))
            yield Case(f"{option} of a run: {command[0]}", make, command)
    for module in ("sqlite3", "jinja2", "yaml", "av"):
        make = _both(
            _put(f"{module}.py", PLANT.encode()), _copied(sample.run, "r", lambda f, r: None)
        )
        yield Case(f"{module}.py beside a run", make, ["report", "r"], fresh=True)
    for inner in ("run.lock", "figures", "report.html", "summary.json", "preferences.db"):
        command = ["train", "--resume", "r"] if inner in ("run.lock", "summary.json") else None
        make = _both(
            _put("victim/kept", b"mine"), _copied(sample.run, "r", _linked(inner, "victim"))
        )
        yield Case(f"link {inner}", make, command or ["report", "r"])


def _set_option(option: str, value: str) -> Make:
    def change(folder: Path, rng: random.Random) -> None:
        path = folder / "config.yaml"
        lines = [
            f"{option}: {value}" if line.startswith(f"{option}:") else line
            for line in path.read_text().splitlines()
        ]
        path.write_text("\n".join(lines))

    return change


def _linked(inner: str, victim: str) -> Make:
    def change(folder: Path, rng: random.Random) -> None:
        path = folder / inner
        target = f"../{victim}" if inner == "figures" else f"../{victim}/kept"
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return change


def _terminal(sample: Sample) -> Iterator[Case]:
    """Names, paths and texts that would steer the terminal or break rich's markup."""
    for name in ("a[", "[red]x", "\x1b[31mx", "$\\frac{$", "<script>", "%s{0}", "-", "é\u202ex"):
        for command in (["report"], ["evaluate"], ["labels"], ["train", "--resume"]):
            arguments = [*command, f"./{name}"]
            yield Case(
                f"path {name!r}: {command[0]}", _copied(sample.run, name, _nothing), arguments
            )
    for command in (["labels", "t"], ["export", "t", "--format", "pairs", "--out", "new.jsonl"]):
        yield Case(f"texts: {command[0]}", _copied(sample.texts, "t", _nothing), command)
    change = _executed(SQL["labeller"])
    for command in (["labels", "r"], ["labels", "r", "--json"], ["labels", "r", "--forget", "x"]):
        yield Case(f"labellers: {command[1:]}", _copied(sample.run, "r", change), command)
    for arguments in (
        ["train", "--env", STEER], ["train", "--teacher", STEER], ["train", "--config", STEER],
        ["train", "--model", STEER], ["train", "--hyperparameters", STEER], ["report", STEER],
        ["import", STEER, "--into", "x"], ["benchmark", STEER], [STEER], ["train", f"--{STEER}"],
        ["train", "--preferences", STEER], ["label", STEER], ["train", "--acquisition", STEER],
    ):  # fmt: skip
        yield Case(f"argument: {arguments[:2]!r}", _nothing, arguments)


def _python(sample: Sample) -> Iterator[Case]:
    """The same files through the Python API, and a film of a damaged run."""
    for name, content in list({**LINES, **KINDS}.items())[::2]:
        make = _put("in.jsonl", content)
        yield Case(f"python import: {name}", make, ["python", "import", "in.jsonl", "new"])
    for name, content in list({**YAML, **KINDS}.items())[::3]:
        make = _copied(sample.run, "r", _replaced("config.yaml", content))
        yield Case(f"python options: {name}", make, ["python", "options", "r"])
    for name, content in list({**JSON, **KINDS}.items())[::3]:
        make = _copied(sample.run, "r", _replaced("metrics.jsonl", content))
        yield Case(f"python metrics: {name}", make, ["python", "metrics", "r"])
    for i, name in enumerate(("agent.safetensors", "recorder.npz", "agent.json", "state.json")):
        make = _copied(sample.run, "r", _flipped(f"checkpoints/round-0001/{name}", 2 + i))
        yield Case(f"python agent: {name}", make, ["python", "agent", "r"])
        yield Case(f"watch: {name}", make, ["watch", "r", "--video", "film.gif"])
    for name, statements in list(SQL.items())[::2]:
        make = _copied(sample.run, "r", _executed(statements))
        yield Case(f"python preferences: {name}", make, ["python", "preferences", "r"])


def _nothing(folder: Path, rng: random.Random) -> None:
    """A sound copy."""


def all_cases(sample: Sample) -> list[Case]:
    """Every case, door by door."""
    doors = (
        _options, _documents, _binary, _imports, _databases, _code_and_links, _terminal, _python,
    )  # fmt: skip
    return [case for door in doors for case in door(sample)]
