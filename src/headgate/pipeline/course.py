"""Where a call goes next after a failure. Synchronous: a function of the route's rules, the error and what was tried.

1. What the rules stop, and what no other target could mend, ends the call.
2. Another target of the same route, at once.
3. The same target again after a short Retry-After.
4. The fallbacks, in order, each at the best of its replicas; or the chain that the route has for this class of error.
5. The same target again after a jittered backoff, where there is nothing else.
"""

import random
from collections.abc import Callable

from msgspec import Struct, structs

from headgate.backends.replicas import Replicas
from headgate.core.call import Call
from headgate.core.errors import Bug, HeadgateError
from headgate.core.faults import ErrorClass, classify, final, not_tried, unsent
from headgate.core.rules import Way
from headgate.core.target import Routed, Target
from headgate.core.usage import Reason
from headgate.pipeline.retry_budget import RetrySettings

Order = Callable[[list[Target]], list[Target]]
Allowed = Callable[[Target], bool]
"""Pays for a retry at a target, where its backend's budget has one left."""


class Step(Struct, frozen=True):
    """The next attempt."""

    target: Target
    reason: Reason
    wait_s: float = 0.0
    """Before it is made."""
    anyway: bool = False
    """Although it is better left alone: there is nothing else."""
    passed_over: str | None = None
    """Which targets come after it although they stood before it, and why."""


