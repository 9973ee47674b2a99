"""The balancer: the best replica for a call first, and the count of what each has to do."""

import random
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import accumulate
from math import exp2

from msgspec import Struct

from headgate.backends.balance.demand import Demand
from headgate.backends.balance.keys import Ring, fingerprint, rendezvous
from headgate.backends.balance.loads import OUTPUT_WEIGHT, Load, Replica, Speed
from headgate.backends.balance.prefixes import Preamble, Prefixes
from headgate.backends.balance.server_metrics import ServerLoad
from headgate.core.clock import Clock
from headgate.core.rules import Balance
from headgate.core.target import Target

ABSENT_S = 30.0
"""A replica that was not to be chosen for so long, while others were, begins slowly when it is back."""
BOUND = 1.25
"""No replica is given a call for its prefix while it has more than so many times the mean to do."""
HOLDERS_MOST = 2
"""Replicas that are looked at because they hold the prompt's beginning, beside the two drawn."""
QUEUED = 8.0
"""A request that waits says more of a server than one that runs."""
STALE_S = 5.0
"""In so many seconds what a server said of itself loses half its weight against our own count."""
TURNS_MOST = 1024
NEAR = 3
"""So many replicas next to a key on the ring are the first to be tried where it fails."""
_HAIR = 1e-9
KEY_BLOCK = 1
"""The first block that may be the key of a prompt which goes on: all prompts may begin alike."""

Pick = Callable[["Choice"], list[int]]


