"""Guesses at the tokens that come next, from the text itself or from a smaller model."""
