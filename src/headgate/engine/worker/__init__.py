"""Inside an engine's process: messages in, a step, messages out."""
