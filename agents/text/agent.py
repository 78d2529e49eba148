"""What the PPO and the DPO agent share: a language model, its task, SFT, samples as clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rlhf_gym.agents.text.agent_settings import TextAgentSettings
from rlhf_gym.agents.text.exact_kl import completion_kl
from rlhf_gym.agents.text.sft import SFTData, SFTTrainer, encode_examples
from rlhf_gym.data import Clip, Trajectory
from rlhf_gym.documents import read_json
from rlhf_gym.envs.make import make_env
from rlhf_gym.envs.text.task import TaskScores, TextTask
from rlhf_gym.errors import ConfigError, CorruptDataError
from rlhf_gym.files import write_json
from rlhf_gym.language.agreement import ensure_agreement
from rlhf_gym.language.batches import EncodedPrompts, TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.reference import ReferenceModel, reference_of, trained_blocks
from rlhf_gym.language.sampler import sample_completions
from rlhf_gym.protocols import Signal
from rlhf_gym.scored import ScoredTrajectory
from rlhf_gym.seeding import torch_seed
from rlhf_gym.text_clips import symbols_text, text_clip

__all__ = ["TextAgent", "text_task_of"]

_N_SAMPLES = 8
_PER_PROMPT = 2


def text_task_of(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> TextTask:
    """The task of a text env.

    Raises:
        ConfigError: the env is no text env.
    """
    env = make_env(env_id, env_kwargs=env_kwargs)
    task = getattr(env.unwrapped, "task", None)
    env.close()
    if not isinstance(task, TextTask):
        raise ConfigError(f"{env_id} has no `task`; a text env is a `TokenEnv` of a `TextTask`.")
    return task


class TextAgent:
    """A language model that completes a task's prompts; subclasses say how it improves.

    One step is one completion. `warm_up` is supervised fine-tuning on the task's corpus, where it
    has one; the model as it is then is the reference that KL and win rate are measured against.

    Args:
        env_id: A text env: an id of Gymnasium's, or `module:id`.
        n_run_steps: Completions of the whole run.
        settings: See `TextAgentSettings`.
        env_kwargs: Passed to the env's constructor.
        seed: Draws the first weights.
        device: "cpu" or a CUDA device.
        model: A folder or name of a model to start from; None builds a tiny one.

    Raises:
        ConfigError: no text env, a model whose tokenizer is not the task's, or one that cannot be
            sampled as it is trained, see `ensure_agreement`.
    """

    def __init__(
        self,
        env_id: str,
        *,
        n_run_steps: int,
        settings: TextAgentSettings,
        env_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str = "cpu",
        model: str | None = None,
    ) -> None:
        self.env_id, self.n_run_steps, self.settings = env_id, n_run_steps, settings
        self.lm, self.task = self._make(env_kwargs, seed, device, model)
        self.seed = seed
        self._check()
        self.prompts = EncodedPrompts(
            torch.from_numpy(self.task.prompt_ids.astype(np.int64)),
            torch.from_numpy(self.task.prompt_mask.copy()),
            self.task.n_truncated,
        )
        # Before SFT learns from it or anybody is asked about its completions; on resuming too,
        # since that may be on another machine.
        ensure_agreement(self.lm, self.prompts.ids, self.prompts.mask, self.task.max_new_tokens)
        self.on_steps: Callable[[int], None] | None = None
        self.n_steps_done = 0
        self.reference: ReferenceModel | None = None
        self.sft_figures: dict[str, float] = {}
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator(device=self.lm.device).manual_seed(seed)

    def _make(
        self, env_kwargs: Mapping[str, Any] | None, seed: int, device: str, model: str | None
    ) -> tuple[LanguageModel, TextTask]:
        if model is None:
            task = text_task_of(self.env_id, env_kwargs)
            shape = asdict(self.settings.model)
            n_positions = task.max_prompt_tokens + task.max_new_tokens
            lm = LanguageModel.tiny(task.tokenizer, max_length=n_positions, seed=seed, **shape)
            lm.to(device)
            return lm, task
        lm = LanguageModel.load(model, device=device)
        kwargs = {**(env_kwargs or {}), "tokenizer": lm.tokenizer, "vocab_size": lm.vocab_size}
        return lm, text_task_of(self.env_id, kwargs)

    def _check(self) -> None:
        """Refuse what would only fail once SFT is done."""
        s = self.settings
        if s.num_layers_unfrozen is not None:
            trained_blocks(self.lm, s.num_layers_unfrozen)
        if s.ppo.ptx_coef > 0 and self.task.corpus is None:
            raise ConfigError(
                f"`ppo.ptx_coef` is {s.ppo.ptx_coef}, but {self.env_id} has no corpus of "
                "examples; set it to 0."
            )

    # --- what the loop asks ------------------------------------------------------------------

    @property
    def counts(self) -> Literal["env_steps", "completions"]:
        """Completions."""
        return "completions"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired, is ignored, or is slow about the model; to be told once."""
        return self.lm.notes

    @property
    def clips_per_query(self) -> int:
        """Three: one more than is asked about, for completions of a prompt that come out alike."""
        return 3

    @property
    def steps_unit(self) -> int:
        """Completions of one rollout."""
        return self.settings.ppo.batch_size

    @property
    def component_weights(self) -> dict[str, float]:
        """What each of the task's rewards counts in the true one; 0 is only watched."""
        return {name: reward.weight for name, reward in self.task.rewards.components.items()}

    def log_to(self, folder: Path) -> None:
        """Nothing: the figures of a text run are those in metrics.jsonl."""

    def begin_round(self, seed: np.random.SeedSequence) -> None:
        """Reseed everything random."""
        self._rng = np.random.default_rng(seed)
        self._generator.manual_seed(torch_seed(seed))

    def warm_up(self, n_steps: int) -> None:
        """Fine-tune on the task's corpus, and keep what comes out as the reference.

        Args:
            n_steps: Not used: SFT writes no completions.
        """
        if self.task.corpus is not None and self.settings.n_sft_examples:
            data = self._corpus(self._rng, self.settings.n_sft_examples)
            report = SFTTrainer(self.lm, self.settings.sft).train(data, self._rng)
            self.sft_figures = {
                "sft_nats_per_token": report.nats_per_token_last,
                "sft_truncated_prompts": float(report.n_truncated_prompts),
                "sft_truncated_completions": float(report.n_truncated_completions),
                "sft_left_out": float(len(data.left_out)),
            }
        self._set_reference()

    def _corpus(self, rng: np.random.Generator, n: int) -> SFTData:
        assert self.task.corpus is not None, "asked by callers"
        prompts, completions = self.task.corpus(rng, n)
        return encode_examples(
            self.lm,
            prompts,
            completions,
            max_prompt_tokens=self.task.max_prompt_tokens,
            max_completion_tokens=self.task.max_new_tokens,
        )

    def _set_reference(self) -> None:
        self.reference = reference_of(self.lm, self.settings.num_layers_unfrozen)

    def clips(self, n: int, length: int, rng: np.random.Generator) -> list[Clip]:
        """Distinct completions of the present policy, several of each prompt, with true rewards.

        Args:
            n: At most so many, and 4 at least; fewer where completions come out alike.
            length: Not used: a clip is a whole completion.
            rng: Draws prompts and completions.
        """
        n_prompts = -(-max(n, 4) // _PER_PROMPT)
        rows = rng.integers(len(self.task), size=n_prompts).repeat(_PER_PROMPT)
        generator = torch.Generator(device=self.lm.device).manual_seed(int(rng.integers(2**62)))
        clips, _ = self._as_clips(self._sample(rows, generator, self.lm), rows)
        return list(dict.fromkeys(clips))

    def improve(self, signal: Signal, n_steps: int) -> dict[str, float]:
        """Spend `n_steps` completions on getting better at `signal`."""
        raise NotImplementedError

    def evaluate(
        self, n_episodes: int, seed: np.random.SeedSequence, *, random: bool = False
    ) -> list[Trajectory]:
        """Completions at temperature 1 of prompts drawn by the seed.

        Args:
            n_episodes: How many.
            seed: The same one draws the same prompts.
            random: With the reference's model, what was there before learning from preferences.

        Returns:
            `ScoredTrajectory` each, with the task's components and the KL to the reference.
        """
        rng = np.random.default_rng(seed)
        rows = rng.integers(len(self.task), size=n_episodes)
        generator = torch.Generator(device=self.lm.device).manual_seed(torch_seed(seed))
        assert self.reference is not None, "warm_up or load comes first"
        lm = self.reference.lm if random else self.lm
        batch = self._sample(rows, generator, lm)
        clips, scores = self._as_clips(batch, rows)
        kl = completion_kl(lm, self.reference.lm, batch).tolist()
        return [
            ScoredTrajectory(
                obs=clip.obs,
                actions=clip.actions,
                true_rewards=clip.true_rewards,
                terminated=True,
                truncated=False,
                context_id=clip.context_id,
                components={name: float(of[i]) for name, of in scores.components.items()},
                kl_to_ref=kl[i],
            )
            for i, clip in enumerate(clips)
        ]

    def compare(self, n: int, seed: np.random.SeedSequence) -> dict[str, Any]:
        """The policy beside the reference, on the same prompts.

        Args:
            n: Prompts, drawn by the seed; each model completes each once.
            seed: Draws the completions as well.

        Returns:
            `win_rate` by the true reward (a tie is half a win) with its 95 % interval over prompts
            `win_rate_low` and `win_rate_high`, and up to 8 `samples` of `prompt`, `before`,
            `after`, `true_before` and `true_after`.
        """
        before, after = self.evaluate(n, seed, random=True), self.evaluate(n, seed)
        gaps = np.array([a.true_return - b.true_return for a, b in zip(after, before, strict=True)])
        wins = 0.5 + 0.5 * np.sign(gaps)
        half = 1.96 * float(wins.std(ddof=1)) / np.sqrt(n) if n > 1 else 1.0
        rate = float(wins.mean())
        samples = []
        for one, two in zip(before[:_N_SAMPLES], after[:_N_SAMPLES], strict=True):
            (prompt, old, _), (_, new, _) = symbols_text(one.actions), symbols_text(two.actions)
            returns = {"true_before": one.true_return, "true_after": two.true_return}
            samples.append({"prompt": prompt, "before": old, "after": new, **returns})
        return {
            "win_rate": rate,
            "win_rate_low": max(rate - half, 0.0),
            "win_rate_high": min(rate + half, 1.0),
            "samples": samples,
        }

    # --- samples -----------------------------------------------------------------------------

    @torch.no_grad()
    def _sample(
        self, rows: np.typing.NDArray[np.int64], generator: torch.Generator, lm: LanguageModel
    ) -> TokenBatch:
        index = torch.from_numpy(rows)
        return sample_completions(
            lm,
            self.prompts.ids[index].to(lm.device),
            self.prompts.mask[index].to(lm.device),
            self.task.max_new_tokens,
            generator=generator,
        ).batch

    def _as_clips(self, batch: TokenBatch, rows: Any) -> tuple[list[Clip], TaskScores]:
        """Completions as clips, each with its true reward on its last symbol, and all scores."""
        scores = self._scores(batch, rows)
        clips = []
        for clip, total in zip(self._blind_clips(batch, rows), scores.total.tolist(), strict=True):
            rewards = np.zeros(len(clip), np.float32)
            rewards[-1] = total
            clips.append(replace(clip, true_rewards=rewards))
        return clips, scores

    def _scores(self, batch: TokenBatch, rows: Any) -> TaskScores:
        """What the task says of completions of the prompts in these rows."""
        ids, mask = batch.completion_ids.cpu().numpy(), batch.completion_mask.cpu().numpy()
        return self.task.score([int(row) for row in rows], ids, mask)

    def _blind_clips(self, batch: TokenBatch, rows: Any) -> list[Clip]:
        """Completions as clips without a true reward: what a reward model may see."""
        indices = [int(row) for row in rows]
        texts = self.task.completion_texts(indices, batch.completion_lists())
        prompts = [self.task.prompts[index] for index in indices]
        ended = batch.finished.tolist()
        return [text_clip(*parts) for parts in zip(prompts, texts, ended, strict=True)]

    # --- saving ------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the model, the reference, and what the subclass needs to go on."""
        self.lm.save(folder / "model")
        assert self.reference is not None, "a round ends after warm_up"
        self.reference.lm.save(folder / "reference")
        numbers = {"n_steps_done": self.n_steps_done, "sft": self.sft_figures}
        write_json(folder / "agent.json", numbers)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, bit for bit.

        Raises:
            CorruptDataError: a file is missing or damaged.
        """
        self._copy_weights(LanguageModel.from_folder(folder / "reference"))
        self._set_reference()
        self._copy_weights(LanguageModel.from_folder(folder / "model"))
        try:
            numbers = read_json(folder / "agent.json")
            self.n_steps_done = int(numbers["n_steps_done"])
            self.sft_figures = dict(numbers["sft"])
        except (OSError, ValueError, KeyError) as error:
            raise CorruptDataError(f"{folder / 'agent.json'} is damaged ({error}).") from error

    @torch.no_grad()
    def _copy_weights(self, source: LanguageModel) -> None:
        self.lm.model.load_state_dict(source.model.state_dict())

    def close(self) -> None:
        """Nothing to release."""

    def _report_steps(self) -> None:
        if self.on_steps is not None:
            self.on_steps(self.n_steps_done)
