"""Queries, teachers, the preference store, and the reward models that are fitted to answers.

Import what you need from the modules, for example
`from rlhf_gym.feedback.store import PreferenceStore`.
"""
