"""The recipe of the bundled demonstration model: text generator, tokenizer, trainer, export and skill table.
In come a seed and a settings struct; nothing is read from outside the repository.
Out comes a Hugging Face model folder that the engine serves, with a model card that says how well it learnt each skill.
"""
