"""The optimiser: Muon for the matrices inside the layers, AdamW for embeddings and norms.

Muon: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with the update scale of Liu et al. 2025
(arXiv 2502.16982). It learns from clearly fewer tokens than AdamW alone, and tokens are what a CPU is short of.
"""

from concurrent.futures import Executor

import torch
from torch import Tensor

from headgate.training.llama import Weights

_A, _B, _C = 3.4445, -4.7750, 2.0315
MOMENTUM = 0.95


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, by Newton-Schulz iteration. Takes one matrix or a stack of them."""
    x = matrix.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * square @ square) @ x
    return (x.mT if tall else x).to(matrix.dtype)


class Optimiser:
    """Both optimisers behind one `step`; gradients lie in `.grad` of the weights."""

    def __init__(self, weights: Weights, *, muon_rate: float, adam_rate: float, decay: float) -> None:
        self._stacks: dict[tuple[int, ...], list[Tensor]] = {}
        plain = []
        for name, weight in weights.items():
            if weight.ndim == 2 and "embed" not in name:
                self._stacks.setdefault(tuple(weight.shape), []).append(weight)
            else:
                plain.append(weight)
        self._momentum = {size: torch.zeros(len(stack), *size) for size, stack in self._stacks.items()}
        self._adam = torch.optim.AdamW(plain, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
        self._muon_rate, self._adam_rate, self._decay = muon_rate, adam_rate, decay

    def step(self, scale: float, pool: Executor) -> None:
        """Moves the weights once, with both learning rates times `scale`, and clears the gradients."""
        for group in self._adam.param_groups:
            group["lr"] = self._adam_rate * scale
        self._adam.step()
        self._adam.zero_grad()
        for _ in pool.map(lambda size: self._turn(size, self._muon_rate * scale), self._stacks):
            pass

    def _turn(self, size: tuple[int, ...], rate: float) -> None:
        """Moves all matrices of one size."""
        stack, momentum = self._stacks[size], self._momentum[size]
        with torch.no_grad():
            gradient = torch.stack([weight.grad for weight in stack if weight.grad is not None])
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonal(gradient.lerp_(momentum, MOMENTUM)) * (0.2 * max(size) ** 0.5)
            for weight, change in zip(stack, update, strict=True):
                weight.mul_(1 - rate * self._decay).sub_(change, alpha=rate)
                weight.grad = None

    def state(self) -> dict[str, object]:
        """What a checkpoint needs to go on."""
        return {"momentum": self._momentum, "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, object]) -> None:
        """Goes on from `state`."""
        momentum, adam = state["momentum"], state["adam"]
        assert isinstance(momentum, dict)
        assert isinstance(adam, dict)
        self._momentum = momentum
        self._adam.load_state_dict(adam)
