"""What hostile files, names and kills do: code that ran, tracebacks, hangs, half-written folders.

Several hundred inputs of `hostile_inputs.py` go through every door of the command line. Each runs
`rlhf_gym.cli.main` in a process of its own, forked from one that has imported everything, with a
limit on its time and memory. Counted are

- executions: planted code wrote its mark;
- tracebacks, and bugs: exit status 70, which says so in one sentence;
- hangs and crashes: ended by the time limit, or by a signal;
- half-written: the command refused its input, and yet a byte in its folder changed (`run.lock`
  alone, which says who trains, does not count), or it touched a file that a link led to;
- steering: an escape sequence, or another character that does not print, came out.

Then labellers and trainers are killed at random moments; no acknowledged answer may be lost.

    python benchmarks/hostile.py            about fifteen minutes on two cores
    python benchmarks/hostile.py --only import --kills 0

Targets: 0 of each.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import labelling_kills
from common import RESULTS, write_result
from hostile_inputs import MARK, SMALL, Case, all_cases, make_sample

from rlhf_gym.printing import printable

COUNTED = (
    "execution", "traceback", "bug", "hang", "crash", "half-written", "steering",
)  # fmt: skip
MEMORY_BYTES = 3 << 30  # beyond what the parent has mapped
LIMIT_SECONDS = 40.0
KEPT = "\n\t\u200c\u200d"


def run_all(cases: Sequence[Case], parent: Path, seed: int, n_workers: int) -> list[dict[str, Any]]:
    """Run all cases, a few at once, and say of each what came of it."""
    waiting = list(enumerate(cases))[::-1]
    running: dict[int, tuple[int, Case, Path, dict[str, str], float]] = {}
    findings: dict[int, dict[str, Any]] = {}
    while waiting or running:
        while waiting and len(running) < n_workers:
            number, case = waiting.pop()
            folder = parent / f"{number:04d}"
            (folder / "here").mkdir(parents=True)
            case.make(folder / "here", random.Random(f"{seed}|{case.name}"))
            before = snapshot(folder / "here")
            running[start(case, folder)] = number, case, folder, before, time.monotonic()
        for pid, (number, case, folder, before, started) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            late = time.monotonic() - started > LIMIT_SECONDS
            if not ended and late:
                os.killpg(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, 0)
            if not ended:
                continue
            del running[pid]
            seconds = time.monotonic() - started
            code = os.waitstatus_to_exitcode(status)
            findings[number] = judge(case, folder, before, code, late, seconds)
            shutil.rmtree(folder)
            if findings[number]["wrong"]:
                print(json.dumps(findings[number]), flush=True)
        time.sleep(0.005)
    return [findings[number] for number in sorted(findings)]


def start(case: Case, folder: Path) -> int:
    """Fork a process that runs the case; returns its id."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder / "here")
        os.environ.update({MARK: str(folder / "mark"), **case.env})
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.stdout = open(1, "w", closefd=False)  # the process ends with it
        sys.stderr = open(2, "w", closefd=False)
        if case.fresh:
            command = [sys.executable, "-m", "rlhf_gym", *case.arguments]
            status = subprocess.run(command, check=False).returncode
        else:
            limit = mapped_bytes() + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            status = call(case.arguments)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def call(arguments: list[str]) -> int:
    """`rlhf-gym` in this process: its exit status."""
    from rlhf_gym.cli import main

    sys.argv = ["rlhf-gym", *arguments]
    try:
        if arguments[0] == "python":
            return call_python(*arguments[1:])
        main(arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # there is one
        return 1
    return 0


def call_python(function: str, *arguments: str) -> int:
    """A function of the Python API: it may raise what the errors' page names, and nothing else."""
    from rlhf_gym.errors import RlhfGymError
    from rlhf_gym.feedback.store import PreferenceStore
    from rlhf_gym.offline import load_agent
    from rlhf_gym.runs import Run
    from rlhf_gym.train_config import read_run_config
    from rlhf_gym.transfer import import_store

    functions: dict[str, Callable[..., object]] = {
        "import": import_store,
        "options": lambda folder: read_run_config(Run.open(folder)),
        "metrics": lambda folder: Run.open(folder).metrics(),
        "agent": load_agent,
        "preferences": lambda folder: PreferenceStore(folder, create=False).preferences(),
    }
    try:
        functions[function](*map(Path, arguments))
    except (RlhfGymError, OSError) as error:
        print(f"{type(error).__name__}: {printable(error)}", file=sys.stderr)
        return 2
    return 0


def mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def snapshot(folder: Path) -> dict[str, str]:
    """What lies in a folder: kind, size and content of everything but `run.lock`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file() and path.name != "run.lock" and "__pycache__" not in name:
            size = path.stat().st_size
            whole = size < 64 << 20
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if whole else str(size)
        elif path.name not in ("run.lock", "__pycache__") and "__pycache__" not in name:
            found[name] = "folder" if path.is_dir() else "special"
    return found


def judge(
    case: Case, folder: Path, before: dict[str, str], code: int, late: bool, seconds: float
) -> dict[str, Any]:
    """What is wrong with how a case went."""
    text = "".join((folder / n).read_text("utf-8", "replace") for n in ("out", "err"))
    after = snapshot(folder / "here")
    changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    if code == 0:  # it did what it was asked to; what a link led to is still not its own
        changed = [name for name in changed if name.startswith("victim")]
    wrong = {
        "execution": (folder / "mark").exists(),
        "traceback": "Traceback (most recent call last)" in text,
        "bug": code == 70,
        "hang": late,
        "crash": code < 0 and not late,
        "half-written": bool(changed) and not late,
        "steering": any(not c.isprintable() and c not in KEPT and c != "\ufffd" for c in text),
    }
    err = (folder / "err").read_text("utf-8", "replace").strip()
    return {
        "name": case.name,
        "status": code,
        "seconds": round(seconds, 2),
        "wrong": [kind for kind in COUNTED if wrong[kind]],
        "changed": changed[:5],
        "message": err[-600:],
    }


def count(findings: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many inputs there were, how many were refused, and how many went wrong in which way."""
    counts = Counter(kind for finding in findings for kind in finding["wrong"])
    refused = sum(finding["status"] == 2 for finding in findings)
    return {
        "n_inputs": len(findings),
        "n_refused": refused,
        "n_accepted": sum(finding["status"] == 0 for finding in findings),
        **{f"n_{kind.replace('-', '_')}": counts[kind] for kind in COUNTED},
    }


def kill_trainers(parent: Path, n_kills: int, seed: int) -> dict[str, int]:
    """Kill a trainer at random moments while somebody answers; resume it each time."""
    from trainer import right_choice

    from rlhf_gym.feedback.desk import DeskSettings, LabelDesk
    from rlhf_gym.feedback.store import PreferenceStore

    rng, folder, kept = random.Random(seed), parent / "trained", set[str]()
    base = [sys.executable, "-m", "rlhf_gym", "train"]
    options = [*SMALL, "--labels", "400", "--rounds", "8", "--steps", "16000", "--teacher", "human"]
    settings = DeskSettings(gold_share=0.0, repeat_share=0.0, n_practice=0)
    n_done = 0
    while n_done < n_kills:
        resumes = (folder / "config.yaml").exists()
        command = [
            *base,
            *(["--resume", str(folder)] if resumes else [*options, "--out", str(folder)]),
        ]
        trainer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + rng.uniform(3, 9)
        while time.monotonic() < deadline and trainer.poll() is None:
            if not (folder / "preferences.db").exists():
                time.sleep(0.05)
                continue
            with PreferenceStore(folder) as store, LabelDesk(store, "ann", settings) as desk:
                while time.monotonic() < deadline and (upcoming := desk.upcoming()):
                    uuid = f"{len(kept):032x}"
                    side = upcoming[0].side(right_choice(store, upcoming[0].query.id))
                    desk.answer(upcoming[0], side, shown_at=time.time(), uuid=uuid)
                    kept.add(uuid)
                    time.sleep(0.05)
            time.sleep(0.1)
        if trainer.poll() is not None and trainer.returncode != 0:
            raise RuntimeError(f"the trainer ended by itself: {trainer.communicate()[1]!r}")
        if trainer.poll() == 0:  # finished before the kill: begin another run
            break
        trainer.kill()
        trainer.communicate()
        n_done += 1
    with PreferenceStore(folder, create=False) as store:
        found = {record.uuid for record in store.answer_records(superseded=True)}
    return {
        "n_kills": n_done,
        "n_acknowledged": len(kept),
        "n_acknowledged_lost": len(kept - found),
    }


def kills(parent: Path, n_kills: int, seed: int) -> dict[str, Any]:
    """Four of five kills hit a labeller, one a trainer."""
    n_trainers = n_kills // 5
    labellers = labelling_kills.measure(parent, n_kills - n_trainers, 3000, seed)
    labellers.pop("serving_again_seconds")
    trainers = [kill_trainers(parent, n_trainers, seed)]
    while (n := sum(each["n_kills"] for each in trainers)) < n_trainers:
        shutil.rmtree(parent / "trained")
        trainers.append(kill_trainers(parent, n_trainers - n, seed + len(trainers)))
    names = trainers[0]
    return {
        "labellers": labellers,
        "trainers": {name: sum(each[name] for each in trainers) for name in names},
    }


def import_everything() -> None:
    """What a forked process would otherwise import each time."""
    import rlhf_gym.labelling
    import rlhf_gym.offline
    import rlhf_gym.report
    import rlhf_gym.training
    import rlhf_gym.transfer  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--every", type=int, default=1, help="each n-th case")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="Agg", SDL_VIDEODRIVER="dummy")
    from rlhf_gym.cli import main as command_line

    parent = Path(tempfile.mkdtemp(prefix="hostile-benchmark-"))
    started = time.monotonic()
    try:
        with contextlib.redirect_stdout(None):
            sample = make_sample(parent, command_line)
        import_everything()
        cases = [case for case in all_cases(sample) if args.only in case.name][:: args.every]
        findings = run_all(cases, parent / "cases", args.seed, args.workers)
        figures: dict[str, Any] = {**count(findings), "cases": findings}
        print({name: n for name, n in figures.items() if name != "cases"}, flush=True)
        if args.kills:
            figures["kills"] = kills(parent, args.kills, args.seed)
            print(figures["kills"])
    finally:
        shutil.rmtree(parent, ignore_errors=True)
    figures["seconds"] = round(time.monotonic() - started)
    print(write_result("hostile", None, figures, [args.seed], folder=args.out))


if __name__ == "__main__":
    main()
