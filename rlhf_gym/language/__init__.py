"""What the text envs, the text reward model and the text agents share: a language model.

The modules load torch and transformers; import what you need from them, for example
`from rlhf_gym.language.models import LanguageModel`.
"""
