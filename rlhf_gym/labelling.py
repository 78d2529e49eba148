"""What `rlhf-gym label` does: a store, the pictures of its clips, and a window or a terminal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf_gym.envs.rubrics import rubric_for
from rlhf_gym.errors import ConfigError, CorruptDataError, MissingDependencyError
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk
from rlhf_gym.feedback.given import count_given
from rlhf_gym.feedback.gold import gold_from_true_returns
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer.keymap import Keymap, load_keymap
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.frame_cache import FrameCache
from rlhf_gym.gl import why_nobody_sees
from rlhf_gym.label_options import LabelOptions
from rlhf_gym.links import refuse_links
from rlhf_gym.printing import say
from rlhf_gym.reading import read_text
from rlhf_gym.render_worker import RenderWorker
from rlhf_gym.runs import Run
from rlhf_gym.text_clips import is_text_context
from rlhf_gym.train_config import TrainConfig, read_run_config
from rlhf_gym.trust import search_current_folder, untrusted

__all__ = ["label_store", "open_sitting"]

_RUBRIC_BYTES = 64 << 10  # a page that people read before each sitting


@dataclass(frozen=True)
class _Task:
    """What is known of the folder that is labelled."""

    env_id: str | None
    """None for a bare store of texts, which do not say what task they are of."""
    config: TrainConfig | None
    """None for a bare store."""
    is_text: bool = False

    @property
    def name(self) -> str:
        """The title of the sitting, such as "HalfCheetah-v0"."""
        return "Texts" if self.env_id is None else self.env_id.rpartition("/")[2]


def label_store(folder: Path, options: LabelOptions) -> int:
    """Label the open pairs of a run, or of a bare store, until the labeller quits.

    Args:
        folder: Of a run that trains with `--teacher human`, or of a store.
        options: How.

    Returns:
        How many answers were given and not taken back.

    Raises:
        DataError: there is no store.
        ConfigError: an option that cannot work.
        MissingDependencyError: no display, or nothing to draw with.
        UntrustedError: somebody else's run or store names modules, and `options.trust` is False.
        CorruptDataError: a link or a pipe lies in it.
    """
    keymap = load_keymap(options.keys) if options.keys is not None else Keymap()
    with open_sitting(folder, options) as session:
        n_answers = _show(session, options, keymap)
        for query_id, reason in session.damaged.items():
            say(f"pair {query_id[:12]} could not be shown: {reason}", file=sys.stderr)
    return n_answers


@contextlib.contextmanager
def open_sitting(folder: Path, options: LabelOptions) -> Iterator[LabelSession]:
    """One labeller's session on a run or a store, with its pictures, before any window.

    Raises:
        As `label_store`.
    """
    rubric = _rubric_file(options.rubric)
    _await_store(folder)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(PreferenceStore(folder, create=False))
        refuse_links(folder, ["cache", "rubric.md"])
        if rubric is None and (own := folder / "rubric.md").exists():
            rubric = _rubric_file(own)
        task = _task(folder, store, options)
        if options.gold > 0:
            gold_from_true_returns(store, options.gold)
        _require_gold(store, options)
        settings = DeskSettings(
            gold_share=options.gold_share,
            repeat_share=options.repeat_share,
            n_practice=options.practice,
            n_qualification=options.qualification,
        )
        frames = None
        if task.env_id is not None and not task.is_text and not options.terminal:
            frames = stack.enter_context(_worker(folder, task, task.env_id, options.pixels))
        session = LabelSession(
            LabelDesk(store, options.labeller, settings),
            frames,
            total=_total(store, task),
            rubric=rubric or rubric_for(task.env_id or "") or _no_rubric(task.name, folder),
            task=task.name,
            status=_status(folder),
        )
        stack.callback(session.close)
        yield session


def _await_store(folder: Path) -> None:
    """A run that has just been started makes its store within seconds."""
    database = folder / "preferences.db"
    while (folder / "config.yaml").exists() and Run.open(folder).is_training:
        if database.exists() and database.stat().st_size > 0:
            return
        time.sleep(0.1)


def _show(session: LabelSession, options: LabelOptions, keymap: Keymap) -> int:
    if options.terminal:
        from rlhf_gym.feedback.viewer.terminal import run_terminal

        n_answers: int = run_terminal(session, keymap=keymap)
        return n_answers
    from rlhf_gym.feedback.viewer.display import NO_DISPLAY

    if reason := why_nobody_sees():
        raise MissingDependencyError(NO_DISPLAY.format(reason=reason))
    from rlhf_gym.feedback.viewer.window import run_viewer

    return run_viewer(session, keymap=keymap, font=options.font).n_answers


def _total(store: PreferenceStore, task: _Task) -> int:
    """The answers wanted of everybody, those that are there included."""
    if task.config is not None and task.config.labels:
        return task.config.labels + count_given(store)
    wanted: int = store.rows("SELECT coalesce(sum(n_wanted), 0) FROM queries")[0][0]
    return wanted


def _task(folder: Path, store: PreferenceStore, options: LabelOptions) -> _Task:
    config = None
    if (folder / "config.yaml").exists():
        config = read_run_config(Run.open(folder), trust=options.trust)
    contexts = store.rows("SELECT context FROM clips LIMIT 1")
    is_text = bool(contexts) and is_text_context(contexts[0][0])
    named = contexts[0][0] if contexts and not is_text else None
    env_id = options.env or (config.env if config else named)
    if is_text:
        return _Task(env_id, config, is_text=True)
    if env_id is None:
        raise ConfigError(
            f"{folder} holds no pairs yet, and nothing says which env they will be of; wait for "
            "the first, or name it: `--env ID`."
        )
    modules = {"env": env_id} if ":" in env_id else {}
    if modules and config is None and options.env is None and not options.trust:
        raise untrusted(f"{folder}, a store whose clips name their env,", modules)
    search_current_folder(modules)
    return _Task(env_id, config)


def _worker(folder: Path, task: _Task, env_id: str, pixels: int) -> RenderWorker:
    kwargs = task.config.make_env_kwargs() if task.config else {}
    # A folder for each env: what another `--env` drew of the same clips is another picture.
    drawn_by = hashlib.sha256(json.dumps([env_id, kwargs], sort_keys=True, default=str).encode())
    cache = FrameCache(folder / "cache" / "frames" / drawn_by.hexdigest()[:16])
    return RenderWorker(env_id, kwargs, cache, (pixels, pixels))


def _require_gold(store: PreferenceStore, options: LabelOptions) -> None:
    wanted = options.practice + options.qualification
    if wanted and (n_gold := len(store.gold())) < wanted:
        raise ConfigError(
            f"`practice` and `qualification` together need {wanted} gold pairs, {n_gold} are "
            "marked; mark more: `--gold 0.1` takes the tenth of the pairs with the clearest "
            "difference in true return, `PreferenceStore.mark_gold` those that you name."
        )


def _rubric_file(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return read_text(path, _RUBRIC_BYTES)
    except (OSError, CorruptDataError) as error:
        raise ConfigError(
            f"the rubric {path} cannot be read ({error}); name a Markdown file in UTF-8."
        ) from error


def _no_rubric(name: str, folder: Path) -> str:
    """The page for a task that has none: whoever answers must not have to guess."""
    return (
        f"# {name}: nobody wrote down what to judge by\n\n"
        "**Before you answer,** ask who runs this study:\n\n"
        "1. What should the agent do, in one sentence?\n"
        "2. What makes a pair better, in which order? What decides when that is equal?\n"
        "3. What should you ignore? When are both equal, and when can you not tell?\n\n"
        f"**Whoever runs it** writes the answers into {folder / 'rubric.md'}, and every labeller "
        "sees them here; `--rubric FILE` shows another page.\n"
    )


def _status(folder: Path) -> Callable[[], str]:
    """What the trainer does, read from its folder."""
    if not (folder / "config.yaml").exists():
        return lambda: ""
    run = Run.open(folder)

    def read() -> str:
        if run.summary_path.exists():
            return "The run has ended."
        if not run.is_training:
            return f"Nothing trains on this run now: rlhf-gym train --resume {folder}"
        n_rounds = len(run.metrics())
        return f"The agent trains; {n_rounds} rounds are done." if n_rounds else "The agent acts."

    return read
