"""The three views of a text task: the same rewards, texts and endings, bit for bit."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3_checker
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rlhf_gym.envs import TEXT_TASK_IDS
from rlhf_gym.envs.text.completion_env import CompletionEnv
from rlhf_gym.envs.text.completion_vector_env import CompletionVectorEnv
from rlhf_gym.envs.text.task import TextTask
from rlhf_gym.envs.text.token_env import TokenEnv
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.language.tokenizers import ready_tokenizer, word_tokenizer

PAD, BOS, EOS = 0, 1, 2
END = ("completion", "finish_reason", "n_tokens", "reward_components")

# What Gymnasium's checker may say of a CompletionEnv: its actions are token ids, which cannot be
# symmetric and normalised; and one that was not made by an id cannot be made again.
ACCEPTED_WARNINGS = ("symmetric and normalized", "not having a spec")


@pytest.fixture(scope="module")
def task() -> TextTask:
    def score(prompts: list[str], completions: list[str], finished: list[bool]) -> list[float]:
        return [0.1 * len(c) + f for c, f in zip(completions, finished, strict=True)]

    tokenizer = word_tokenizer("the film was good bad .".split())  # ids 3 to 8
    return TextTask("test", tokenizer, ["the film", "film"], {"s": score}, max_new_tokens=3)


def random_completions(task: TextTask, rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, T) ids of all kinds, special ones too, of which about half end early."""
    ids = rng.integers(task.vocab_size, size=(n, task.max_new_tokens)).astype(np.int32)
    ends = rng.integers(2 * task.max_new_tokens, size=n)
    early = np.flatnonzero(ends < task.max_new_tokens)
    ids[early, ends[early]] = task.eos_id
    return ids


def by_tokens(env: TokenEnv, prompt_index: int, ids: np.ndarray) -> Any:
    env.reset(options={"prompt_index": prompt_index})
    for token in ids:
        _, reward, terminated, truncated, info = env.step(token)
        if terminated or truncated:
            return reward, terminated, truncated, info
        assert reward == 0.0 and not set(END) & set(info)
    raise AssertionError("the completion did not end")


@pytest.mark.parametrize("length_is", ["terminal", "truncation"])
@pytest.mark.parametrize("env_id", TEXT_TASK_IDS)
def test_all_views_agree_bit_for_bit_on_random_sequences(
    env_id: str, length_is: str, rng: np.random.Generator
) -> None:
    n = 125  # times 4 tasks and 2 settings: 1,000
    tokens = gym.make(env_id, length_is=length_is).unwrapped
    assert isinstance(tokens, TokenEnv)
    task = tokens.task
    single = CompletionEnv(task, length_is=length_is)  # type: ignore[arg-type]
    many = gym.make_vec(env_id, num_envs=n, length_is=length_is)
    assert isinstance(many, CompletionVectorEnv)
    ids = random_completions(task, rng, n)
    indices = rng.integers(len(task), size=n)
    many.reset(options={"prompt_index": indices})
    _, rewards, terminated, truncated, infos = many.step(ids)
    seen = set()
    for row in range(n):
        expected = by_tokens(tokens, int(indices[row]), ids[row])
        single.reset(options={"prompt_index": indices[row]})
        assert single.step(ids[row])[1:] == expected
        reward, ended, cut, info = expected
        assert (rewards[row], terminated[row], truncated[row]) == (reward, ended, cut)
        for key in ("completion", "finish_reason", "n_tokens", "prompt", "prompt_index"):
            assert infos[key][row] == info[key]
            assert infos[f"_{key}"][row]
        for name, value in info["reward_components"].items():
            assert infos["reward_components"][name][row] == value
        assert (ended, cut) == (not cut, cut)
        assert cut == (length_is == "truncation" and info["finish_reason"] == "length")
        seen.add(info["finish_reason"])
    # Enumerable's default has both; so have the others.
    assert seen == {"eos", "length"}


@pytest.mark.parametrize("env_id", TEXT_TASK_IDS)
def test_gymnasiums_checker_finds_nothing_in_the_token_envs(env_id: str) -> None:
    check_env(gym.make(env_id).unwrapped)  # a warning is an error here


@pytest.mark.parametrize("env_id", TEXT_TASK_IDS)
def test_gymnasiums_checker_finds_only_known_things_in_the_completion_envs(env_id: str) -> None:
    env = gym.make(env_id).unwrapped
    assert isinstance(env, TokenEnv)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(CompletionEnv(env.task))
    texts = [str(warning.message) for warning in caught]
    assert [t for t in texts if not any(known in t for known in ACCEPTED_WARNINGS)] == []


@pytest.mark.parametrize("env_id", TEXT_TASK_IDS)
def test_sb3s_checker_finds_nothing_in_the_token_envs(env_id: str) -> None:
    sb3_checker.check_env(gym.make(env_id))


