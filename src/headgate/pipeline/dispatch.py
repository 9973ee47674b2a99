"""One call on its way to an answer: attempt after attempt until one has given its first piece; then it is the answer.

A failure before the first byte goes on by the route's rules (`course`). After it, the stream is rescued where the rules
allow it (`rescue`): what comes then must continue what the caller has.
"""

import asyncio
from collections.abc import Iterable
from functools import partial

from msgspec import structs

from headgate.backends.balance.demand import Demand, demand_of
from headgate.backends.replica import Pass
from headgate.core.call import Call
from headgate.core.errors import Bug, HeadgateError, Overloaded
from headgate.core.events import Stream
from headgate.core.faults import blame, classify, unsent
from headgate.core.ports import Backend, Continues
from headgate.core.reply import Reply, printable
from headgate.core.rules import Hedge, Way
from headgate.core.target import Target
from headgate.core.tasks import finish
from headgate.pipeline.admission import Lease
from headgate.pipeline.course import Course, Step
from headgate.pipeline.holds import Hold
from headgate.pipeline.meter import Story, tried
from headgate.pipeline.rescue.rescue import rescued
from headgate.pipeline.trial import CLOSING_SECONDS, Trial
from headgate.pipeline.upstreams import Upstreams

BY_PREFIX = frozenset({"tokens_in_flight", "predicted_cost", "prefix"})
"""Balances that look at the prompt."""
LAST_RESORT_MAX = 8
"""Calls at once at a replica that is ill, where a route has nothing better."""
AGAIN_S = 1.0
"""When to try again where it is not known how long a replica stays ill."""
RESCUED = frozenset({"chat", "completion"})
"""Operations whose streams can go on elsewhere."""
Begun = tuple[Trial, Stream | None]


async def dispatch(shared: Upstreams, lease: Lease, reply: Reply, story: Story) -> None:
    """Fills `reply` from the first target that answers. Raises the error of the last that was asked where none does."""
    await Trip(shared, lease, reply, story).go()