class Course:
    """Of one call. `replicas` tell which targets are better left alone now; `order` puts those that share the calls in
    order, the best first.
    """

    def __init__(
        self,
        call: Call,
        routed: Routed,
        replicas: Replicas,
        order: Order,
        settings: RetrySettings,
        rng: random.Random,
    ) -> None:
        self._call = call
        self._routed = routed
        self._replicas = replicas
        self._why_not = replicas.why_not
        self._order = order
        self._settings = settings
        self._rng = rng
        self._primary = list(routed.targets[: routed.primary])
        self._fallbacks = list(routed.targets[routed.primary :])
        self._same_model = 0
        self._again = 0
        self._chained: ErrorClass | None = None
        """Whose chain it is on."""
        self._fallen: dict[tuple[str, str], int] = {}
        """Attempts at each fallback, all its replicas together."""

    def first(self) -> Step:
        """The target to begin with. Where all are better left alone, one of the route's own is tried all the same."""
        step = self._pick("first", usable_only=True)
        if step is None and (other := self._fall_back(_free, usable_only=True)) is not None:
            words = self._sift(self._primary)[1]
            return structs.replace(other, passed_over="; ".join(filter(None, [*words, other.passed_over])))
        step = step or self._pick("first") or self._fall_back(_free)
        if step is None:
            raise Bug("A call was dispatched without a target.")
        self._same_model += 1
        return step

    def after(self, step: Step, error: HeadgateError, remaining_s: float, allowed: Allowed) -> Step | None:
        """What to try after `step` failed; None where nothing may or can help. `allowed` pays for a retry."""
        kind = classify(error)
        if final(error) or remaining_s <= 0:
            return None
        if self._call.operation == "passthrough" and not unsent(error):
            return None  # what it does is not known here: it may have been done
        chain = self._routed.chains.get(kind)
        if chain and self._chained is None:
            self._chained = kind
            self._primary.clear()
            self._fallbacks = list(chain)
        elif kind != self._chained and self._routed.rules.next(kind) == "stop":
            return None
        return (
            self._other(error, allowed)
            or self._soon(step, error, remaining_s, allowed)
            or self._fall_back(allowed, free=not_tried(error))
            or self._later(step, error, remaining_s, allowed)
        )

    def onwards(
        self,
        step: Step,
        way: Way,
        allowed: Allowed,
        fits: Callable[[Target], object] | None = None,
        *,
        silent: bool = False,
    ) -> Step | None:
        """Where a stream goes on that was cut at `step`: another target of the route, the same one, a fallback.

        `fits` tells which targets can (all, by default); those that cannot stay for another way. One that was `silent`
        is asked again after the fallbacks: it may keep the caller waiting as long once more.
        """

        def able(target: Target) -> bool:
            return (fits is None or fits(target) is not None) and self._why_not(target.at) is None

        again = self._same_model < self._settings.attempts
        others = [target for target in self._primary if able(target)] if again else []
        if others:
            target = self._best(others)
            if allowed(target):
                self._same_model += 1
                self._primary.remove(target)
                return Step(target, way)
        may_again = again and not others and able(step.target)
        if may_again and not silent and allowed(step.target):
            return self._once_more(step, way)
        fallback = self._take([target for target in self._fallbacks if able(target)], allowed)
        if fallback is not None:
            return Step(fallback, way)
        return self._once_more(step, way) if may_again and silent and allowed(step.target) else None

    def _once_more(self, step: Step, way: Way) -> Step:
        """The same target, which may be starting again."""
        wait_s = self._backoff()
        self._same_model += 1
        self._again += 1
        return Step(step.target, way, wait_s)

    def _backoff(self) -> float:
        """Before the same target is asked again: longer each time, and never the same for two callers."""
        backoff = min(self._settings.backoff_max_s, self._settings.backoff_s * 2.0**self._again)
        return backoff * (0.5 + 0.5 * self._rng.random())

    @property
    def has_elsewhere(self) -> bool:
        """A target that was not tried yet is fit to be."""
        return any(self._why_not(target.at) is None for target in (*self._primary, *self._fallbacks))

    @property
    def may_go_on(self) -> bool:
        """The same, and it may be tried after an attempt that failed."""
        most = self._settings.attempts
        own = self._primary if self._same_model < most else ()
        others = [target for target in self._fallbacks if self._fallen.get(_name(target), 0) < most]
        return any(self._why_not(target.at) is None for target in (*own, *others))

    @property
    def has_other(self) -> bool:
        """Another target of the route could be asked at the same time."""
        return any(self._why_not(target.at) is None for target in self._primary)

    def hedge(self) -> Step | None:
        """Another target of the route, for an attempt beside the first."""
        return self._pick("hedge", usable_only=True)

    def _other(self, error: HeadgateError, allowed: Allowed) -> Step | None:
        if not self._primary or (self._same_model >= self._settings.attempts and not not_tried(error)):
            return None
        step = self._pick("retry", usable_only=bool(self._fallbacks))
        if step is None:
            return None
        if not_tried(error):
            return step  # no attempt was made: nothing is tried again
        if not allowed(step.target):
            return None
        self._same_model += 1
        return step

    def _soon(self, step: Step, error: HeadgateError, remaining_s: float, allowed: Allowed) -> Step | None:
        wait = error.retry_after
        if classify(error) != "overload" or wait is None or not_tried(error):
            return None
        longest = self._settings.wait_s if self._fallbacks else self._settings.retry_after_max_s
        if wait > longest:
            return None
        return self._same(step, wait + 0.1 * wait * self._rng.random(), remaining_s, allowed)

    def _later(self, step: Step, error: HeadgateError, remaining_s: float, allowed: Allowed) -> Step | None:
        kind = classify(error)
        if kind not in {"upstream", "overload"} or not_tried(error) or error.retry_after is not None:
            return None  # a target that was silent once is not given a second wait
        wait = self._backoff()
        if kind == "overload":  # it rests: before that is over nobody is let through to it
            rest = self._replicas.again_in(step.target.at) * (1.0 + 0.1 * self._rng.random())
            if rest > self._settings.retry_after_max_s:
                return None
            wait = max(wait, rest)
        return self._same(step, wait, remaining_s, allowed)

    def _same(self, step: Step, wait_s: float, remaining_s: float, allowed: Allowed) -> Step | None:
        if self._same_model >= self._settings.attempts or wait_s >= remaining_s or step.reason == "fallback":
            return None
        if not allowed(step.target):
            return None
        self._same_model += 1
        self._again += 1
        return Step(step.target, "retry", wait_s)

    def _pick(self, reason: Reason, *, usable_only: bool = False) -> Step | None:
        """Takes the best of the route's own targets: those that are better left alone come last, or not at all."""
        usable, words = self._sift(self._primary)
        if usable:
            best = self._best(usable)
        elif not self._primary or usable_only:
            return None
        else:
            name = self._replicas.least_bad([target.at for target in self._primary])
            best = next(target for target in self._primary if target.at == name)
        self._primary.remove(best)
        return Step(best, reason, 0.0, not usable, "; ".join(words) if usable and words else None)

    def _fall_back(self, allowed: Allowed, *, free: bool = False, usable_only: bool = False) -> Step | None:
        """The next fallback, in order; one that is better left alone only where all are. `free` as in `_take`."""
        usable, words = self._sift(self._fallbacks)
        if not usable and usable_only:
            return None
        target = self._take(usable or self._fallbacks[:1], allowed, free=free)
        if target is None:
            return None
        return Step(target, "fallback", 0.0, not usable, "; ".join(words) if usable and words else None)

    def _take(self, able: list[Target], allowed: Allowed, *, free: bool = False) -> Target | None:
        """Takes the best of the replicas of the first fallback among these.

        A further replica of one that failed is a retry there: so many, and paid for, unless it is `free`.
        """
        while able:
            name = _name(able[0])
            same, able = [one for one in able if _name(one) == name], [one for one in able if _name(one) != name]
            best, tried = self._best(same), self._fallen.get(name, 0)
            if not tried or free or (tried < self._settings.attempts and allowed(best)):
                self._fallen[name] = tried + 1
                self._fallbacks.remove(best)
                return best
        return None

    def _sift(self, targets: list[Target]) -> tuple[list[Target], list[str]]:
        """Those that are usable, and why those before the first of them are not."""
        usable: list[Target] = []
        words: list[str] = []
        for target in targets:
            why = self._why_not(target.at)
            if why is None:
                usable.append(target)
            elif not usable or targets is self._primary:
                words.append(f"{target.at}: {why}")
        return usable, words

    def _best(self, targets: list[Target]) -> Target:
        return self._order(targets)[0] if len(targets) > 1 else targets[0]


def _free(_: Target) -> bool:
    """The first attempt of a call is no retry."""
    return True


def _name(target: Target) -> tuple[str, str]:
    """What the replicas of one fallback have in common."""
    return target.backend, target.model