def test_tokens_are_written_behind_the_prompt_and_nothing_moves(task: TextTask) -> None:
    env = TokenEnv(task, render_mode="ansi")
    obs, info = env.reset(options={"prompt_index": 1})
    assert info == {"prompt": "film", "prompt_index": 1}
    assert obs["input_ids"].tolist() == [PAD, BOS, 4, PAD, PAD, PAD]
    assert obs["attention_mask"].tolist() == [0, 1, 1, 0, 0, 0]
    assert (obs["input_ids"].dtype, obs["attention_mask"].dtype) == (np.int32, np.int8)
    after, reward, terminated, truncated, info = env.step(np.int64(5))
    assert after["input_ids"].tolist() == [PAD, BOS, 4, 5, PAD, PAD]
    assert after["attention_mask"].tolist() == [0, 1, 1, 1, 0, 0]
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert env.render() == "film was"
    last, reward, terminated, truncated, info = env.step(EOS)
    assert last["input_ids"].tolist() == [PAD, BOS, 4, 5, EOS, PAD]
    assert last["attention_mask"].tolist() == [0, 1, 1, 1, 1, 0]
    # " was" has 4 characters, its space among them, and the text ended by itself: 0.4 + 1
    assert reward == 0.1 * 4 + 1 and terminated and not truncated
    assert obs["input_ids"].tolist() == [PAD, BOS, 4, PAD, PAD, PAD]  # the agent's own copy
    with pytest.raises(DataError, match="has ended"):
        env.step(5)
    fresh, _ = env.reset(options={"prompt_index": 0})
    assert fresh["input_ids"].tolist() == [BOS, 3, 4, PAD, PAD, PAD]
    assert fresh["attention_mask"].tolist() == [1, 1, 1, 0, 0, 0]


