"""From logits to tokens, and which tokens of a draft stand."""
