"""The gateway's side of the engine: starts its processes, watches them, carries requests there and tokens back."""
