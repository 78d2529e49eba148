"""Learners behind one protocol: Stable-Baselines3's PPO, and what substitutes its reward.

The modules load torch and Stable-Baselines3; import what you need from them, for example
`from rlhf_gym.agents.ppo import PPOAgent`.
"""
