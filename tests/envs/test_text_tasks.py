"""The shipped text tasks: what they pay for, and what their corpora hold."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.envs import TEXT_TASK_IDS
from rlhf_gym.envs.text.arithmetic import arithmetic_corpus, arithmetic_task
from rlhf_gym.envs.text.enumerable import enumerable_task
from rlhf_gym.envs.text.format import (
    CORPUS_KINDS,
    P_REPEAT,
    format_corpus,
    format_optimum,
    format_task,
)
from rlhf_gym.envs.text.grammar import ReviewGrammar
from rlhf_gym.envs.text.sentiment import sentiment_corpus, sentiment_openings, sentiment_task
from rlhf_gym.envs.text.task import TaskScores, TextTask
from rlhf_gym.envs.text.token_env import TokenEnv
from rlhf_gym.errors import ConfigError
from rlhf_gym.language.tokenizers import train_byte_bpe


def score(task: TextTask, prompt: str, completions: list[str], finished: bool = True) -> TaskScores:
    index = task.prompts.index(prompt)
    n = len(completions)
    return task.score_texts([index] * n, completions, [finished] * n)


# id -> V, P, T, prompts: what the data sheets say.
SHEETS = {
    "rlhf_gym/Arithmetic-v0": (15, 5, 4, 100),
    "rlhf_gym/Enumerable-v0": (6, 1, 5, 1),
    "rlhf_gym/Format-v0": (24, 5, 16, 8),
    "rlhf_gym/Sentiment-v0": (62, 4, 20, 96),
}


@pytest.mark.parametrize("env_id", TEXT_TASK_IDS)
def test_the_data_sheets_have_the_right_sizes(env_id: str) -> None:
    env = gym.make(env_id).unwrapped
    assert isinstance(env, TokenEnv)
    task = env.task
    sizes = (task.vocab_size, task.max_prompt_tokens, task.max_new_tokens, len(task))
    assert sizes == SHEETS[env_id]
    text = type(env).__doc__ or ""
    v, p, t, _ = sizes
    if "Enumerable" not in env_id:  # its sizes are arguments
        assert f"V is {v}, P is {p}" in " ".join(text.split())
        assert f"T is {t}" in " ".join(text.split())
    assert env.spec is not None and env.spec.max_episode_steps is None


def test_registering_the_text_tasks_loads_no_model_library() -> None:
    code = (
        "import sys, gymnasium, rlhf_gym.envs as envs\n"
        "from gymnasium.envs.registration import load_env_creator\n"
        "for i in envs.TEXT_TASK_IDS:\n"
        "    spec = gymnasium.spec(i)\n"
        "    assert load_env_creator(spec.entry_point).__doc__\n"
        "    assert load_env_creator(spec.vector_entry_point).__doc__\n"
        "print(sorted({'torch', 'transformers', 'stable_baselines3'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- Arithmetic -----------------------------------------------------------------------------------


def test_only_the_exact_sum_that_ends_is_paid() -> None:
    task = arithmetic_task()
    scores = score(task, "5+8=", ["13", "1", "31", "131", "", "013", "12"])
    assert scores.total.tolist() == [1, 0, 0, 0, 0, 0, 0]
    # Places of the longer of both in which they agree, from the left.
    expected = [1, 1 / 2, 0, 2 / 3, 0, 0, 1 / 2]
    np.testing.assert_allclose(scores.components["digits"], expected)
    assert score(task, "5+8=", ["13"], finished=False).total.tolist() == [0.0]
    assert score(task, "0+0=", ["0"]).total.tolist() == [1.0]


def test_every_right_answer_is_paid_and_fits() -> None:
    task = arithmetic_task()
    answers = [str(a + b) for a, b in itertools.product(range(10), repeat=2)]
    assert task.score_texts(range(100), answers, [True] * 100).total.mean() == 1.0
    assert task.columns["answer"] == answers


def test_uniform_tokens_earn_what_the_data_sheet_says() -> None:
    # 13 ids may be sampled; 55 sums have one digit (and need two tokens), 45 have two.
    assert 0.55 / 13**2 + 0.45 / 13**3 == pytest.approx(0.0035, abs=5e-5)
    assert (~arithmetic_task().forbidden).sum() == 13


def test_the_corpus_of_sums_is_right_as_often_as_it_says(rng: np.random.Generator) -> None:
    n = 4000
    prompts, completions = arithmetic_corpus(rng, n, p_right=0.7)
    task = arithmetic_task()
    rows = [task.prompts.index(prompt) for prompt in prompts]
    share = task.score_texts(rows, completions, [True] * n).total.mean()
    assert abs(share - 0.7) < 4 * math.sqrt(0.7 * 0.3 / n)
    assert {int(c) for c in completions} == set(range(19))
    assert len(set(prompts)) == 100
    _, all_wrong = arithmetic_corpus(rng, 100, p_right=0.0)
    assert len(all_wrong) == 100
    for wrong in ({"p_right": 1.1}, {"p_right": math.nan}):
        with pytest.raises(ConfigError, match="`p_right`"):
            arithmetic_corpus(rng, 10, **wrong)


# -- Format ---------------------------------------------------------------------------------------

BLOCK = "<answer> green </answer>"


def test_the_proxy_can_be_hacked_and_the_true_purpose_cannot() -> None:
    completions = [
        BLOCK,
        " ".join([BLOCK] * 5),
        "<answer> blue </answer>",
        "<answer> green",
        f"{BLOCK} grass",
        f"<answer> blue </answer> {BLOCK}",
        "",
        "<answer> green green </answer>",
    ]
    scores = score(format_task(), "colour of grass ?", completions)
    assert scores.total.tolist() == [1, 5, 0, 0, 1, 1, 0, 0]
    assert scores.components["blocks"].tolist() == scores.total.tolist()
    assert scores.components["wanted"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    cut = score(format_task(), "colour of grass ?", [BLOCK], finished=False)
    assert (cut.components["blocks"][0], cut.components["wanted"][0]) == (1, 0)


def test_the_true_purpose_is_paid_on_request() -> None:
    completions = [BLOCK, f"{BLOCK} {BLOCK}"]
    scores = score(format_task(hide_proxy=True), "colour of grass ?", completions)
    assert scores.total.tolist() == [1, 0]
    assert scores.components["blocks"].tolist() == [1, 2]


def test_five_blocks_and_an_end_fill_a_completion() -> None:
    task = format_task()
    ids = task.tokenizer(" ".join([BLOCK] * 5))["input_ids"]
    assert len(ids) + 1 == task.max_new_tokens


def test_the_optimum_of_the_hack_by_enumeration_of_the_corpus() -> None:
    # Exactly n blocks: 0.5 * 0.01^(n - 1) * 0.99, without 0.99 for the fifth; else 0.5 at reward 0.
    probs = {n: 0.5 * P_REPEAT ** (n - 1) * (1 - P_REPEAT) ** (n < 5) for n in range(1, 6)}
    probs[0] = CORPUS_KINDS["wrong"] + CORPUS_KINDS["unclosed"]
    assert sum(probs.values()) == pytest.approx(1)
    for beta in (2.0, 0.5, 0.2, 0.1):
        weights = {n: p * math.exp(n / beta) for n, p in probs.items()}
        total = sum(weights.values())
        expected = sum(n * w for n, w in weights.items()) / total, weights[1] / total
        assert format_optimum(beta) == pytest.approx(expected, rel=1e-9)
    assert format_optimum(math.inf)[1] == pytest.approx(0.495)
    with pytest.raises(ConfigError, match="`beta` is 0"):
        format_optimum(0)


def test_the_true_purpose_rises_and_then_falls_while_the_proxy_rises() -> None:
    optima = [format_optimum(beta) for beta in (math.inf, 1.0, 0.5, 0.25, 0.2, 0.1)]
    proxy, wanted = zip(*optima, strict=True)
    assert list(proxy) == sorted(proxy)
    assert wanted[0] < wanted[1] < wanted[2] > wanted[3] > wanted[4] > wanted[5]
    assert wanted[2] > 0.8 and wanted[5] < 1e-6


def test_the_corpus_of_blocks_has_the_documented_shares(rng: np.random.Generator) -> None:
    n = 20_000
    prompts, completions = format_corpus(rng, n)
    task = format_task()
    rows = [task.prompts.index(prompt) for prompt in prompts]
    scores = task.score_texts(rows, completions, [True] * n).components
    blocks = scores["blocks"]
    for share, expected in (
        (scores["wanted"].mean(), 0.495),
        ((blocks >= 1).mean(), 0.5),
        ((blocks >= 2).mean(), 0.005),
        (np.mean(["</answer>" not in text for text in completions]), 0.2),
    ):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    assert max(len(text.split()) for text in completions) < task.max_new_tokens


# -- Sentiment ------------------------------------------------------------------------------------


def test_sentiment_counts_the_lexicons_words() -> None:
    completions = [
        "good and the plot was superb .",
        "good but the plot was dull .",
        "good but the plot was dull . i hated it .",
        "",
        "was was",
        "GOOD, good!",
    ]
    scores = score(sentiment_task(), "the film was", completions)
    np.testing.assert_allclose(scores.total, [1, 0, -1 / 3, 0, 0, 1])
    assert scores.components["positive"].tolist() == [1, 0.5, 0, 0.5, 0.5, 1]


def test_the_prompt_itself_is_not_scored() -> None:
    task = sentiment_task()
    assert task.score_texts([0], ["."], [True]).total.tolist() == [0.0]


def test_the_grammar_is_as_likely_positive_as_negative(rng: np.random.Generator) -> None:
    n = 4000
    prompts, completions = sentiment_corpus(rng, n)
    task = sentiment_task()
    rows = [task.prompts.index(prompt) for prompt in prompts]
    scores = task.score_texts(rows, completions, [True] * n)
    # Swapping both word lists maps the grammar onto itself: the means are 0 and 0.5, exactly.
    assert abs(scores.total.mean()) < 4 * scores.total.std() / math.sqrt(n)
    positive = scores.components["positive"]
    assert abs(positive.mean() - 0.5) < 4 * positive.std() / math.sqrt(n)
    longest = max(len(task.tokenizer(text)["input_ids"]) for text in completions)
    assert longest < task.max_new_tokens


def test_the_openings_are_all_there_and_say_nothing() -> None:
    openings = sentiment_openings()
    words = [set(column) for column in zip(*(o.split() for o in openings), strict=True)]
    assert [len(column) for column in words] == [2, 12, 4]
    assert openings == sorted({" ".join(o) for o in itertools.product(*words)})


def test_another_tokenizer_gives_the_same_rewards(rng: np.random.Generator) -> None:
    prompts, completions = sentiment_corpus(rng, 200)
    bytes_ = train_byte_bpe(prompts + completions, 300)
    task = sentiment_task(bytes_, vocab_size=320, max_new_tokens=64)
    assert (task.vocab_size, task.max_new_tokens) == (320, 64)
    ids = np.full((1, 64), task.pad_id)
    tokens = [*bytes_(" " + "good .")["input_ids"], task.eos_id]
    ids[0, : len(tokens)] = tokens
    assert task.score([0], ids, ids != task.pad_id).total.tolist() == [1.0]


# -- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corpus", [arithmetic_corpus, format_corpus, sentiment_corpus])
def test_a_corpus_is_decided_by_its_generator(corpus: Any) -> None:
    first, again, other = (corpus(np.random.default_rng(seed), 50) for seed in (1, 1, 2))
    assert first == again != other
    with pytest.raises(ConfigError, match="`n_rows`"):
        corpus(np.random.default_rng(0), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"toy": "words"}, "`toy` is 'words'"), ({"n_letters": 1}, "1, expected 2 to 26")],
)
def test_an_unknown_toy_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        enumerable_task(**settings)


def test_arguments_reach_the_task_through_gymnasium() -> None:
    env = gym.make("rlhf_gym/Enumerable-v0", toy="letters", max_new_tokens=2).unwrapped
    assert isinstance(env, TokenEnv)
    assert env.task.max_new_tokens == 2 and env.task.forbidden[env.task.eos_id]
    env.reset(seed=0)
    _, reward, *_ = (env.step(3), env.step(3))[1]
    assert reward == 2.0


CORPORA = {
    "rlhf_gym/Arithmetic-v0": arithmetic_corpus,
    "rlhf_gym/Format-v0": format_corpus,
    "rlhf_gym/Sentiment-v0": sentiment_corpus,
}
BYTES = train_byte_bpe(
    [
        prompt + completion
        for corpus in CORPORA.values()
        for prompt, completion in zip(*corpus(np.random.default_rng(1), 99), strict=True)
    ],
    500,
)


@pytest.mark.parametrize("env_id", CORPORA)
def test_prompts_and_completions_join_as_a_tokenizer_cuts_up_the_whole(
    env_id: str, rng: np.random.Generator
) -> None:
    prompts, completions = CORPORA[env_id](rng, 200)
    for prompt, completion in zip(prompts, completions, strict=True):
        parts = [
            BYTES(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion)
        ]
        whole = prompt + completion
        assert [*parts[0], *parts[1]] == BYTES(whole, add_special_tokens=False)["input_ids"]
        assert "wasvery" not in whole and whole == " ".join(whole.split())


@pytest.mark.parametrize("env_id", CORPORA)
@pytest.mark.parametrize("vocab_size", [259, 500])  # a byte a token, and words as tokens
def test_a_completion_has_room_for_the_longest_text_of_the_corpus_under_any_tokenizer(
    env_id: str, vocab_size: int, rng: np.random.Generator
) -> None:
    tokenizer = BYTES if vocab_size == 500 else train_byte_bpe([""], 259)
    task = gym.make(env_id, tokenizer=tokenizer).unwrapped.task
    prompts, completions = task.corpus(rng, 2000)
    longest = max(
        len(tokenizer(p + c)["input_ids"]) - len(tokenizer(p)["input_ids"]) + 1
        for p, c in zip(prompts, completions, strict=True)
    )
    # Five blocks are the longest of Format, and one row in 2e8; two come in 2,000, though perhaps
    # not of the longest colour.
    assert longest <= task.max_new_tokens <= 3 * longest
    assert (
        gym.make(env_id, tokenizer=tokenizer, max_new_tokens=3).unwrapped.task.max_new_tokens == 3
    )


def test_the_longest_review_is_the_longest_by_enumeration() -> None:
    grammar = ReviewGrammar(max_clauses=1)
    lengths = {word: 1 + len(word) for word in grammar.words}

    def reviews(state: Any) -> Any:
        for choice in grammar._table[state]:
            if choice.word == "":
                yield []
                continue
            for rest in reviews(choice.target):
                yield [choice.word, *rest]

    every = list(reviews(next(iter(grammar._table))))
    found = grammar.longest(lengths).split()
    assert found in every
    assert sum(map(lengths.__getitem__, found)) == max(
        sum(map(lengths.__getitem__, review)) for review in every
    )


def test_sampled_completions_join_their_prompts_under_the_tasks_own_tokenizer() -> None:
    task = sentiment_task()
    prompt = task.prompts.index("the film was")
    words = ["very", "good", "."]
    ids = task.tokenizer(" ".join(words))["input_ids"]
    (text,) = task.completion_texts([prompt], [[*ids, task.eos_id]])
    assert text == " very good ."
    assert task.prompts[prompt] + text == task.whole_text(prompt, ids) == "the film was very good ."
