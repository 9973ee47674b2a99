"""What all calls share on their way to an answer: backends, gates, breakers, loads, retry budgets, races."""

import random
from collections.abc import Awaitable, Callable, Mapping

from headgate.backends.balance.balancer import Balancer
from headgate.backends.replicas import Replicas
from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError, OverBudget
from headgate.core.ports import Backend, CountsTokens
from headgate.core.target import Target
from headgate.core.tasks import Tasks
from headgate.pipeline.admission import Lease
from headgate.pipeline.gates import Gates
from headgate.pipeline.hedging import Hedges
from headgate.pipeline.holds import Hold
from headgate.pipeline.loop_lag import LoopLag
from headgate.pipeline.retry_budget import RetryBudgets
from headgate.pipeline.trial import Trial

Again = Callable[[Lease, Target, str], Awaitable[Hold]]
"""Holds what another attempt at a target may cost, under a claim of this name. Raises `OverBudget`."""
HEDGED_MAX = 1_000
"""Models, as callers name them, whose latencies are remembered for hedging: those asked for last."""


class Upstreams:
    """Holds a snapshot of the backends by replica (`use`)."""

    def __init__(
        self, clock: Clock, rng: random.Random, gates: Gates, retries: RetryBudgets, replicas: Replicas
    ) -> None:
        self.clock = clock
        self.rng = rng
        self.gates = gates
        self.retries = retries
        self.replicas = replicas
        self.balancer = Balancer(clock, rng)
        self.lag = LoopLag(clock)
        self.tasks = Tasks()
        """Attempts that race with another one."""
        self.backends: Mapping[str, Backend] = {}
        self.again: Again = _no_more
        self._counting: Mapping[str, CountsTokens] = {}
        self._hedges: dict[str, Hedges] = {}
        self._running: dict[str, set[Trial]] = {}

    def use(self, backends: Mapping[str, Backend], pools: Mapping[str, str]) -> None:
        """A new snapshot: the backends by replica, and to which backend each replica belongs."""
        self.replicas.forget(
            name for name, backend in backends.items() if self.backends.get(name, backend) is not backend
        )
        self.backends = backends
        self._counting = {name: backend for name, backend in backends.items() if isinstance(backend, CountsTokens)}
        self.replicas.use({name: pools.get(name, name) for name in backends})
        self.retries.keep({pools.get(name, name) for name in backends})
        self.balancer.forget(backends.keys())

    def count_input(self, call: Call, target: Target) -> int | None:
        """The prompt's exact tokens, where the target's backend has the tokenizer and the call is not too large."""
        counts = self._counting.get(target.at)
        return counts.count_input(call) if counts is not None else None

    def hedges(self, model: str) -> Hedges:
        """What is known of the latencies of a model."""
        found = self._hedges.pop(model) if model in self._hedges else Hedges()
        self._hedges[model] = found
        if len(self._hedges) > HEDGED_MAX:
            del self._hedges[next(iter(self._hedges))]
        return found

    def running(self, trial: Trial) -> None:
        """Kept until `over`."""
        self._running.setdefault(trial.at, set()).add(trial)

    def over(self, trial: Trial) -> None:
        trials = self._running.get(trial.at)
        if trials is not None:
            trials.discard(trial)
            if not trials:
                del self._running[trial.at]

    def desert(self, at: str, error: HeadgateError) -> None:
        """Attempts under way there fail now where their calls can go on elsewhere; the others wait on."""
        for trial in list(self._running.get(at, ())):
            if trial.elsewhere():
                trial.give_up(error)

    async def aclose(self) -> None:
        await self.tasks.aclose()


async def _no_more(lease: Lease, target: Target, claim: str) -> Hold:  # noqa: RUF029 stands where admission's will
    raise OverBudget("Nothing holds what another attempt may cost.")