class InFlight(Struct, frozen=True):
    """What this process has at one replica: tokens to be read, cached ones not counted, and expected to be written."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    slowness: float
    """Its seconds per token by those of all replicas, as far as known: 1 is like the others."""


class Choice:
    """What there is to choose from for one call, in parallel lists; all weights are above 0."""

    __slots__ = ("demand", "even", "now", "replicas", "weights")

    def __init__(self, replicas: list[Replica], weights: list[float], demand: Demand, now: float) -> None:
        self.replicas = replicas
        self.weights = weights
        self.even = weights.count(weights[0]) == len(weights)
        self.demand = demand
        self.now = now


class Balancer:
    """Decides and counts; all of it synchronous, in memory, for this process.

    Only what stands in `Balance` is decided here. Which targets may be used at all is for breakers and health to say: a
    replica that fails at once has little to do, and would be given all.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._replicas: dict[str, Replica] = {}
        self._prefixes = Prefixes()
        self._preamble = Preamble()
        self._speed = Speed()
        self._servers: dict[str, tuple[ServerLoad, float, int]] = {}
        """What each server said last, when, and how many requests of ours it had then."""
        self._turns: dict[tuple[str, ...], int] = {}
        self._spare: Replica | None = None
        """The least loaded of those that were looked at last and not taken."""
        self._picks: dict[Balance, Pick] = {
            "round_robin": self._round_robin,
            "weighted": self._weighted,
            "least_requests": self._least_requests,
            "tokens_in_flight": self._tokens_in_flight,
            "predicted_cost": self._predicted_cost,
            "queue_depth": self._queue_depth,
            "sticky": self._sticky,
            "prefix": self._prefix,
        }

    def order(self, balance: Balance, targets: Sequence[Target], demand: Demand) -> list[Target]:
        """All targets, the best first. Those of weight 0 come last."""
        weights = [target.weight for target in targets]
        out: list[Target] = []
        if weights and min(weights) <= 0:
            out = [target for target in targets if target.weight <= 0]
            targets = [target for target in targets if target.weight > 0]
            weights = [target.weight for target in targets]
        if len(targets) < 2:
            return [*targets, *out]
        now = self._clock.monotonic()
        choice = Choice(self._listed(targets, now), weights, demand, now)
        return [*map(targets.__getitem__, self._picks[balance](choice)), *out]

    def begin(self, target: Target, demand: Demand) -> Load:
        """Counts the call's work at the target's replica, and remembers its blocks there, until the load's end."""
        replica = self._replica(target.at, self._clock.monotonic())
        prompt = self._uncached(demand, self._prefixes.match(replica.slot, demand.blocks))
        if demand.blocks:
            self._preamble.learn(demand.blocks, self._preamble.shared(demand.blocks, 1 / max(2, len(self._replicas))))
            self._prefixes.remember(replica.slot, demand.blocks)
        return Load(replica, prompt, demand.output_tokens, self._clock, self._speed)

    def hear(self, at: str, seen: ServerLoad) -> None:
        """What a server says of itself."""
        now = self._clock.monotonic()
        self._servers[at] = (seen, now, self._replica(at, now).requests)

    def renew(self, at: str) -> None:
        """The replica is back after trouble: it gets little at first, and its cache is taken for empty."""
        if (replica := self._replicas.get(at)) is not None:
            self._prefixes.drop(replica.slot)
            replica.slot = self._prefixes.slot()
            replica.begin_slowly(self._clock.monotonic())

    def forget(self, names: Collection[str]) -> None:
        """Keeps only what is known of these replicas."""
        for at in [at for at in self._replicas if at not in names]:
            self._prefixes.drop(self._replicas.pop(at).slot)
            self._servers.pop(at, None)
        if self._spare is not None and self._spare.at not in self._replicas:
            self._spare = None

    def loads(self) -> dict[str, InFlight]:
        now = self._clock.monotonic()
        return {
            at: InFlight(replica.requests, replica.prompt, replica.output, replica.slowness(now))
            for at, replica in self._replicas.items()
        }

    def _replica(self, at: str, now: float) -> Replica:
        replica = self._replicas.get(at)
        if replica is None:
            replica = self._replicas[at] = Replica(at, self._prefixes.slot(), now)
        return replica

    def _listed(self, targets: Sequence[Target], now: float) -> list[Replica]:
        known = self._replicas
        replicas = [known.get(at := target.at) or self._replica(at, now) for target in targets]
        before = [replica.listed for replica in replicas]
        latest = max(before)
        if latest - min(before) > ABSENT_S:
            for replica in replicas:
                if latest - replica.listed > ABSENT_S:
                    replica.begin_slowly(now)
        for replica in replicas:
            replica.listed = now
        return replicas

    @staticmethod
    def _uncached(demand: Demand, held: int) -> int:
        """The prompt's tokens that a replica has to read which holds so many of its blocks; at least one."""
        return max(1, demand.prompt_tokens - round(held * demand.tokens_per_block))

    # What each balance does: the places of the choice, the best first.

    def _round_robin(self, choice: Choice) -> list[int]:
        names = tuple([replica.at for replica in choice.replicas])
        turn = self._turns.pop(names, 0) % len(names)
        self._turns[names] = turn + 1
        if len(self._turns) > TURNS_MOST:
            del self._turns[next(iter(self._turns))]
        return [*range(turn, len(names)), *range(turn)]

    def _weighted(self, choice: Choice) -> list[int]:
        """Drawn without replacement: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006."""
        draw = self._rng.expovariate
        keys = [draw(weight) for weight in choice.weights]
        return sorted(range(len(keys)), key=keys.__getitem__)

    def _least_requests(self, choice: Choice) -> list[int]:
        now = choice.now
        return self._least([
            (replica.requests + 1) / (weight * replica.share(now))
            for replica, weight in zip(choice.replicas, choice.weights, strict=True)
        ])  # fmt: skip

    def _predicted_cost(self, choice: Choice) -> list[int]:
        cost = self._cost(choice, self._prefixes.matches(choice.demand.blocks))
        return self._least([cost(place) for place in range(len(choice.weights))])

    def _least(self, keys: list[float]) -> list[int]:
        """The places by their keys; whose are the same, by chance."""
        draw = self._rng.random
        drawn = [key * (1.0 + _HAIR * draw()) for key in keys]
        return sorted(range(len(keys)), key=drawn.__getitem__)

    def _tokens_in_flight(self, choice: Choice) -> list[int]:
        """The power of two choices (Mitzenmacher 2001), with memory (Mitzenmacher, Prabhakar and Shah 2002), and with
        the replicas that know the prompt. Looking at few keeps several processes from running to the same one."""
        held = self._prefixes.matches(choice.demand.blocks)
        cost = self._cost(choice, held)
        candidates = self._two(choice)
        if held:
            candidates += self._holders(choice, held, cost)
        if choice.even and self._spare in choice.replicas:
            candidates.append(choice.replicas.index(self._spare))
        looked_at = sorted(dict.fromkeys(candidates), key=cost)
        works = [replica.prompt + OUTPUT_WEIGHT * replica.output for replica in choice.replicas]
        spare = min(looked_at[1:], key=works.__getitem__, default=None)
        self._spare = None if spare is None else choice.replicas[spare]
        others = set(range(len(works))).difference(looked_at)
        return [*looked_at, *sorted(others, key=works.__getitem__)]

    def _two(self, choice: Choice) -> list[int]:
        """Two of all by chance. By weight, and perhaps the same twice, where weights differ: a light replica that is
        idle is no reason to give it more than its weight."""
        size = len(choice.weights)
        if not choice.even:
            return self._rng.choices(range(size), cum_weights=list(accumulate(choice.weights)), k=2)
        first, second = int(self._rng.random() * size), int(self._rng.random() * (size - 1))
        return [first, second + (second >= first)]

    def _holders(self, choice: Choice, held: dict[int, int], cost: Callable[[int], float]) -> list[int]:
        """The cheapest of those that hold more of the prompt than all prompts share."""
        shared = self._preamble.shared(choice.demand.blocks, 1 / len(choice.replicas))
        deep = {slot for slot, depth in held.items() if depth > shared}
        if not deep:
            return []
        places = [place for place, replica in enumerate(choice.replicas) if replica.slot in deep]
        return sorted(places, key=cost)[:HOLDERS_MOST]

    def _cost(self, choice: Choice, held: dict[int, int]) -> Callable[[int], float]:
        """How long the call would take at a place, as tokens read by a replica of mean weight and speed: what is to be
        read before it, what it brings, and its answer. The answer tells only slow ones apart: without it the many
        short calls would go to those, and be written slowly."""
        demand, now, replicas, weights = choice.demand, choice.now, choice.replicas, choice.weights
        whole = self._speed.answer_weight * demand.output_tokens + demand.prompt_tokens
        per_block, most = demand.tokens_per_block, demand.prompt_tokens - 1.0
        mean = sum(weights) / len(weights)

        def cost(place: int) -> float:
            replica = replicas[place]
            ahead = (replica.prompt + OUTPUT_WEIGHT * replica.output) * mean / weights[place]
            saved = min(held.get(replica.slot, 0) * per_block, most)
            return ahead * replica.handicap(now) + (whole - saved) * replica.apart

        return cost

    def _queue_depth(self, choice: Choice) -> list[int]:
        now = choice.now
        return self._least([
            self._depth(replica, now) * replica.handicap(now) / weight
            for replica, weight in zip(choice.replicas, choice.weights, strict=True)
        ])  # fmt: skip

    def _depth(self, replica: Replica, now: float) -> float:
        """What its server said, with what we sent and got back since; our own count where it said nothing of late."""
        told = self._servers.get(replica.at)
        if told is None:
            return replica.requests + 1.0
        seen, when, ours = told
        trust = exp2((when - now) / STALE_S)
        known = max(0.0, seen.running + QUEUED * seen.waiting + replica.requests - ours)
        return 1.0 + trust * known + (1.0 - trust) * replica.requests

    def _sticky(self, choice: Choice) -> list[int]:
        if choice.demand.session is None:
            return self._tokens_in_flight(choice)
        seeds = [replica.seed for replica in choice.replicas]
        return rendezvous(fingerprint(choice.demand.session), seeds, choice.weights)

    def _prefix(self, choice: Choice) -> list[int]:
        """Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018), the load being tokens. What
        comes after the first few on the ring is sorted by load."""
        key = self._key(choice)
        if key is None:
            return self._tokens_in_flight(choice)
        now = choice.now
        ring = _ring(tuple([replica.seed for replica in choice.replicas]), tuple(choice.weights))
        loads = [
            (replica.prompt + OUTPUT_WEIGHT * replica.output) * replica.handicap(now) / weight
            for replica, weight in zip(choice.replicas, choice.weights, strict=True)
        ]
        most = BOUND * sum(loads) / len(loads)
        near: list[int] = []
        best = -1
        for place in ring.walk(key):
            near.append(place)
            if best < 0 and loads[place] <= most:
                best = place
            if best >= 0 and len(near) >= NEAR:
                break
        near.remove(best)
        others = set(range(len(loads))).difference(near, (best,))
        return [best, *near, *sorted(others, key=loads.__getitem__)]

    def _key(self, choice: Choice) -> int | None:
        """The first block that tells this prompt from the many; its session where it has none."""
        blocks = choice.demand.blocks
        if not blocks:
            return None if choice.demand.session is None else fingerprint(choice.demand.session)
        shared = self._preamble.shared(blocks, 1 / len(choice.replicas))
        return blocks[min(max(KEY_BLOCK, shared), len(blocks) - 1)]


@lru_cache(maxsize=256)
def _ring(seeds: tuple[int, ...], weights: tuple[float, ...]) -> Ring:
    return Ring(seeds, weights)
