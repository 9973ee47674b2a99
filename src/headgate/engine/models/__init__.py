"""Reading models: what a Hugging Face folder describes, and its weights.

In comes a folder with `config.json` and safetensors files.
Out go a `ModelSpec` and NumPy arrays in the layout that the runners multiply with.
"""
