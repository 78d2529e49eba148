"""Learners of language: supervised fine-tuning, PPO and DPO on a transformer.

The modules load torch and transformers; import what you need from them, for example
`from rlhf_gym.agents.text.sft import SFTTrainer`.
"""