class Trip:
    """Of one call."""

    def __init__(self, shared: Upstreams, lease: Lease, reply: Reply, story: Story) -> None:
        self._shared = shared
        self._lease = lease
        self._reply = reply
        self._story = story
        self._call = lease.call
        self._rules = lease.routed.rules
        self._demand: Demand | None = None
        self._course = Course(
            lease.call, lease.routed, shared.replicas, self._order, shared.retries.settings, shared.rng
        )
        self._trials: list[Trial] = []
        """The newest last; after a race the one that won it."""
        self._told = False
        """How a broken stream ended."""
        self._step = self._course.first()
        """The newest attempt."""

    async def go(self) -> None:
        """Fills the reply. Raises the last attempt's error where none answered."""
        step: Step | None = self._step
        shared, story = self._shared, self._story
        shared.retries.of(self._step.target.backend).came(self._call.retry_count > 0)
        hold = await self._first_hold(self._step)
        failure: HeadgateError = Bug("A call was dispatched without a target.")
        latest = failure
        while step is not None and hold is not None:
            try:
                trial, stream = await self._start(step, hold)
            except HeadgateError as error:
                latest = error
                made = story.attempts and not isinstance(failure, Bug)
                if not made or not (unsent(error) and blame(error) == "ours"):
                    failure = error  # what an attempt failed with says more than why the next was not made
                if any(attempt.won for attempt in story.attempts):
                    raise  # the answer is there and its receipt could not be kept: another attempt would cost twice
            else:
                self._serve(trial, stream)
                return
            left = self._call.deadline.remaining(shared.clock)
            step = self._course.after(self._step, latest, left, self._allowed)
            if step is not None:
                step, hold = await self._go_on(step)
        self._tell_tried()
        raise failure

    # Attempts

    async def _start(self, step: Step, hold: Hold) -> Begun:
        self._step = step
        rule = self._rules.hedge
        if rule is None or self._story.attempts or not self._course.has_other or self._shared.tasks.full:
            return await self._try(step, hold, self._call)
        return await self._race(step, hold, rule)

    async def _try(self, step: Step, hold: Hold, call: Call) -> Begun:
        """One attempt, from the gate to its first piece. Raises `HeadgateError`; then all of it is given back."""
        shared, target = self._shared, step.target
        backend, load = shared.backends.get(target.at), None
        try:
            if backend is None:
                raise Overloaded(f"The backend '{target.backend}' is not available.", code="backend_unavailable")
            if self._lease.routed.primary > 1 or target.replica:
                load = shared.balancer.begin(target, self._demanded())
            slot = await shared.gates.of(target.at).enter(self._lease.ticket, self._lease.slot)
        except BaseException:
            hold.settle()
            if load is not None:
                load.end()
            raise
        self._lease.waited_s += slot.waited_s
        self._story.queue_s = self._lease.waited_s
        leave: Pass | None = None
        try:
            leave = shared.replicas.enter(target.at, streams=call.stream)
            if leave is None and self._last_resort(step):
                leave = shared.replicas.enter(target.at, anyway=True, streams=call.stream)
            if leave is None:
                why = shared.replicas.why_not(target.at) or "it is being probed"
                raise Overloaded(
                    f"The backend '{target.backend}' is left alone for now ({why}). Try again shortly.",
                    code="backend_unavailable",
                    retry_after=shared.replicas.again_in(target.at) or AGAIN_S,
                )
            attempt = self._story.attempt(call, step, hold)
        except BaseException:
            hold.settle()
            slot.leave()
            if load is not None:
                load.end()
            if leave is not None:
                leave.dropped()
            raise
        trial = Trial(call, attempt, slot, leave, load, shared.clock, shared.lag)
        trial.elsewhere = lambda: self._course.may_go_on and (not trial.begun or self._mendable)
        self._trials.append(trial)
        shared.running(trial)
        self._reply.own(lambda: self._over(trial))
        return trial, await trial.ask(backend, self._rules.hold_back)

    def _last_resort(self, step: Step) -> bool:
        """A replica that is ill is asked all the same where there is no other, but only so many calls may find out."""
        if not step.anyway and (self._story.attempts or self._course.has_elsewhere):
            return False
        return self._shared.replicas.pulse(step.target.at).in_flight < LAST_RESORT_MAX

    async def _race(self, step: Step, hold: Hold, rule: Hedge) -> Begun:
        """The attempt, and a second one where it is late; the first that answers is taken and the other ended."""
        shared = self._shared
        hedges = shared.hedges(self._call.model)
        hedges.came(rule)
        self._reply.own(lambda: hedges.paid(*_costs(self._story)))
        began = shared.clock.monotonic()
        racing = {shared.tasks.spawn(self._try(step, hold, self._call)): step}
        failure: HeadgateError = Bug("A race without an attempt.")
        wait = hedges.late_s(rule)
        try:
            while racing:
                done, _ = await asyncio.wait(racing, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if not done and (second := await self._hedge(rule)) is not None:
                    racing[shared.tasks.spawn(self._try(*second, self._call))] = second[0]
                wait = None
                for task in done:
                    self._step = racing.pop(task)
                    try:
                        begun: Begun = task.result()
                    except HeadgateError as error:
                        failure = error
                    else:
                        hedges.began(shared.clock.monotonic() - began)
                        await self._end_others(racing, begun[0])
                        return begun
        finally:
            for task in racing:
                task.cancel()
            if racing:
                await finish(_ended(racing), CLOSING_SECONDS)
        raise failure

    async def _hedge(self, rule: Hedge) -> tuple[Step, Hold] | None:
        step = self._course.hedge() if self._shared.hedges(self._call.model).take(rule) else None
        hold = await self._hold(step) if step is not None else None
        if step is None or hold is None:
            return None
        if self._shared.tasks.full:
            hold.settle()
            return None
        return step, hold

    async def _end_others(self, racing: dict[asyncio.Task[Begun], Step], winner: Trial) -> None:
        """The losers' connections are closed at once; what they cost is metered."""
        for task in racing:
            task.cancel()
        if racing:
            await finish(_ended(racing), CLOSING_SECONDS)
        racing.clear()
        for trial in self._trials:
            if trial is not winner:
                trial.lost("hedge_lost")
                await finish(trial.aclose(), CLOSING_SECONDS)
        self._trials.sort(key=lambda trial: trial is winner)

    # The answer

    def _serve(self, trial: Trial, stream: Stream | None) -> None:
        reply, target = self._reply, self._step.target
        reply.body = trial.body
        if stream is not None and self._mendable:
            rest = rescued(stream, self._call, self._rules.recovery, self._onwards, self._mended)
            reply.own(self._unless_told)
            reply.own(rest.aclose)
            stream = rest
        reply.stream = stream
        reply.headers.extend(trial.headers)
        reply.headers.append((b"x-headgate-backend", target.backend.encode()))
        if target.replica:
            reply.headers.append((b"x-headgate-replica", target.replica.encode()))
        if self._step.reason == "fallback":
            self._story.level = "fallback"
            reply.headers.append((b"x-headgate-model", printable(target.model)))
        reply.headers.append((b"x-headgate-level", self._story.level.encode()))
        self._tell_tried()

    async def _onwards(self, way: Way, text: str) -> Stream | None:
        """Another attempt's stream for an answer that was cut after `text`; None where there can be none.

        Raises `HeadgateError` where the attempt fails before its beginning.
        """
        broken = self._trials[-1]
        broken.lost("replay_diverged")
        await finish(broken.aclose(), CLOSING_SECONDS)
        if self._call.deadline.remaining(self._shared.clock) <= 0:
            return None
        fits = partial(self._continued, text=text) if way == "continue" else None
        silent = broken.attempt.error is not None and classify(broken.attempt.error) == "timeout"
        step = self._course.onwards(self._step, way, self._allowed, fits, silent=silent)
        call = self._call if fits is None or step is None else fits(step.target)
        if step is None or call is None:
            return None
        self._step = step
        self._story.go_on()
        await self._shared.clock.sleep(min(step.wait_s, self._call.deadline.remaining(self._shared.clock)))
        hold = await self._hold(step)
        if hold is None:
            return None
        _, stream = await self._try(step, hold, call)
        return stream

    def _continued(self, target: Target, text: str) -> Call | None:
        """The call that lets this target's model go on after `text`, where it can."""
        backend: Backend | None = self._shared.backends.get(target.at)
        return backend.continued(self._call, target, text) if isinstance(backend, Continues) else None

    def _tell_tried(self) -> None:
        attempts = self._story.attempts
        if len(attempts) > 1:
            self._reply.headers.append((b"x-headgate-attempts", b"%d" % len(attempts)))
            self._reply.headers.append((b"x-headgate-tried", printable(", ".join(tried(attempts)))))

    @property
    def _mendable(self) -> bool:
        """The stream can go on elsewhere."""
        return bool(self._rules.recovery) and self._call.operation in RESCUED

    def _mended(self, error: HeadgateError | None) -> None:
        """How a rescue ended: what the attempts themselves say is not what the caller saw."""
        self._told = True
        if error is None:
            routed = self._lease.routed
            if self._step.target not in routed.targets[: routed.primary]:
                self._story.level = "fallback"
            self._story.complete()
        else:
            self._trials[-1].lost("replay_diverged")
            self._story.fail(error)

    def _unless_told(self) -> None:
        """A break that its caller was not told of is not how the call ended: the caller left meanwhile."""
        if not self._told:
            self._story.go_on()

    async def _over(self, trial: Trial) -> None:
        self._shared.over(trial)
        await trial.aclose(self._reply.reason)

    # What attempts need

    def _order(self, targets: list[Target]) -> list[Target]:
        return self._shared.balancer.order(self._rules.balance, targets, self._demanded())

    def _demanded(self) -> Demand:
        if self._demand is None:
            booked = self._lease.booked
            likely = self._story.meter.estimator.likely(self._call)
            self._demand = demand_of(
                self._call,
                self._lease.ticket.tenant,
                likely,
                max(0, booked.work - likely),
                blocks=len(self._lease.routed.targets) > 1 and self._rules.balance in BY_PREFIX,
            )
        return self._demand

    def _allowed(self, target: Target) -> bool:
        """Pays for a retry, where the backend's budget has one left."""
        if self._shared.retries.of(target.backend).take():
            return True
        self._story.meter.metrics.retry_refused()
        return False

    async def _first_hold(self, step: Step) -> Hold | None:
        """What was held at the door is for the route's own targets."""
        hold = self._lease.first_hold()
        if hold is None or step.reason == "first":
            return hold
        hold.settle()
        return await self._shared.again(self._lease, step.target, self._claim(step))

    async def _go_on(self, step: Step) -> tuple[Step, Hold | None]:
        self._story.go_on()
        if step.wait_s:
            await self._shared.clock.sleep(step.wait_s)
        if not self._story.attempts and step.reason == "retry":
            step = structs.replace(step, reason="first")  # the one before never left
        if step.reason == "fallback":
            self._shared.retries.of(step.target.backend).came(client_retry=False)
        return step, await self._hold(step)

    async def _hold(self, step: Step) -> Hold | None:
        """What one more attempt may cost; None where the caller's budget does not allow it."""
        try:
            return await self._shared.again(self._lease, step.target, self._claim(step))
        except HeadgateError:
            return None  # why the attempt before failed says more

    def _claim(self, step: Step) -> str:
        return f"{self._call.id}/{step.target.at}/{len(self._story.attempts) + 1}"


async def _ended(tasks: Iterable[asyncio.Task[Begun]]) -> None:
    await asyncio.wait(set(tasks))


def _costs(story: Story) -> tuple[int, int]:
    """What a call's attempts cost, and what of that was for those that lost a race."""
    costs = [(attempt.cost_nanos or 0, attempt.deserted) for attempt in story.attempts]
    return sum(nanos for nanos, _ in costs), sum(nanos for nanos, deserted in costs if deserted)