def test_nothing_is_decoded_before_the_end(task: TextTask, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    original = task.tokenizer.batch_decode

    def watch(rows: Any, **settings: Any) -> Any:
        decoded.append(rows)
        return original(rows, **settings)

    monkeypatch.setattr(task.tokenizer, "batch_decode", watch)
    env = TokenEnv(task)
    env.reset(options={"prompt_index": 0})
    env.step(6)
    env.step(6)
    assert decoded == []
    env.step(6)
    prompt = task.prompt_ids[0][task.prompt_mask[0]].tolist()
    assert decoded == [[prompt], [[*prompt, 6, 6, 6]]], "the prompt, and both together"
    env.reset(options={"prompt_index": 0})
    for _ in range(3):
        env.step(6)
    assert decoded[2:] == [[[*prompt, 6, 6, 6]]], "the prompt is known"


def test_a_vector_env_calls_each_reward_once_per_step() -> None:
    calls = []

    def count(prompts: list[str], completions: list[str]) -> list[float]:
        calls.append(len(prompts))
        return [0.0] * len(prompts)

    tokenizer = word_tokenizer(["a", "b"])
    task = TextTask("test", tokenizer, ["a"], {"x": count, "y": count}, max_new_tokens=2)
    env = CompletionVectorEnv(task, 64)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert calls == [64, 64]
    assert env.scores is not None and env.scores.texts[0] is not None


def test_the_seed_and_nothing_else_decides_the_prompts() -> None:
    env = gym.make("rlhf_gym/Arithmetic-v0")
    many = gym.make_vec("rlhf_gym/Arithmetic-v0", num_envs=50)
    np.random.seed(1)
    first = [env.reset(seed=3)[1]["prompt"], *(env.reset()[1]["prompt"] for _ in range(20))]
    rows = many.reset(seed=3)[1]["prompt_index"].tolist(), many.reset()[1]["prompt_index"].tolist()
    np.random.seed(2)
    again = [env.reset(seed=3)[1]["prompt"], *(env.reset()[1]["prompt"] for _ in range(20))]
    same = many.reset(seed=3)[1]["prompt_index"].tolist(), many.reset()[1]["prompt_index"].tolist()
    assert first == again and rows == same
    assert rows[0] != rows[1]
    assert len(set(first)) > 10 and len(set(rows[0])) > 25


def test_only_the_rows_that_are_named_are_reset(task: TextTask) -> None:
    env = CompletionVectorEnv(task, 3, render_mode="ansi")
    assert env.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    env.reset(options={"prompt_index": [0, 1, 0]})
    ids = np.array([[6, EOS, PAD], [7, EOS, PAD], [EOS, PAD, PAD]], np.int32)
    env.step(ids)
    assert env.render() == ("the film good", "film bad", "the film")
    with pytest.raises(DataError, match="3 of 3 completions have ended"):
        env.step(ids)
    mask = np.array([True, False, False])
    obs, info = env.reset(options={"prompt_index": 1, "reset_mask": mask})
    assert info["prompt"].tolist() == ["film", "film", "the film"]
    assert obs["input_ids"].tolist() == [[PAD, BOS, 4], [PAD, BOS, 4], [BOS, 3, 4]]
    assert env.render() == ("film", "film bad", "the film")
    with pytest.raises(DataError, match="2 of 3 completions have ended"):
        env.step(ids)


def test_the_batched_spaces_hold_what_the_vector_env_returns(task: TextTask) -> None:
    env = CompletionVectorEnv(task, 4)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert env.action_space.shape == (4, 3)
    after, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
    assert env.observation_space.contains(after)
    assert [a.shape for a in (rewards, terminated, truncated)] == [(4,)] * 3
    assert [a.dtype.kind for a in (rewards, terminated, truncated)] == ["f", "b", "b"]


def test_a_completion_env_shows_its_prompt_and_then_its_answer(task: TextTask) -> None:
    env = CompletionEnv(task, render_mode="ansi")
    env.reset(options={"prompt_index": 0})
    assert env.render() == "the film"
    env.step(np.array([5, 6, EOS]))
    assert env.render() == "the film was good"
    with pytest.raises(DataError, match="has ended"):
        env.step(np.array([5, 6, EOS]))


def test_action_masks_are_the_tasks(task: TextTask) -> None:
    masks = TokenEnv(task).action_masks()
    assert masks.tolist() == [False, False, True, True, True, True, True, True, True]


def test_without_a_render_mode_nothing_is_drawn(task: TextTask) -> None:
    for env in (TokenEnv(task), CompletionEnv(task)):
        env.reset(seed=0)
        with pytest.warns(UserWarning, match="render_mode='ansi'"):
            assert env.render() is None
    assert CompletionVectorEnv(task).render() is None


@pytest.mark.parametrize("view", [TokenEnv, CompletionEnv, CompletionVectorEnv])
def test_unknown_settings_are_refused(task: TextTask, view: Any) -> None:
    with pytest.raises(ConfigError, match="`render_mode` is 'human'"):
        view(task, render_mode="human")
    with pytest.raises(ConfigError, match="`length_is` is 'end'"):
        view(task, length_is="end")


def test_wrong_actions_and_options_get_one_clear_error(task: TextTask) -> None:
    tokens, single, many = TokenEnv(task), CompletionEnv(task), CompletionVectorEnv(task, 2)
    for env in (tokens, single, many):
        env.reset(seed=0)
    for wrong in (-1, 9):
        with pytest.raises(DataError, match=f"the action is {wrong}, expected a token id"):
            tokens.step(wrong)
    with pytest.raises(DataError, match=r"shape \(2,\) and dtype int64, expected 3 integer"):
        single.step(np.array([3, 4]))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="dtype float64"):
        single.step(np.array([3.0, 4.0, 5.0]))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"shape \(1, 3\)"):
        many.step(np.full((1, 3), 3, np.int32))
    with pytest.raises(DataError, match="prompt index 2 is not one of 0 to 1"):
        tokens.reset(options={"prompt_index": 2})
    with pytest.raises(DataError, match="`prompt_index` has 3 entries for 2"):
        many.reset(options={"prompt_index": [0, 1, 0]})
    with pytest.raises(DataError, match="`reset_mask` has shape"):
        many.reset(options={"reset_mask": [True]})
    with pytest.raises(ConfigError, match="`num_envs` is 0"):
        CompletionVectorEnv(task, 0)


def test_every_end_ends_a_completion_in_every_view_and_adds_no_text(task: TextTask) -> None:
    # A model that stops at "." as well, as a chat model stops at several markers.
    chat = ready_tokenizer(task.tokenizer, [8])
    several = TextTask("chat", chat, ["film"], task.rewards.components, max_new_tokens=3)
    ids = np.array([5, 8, 6], np.int32)
    seen = []
    token_env = TokenEnv(several)
    token_env.reset(seed=0)
    for token in ids[:2]:
        _, reward, terminated, truncated, info = token_env.step(token)
    seen.append((float(reward), terminated, truncated, info["completion"], info["finish_reason"]))
    whole = CompletionEnv(several)
    whole.reset(seed=0)
    _, reward, terminated, truncated, info = whole.step(ids)
    seen.append((float(reward), terminated, truncated, info["completion"], info["finish_reason"]))
    assert info["n_tokens"] == 2
    many = CompletionVectorEnv(several, 1)
    many.reset(seed=0)
    _, rewards, ends, cuts, infos = many.step(ids[None])
    values = (float(rewards[0]), bool(ends[0]), bool(cuts[0]))
    seen.append((*values, infos["completion"][0], infos["finish_reason"][0]))
    assert seen == [(0.1 * 4 + 1, True, False, " was", "eos")] * 3
