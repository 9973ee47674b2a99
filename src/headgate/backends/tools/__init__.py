"""Tool calls in a model's text, read as the text comes: one reader for each family of spellings."""
