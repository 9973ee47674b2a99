"""The backend that needs no server: our own engine, in a process beside the gateway.

Text is turned into token ids here and back; the engine knows ids only. Large texts are rendered and tokenised in a
worker thread, so that the event loop never waits for them.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

from headgate.backends.embedded_grammar import Held, blame, completion_held_to, held_to
from headgate.backends.embedded_params import choices, ends, max_tokens, sampling_params, stops
from headgate.backends.embedded_prompt import Prompt, PromptMaker, forced_tools
from headgate.backends.embedded_stream import ChoiceWriter, Form, answer_events
from headgate.backends.prefill import prefilled
from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError, NotFound
from headgate.core.ids import Ids
from headgate.core.policy import PRIORITIES
from headgate.core.ports import Answer, Health, ModelInfo, Progress
from headgate.core.request import ChatRequest, CompletionRequest, NamedTool
from headgate.core.request import prompts as prompts_of
from headgate.core.target import Target
from headgate.engine.front.client import EngineClient
from headgate.engine.front.generation import Generation
from headgate.engine.plan import SamplingParams, Share

_P = ParamSpec("_P")
_T = TypeVar("_T")
INLINE_BYTES = 32 * 1024
"""Requests up to this size are tokenised on the event loop: that is faster than a thread."""


class EmbeddedBackend:
    """One model folder behind one engine. Raises `ValueError` where the folder's text side cannot be used."""

    kind = "embedded"

    def __init__(
        self,
        name: str,
        engine: EngineClient,
        *,
        clock: Clock,
        ids: Ids,
        model: str | None = None,
        created: int = 0,
        tool_parser: str | None = None,
    ) -> None:
        """`engine` is started by whoever builds this; it is closed with the backend. `model` is the folder's name.

        `tool_parser` is one of `dialect.FAMILIES`, where the folder does not show how its model spells calls.
        """
        self.name = name
        self.engine = engine
        self.model = model or engine.folder.name
        self._created = created
        self._clock = clock
        self._ids = ids
        self._prompts = PromptMaker(engine.folder, clock, tool_parser=tool_parser)
        self._steps_seen = 0

    async def open(self, call: Call, target: Target) -> Answer:
        """Raises `BadCall` for what the model cannot do, `Overloaded` where the engine has no room now."""
        if target.model != self.model:
            raise NotFound(f"The embedded engine has no model {target.model!r}.", code="model_not_found", param="model")
        await self.engine.awake()
        match call.body:
            case ChatRequest() as request:
                return await self._chat(call, request)
            case CompletionRequest() as request:
                return await self._completion(call, request)
            case _:
                raise BadCall(
                    f"The model {self.model!r} writes text: it makes no embeddings or rankings.", param="model"
                )

    def continued(self, call: Call, target: Target, text: str) -> Call | None:
        """Implements `core.ports.Continues`."""
        return prefilled(call, text, "vllm") if target.model == self.model else None

    def count_input(self, call: Call) -> int | None:
        """Exact: what the model will read. None for what `open` would refuse, or not tokenise on the event loop."""
        body = call.body
        if len(call.raw) > INLINE_BYTES or not self.engine.known:
            return None
        longest = self.engine.limits.longest
        try:
            if isinstance(body, ChatRequest):
                return len(self._prompts.chat(body, longest).ids)
            if isinstance(body, CompletionRequest):
                return sum(len(prompt.ids) for prompt in self._prompts.completion(body, longest))
        except BadCall:
            return None
        return None

    async def models(self) -> Sequence[ModelInfo]:
        length = self.engine.limits.longest if self.engine.known else None
        return (ModelInfo(self.model, self._created, "headgate", length),)

    async def probe(self) -> Health:
        """Generates one token, as any call would; where others wait, steps since the last probe are the proof.

        A probe that waited its turn in a long queue would call a busy engine dead.
        """
        if self.engine.asleep:
            return Health(True, f"{self.model} is asleep")
        start = self._clock.monotonic()
        before, self._steps_seen = self._steps_seen, self.engine.stats.steps
        if self.engine.ready and self.engine.stats.waiting and self._steps_seen > before:
            return Health(True, f"{self.model} is busy generating")
        try:
            generation = self.engine.submit([(0,)], SamplingParams(temperature=0.0), max_tokens=1)
            try:
                async for _ in generation:
                    pass
            finally:
                generation.close()
        except HeadgateError as error:
            return Health(False, error.message)
        return Health(True, f"{self.model} generated a token", (self._clock.monotonic() - start) * 1000)

    async def aclose(self) -> None:
        await self.engine.aclose()

    async def _chat(self, call: Call, request: ChatRequest) -> Answer:
        longest = self.engine.limits.longest
        prompt = await _aside(call, self._prompts.chat, request, longest)
        tools = None
        forced = forced_tools(request)
        if request.tools and request.tool_choice != "none":
            offered = forced or request.tools
            tools = frozenset(tool.function.name for tool in offered if tool.function is not None)
        form = Form(
            stops=stops(request),
            keep_stop=bool(request.include_stop_str_in_output),
            show_special=request.skip_special_tokens is False,
            choices=request.n or 1,
            tools=tools,
            parallel_tools=request.parallel_tool_calls is not False and not isinstance(request.tool_choice, NamedTool),
            begun=prompt.begun,
            forced=bool(forced),
            ends=ends(request, self.engine.eos_ids),
            dialect=self._prompts.dialect,
            thinking=prompt.thinking,
            show_reasoning=request.include_reasoning is not False,
        )
        held = await _aside(call, held_to, request, prompt, self._prompts.dialect)
        return await self._answer(call, request, [prompt], form, held)

    async def _completion(self, call: Call, request: CompletionRequest) -> Answer:
        if request.suffix:
            raise BadCall("This model cannot fill in text before a suffix.", param="suffix")
        if request.best_of is not None and request.best_of != (request.n or 1):
            raise BadCall("best_of is not supported; use n.", param="best_of")
        if request.echo and request.logprobs is not None:
            raise BadCall("echo together with logprobs is not supported.", param="echo")
        choices(request, len(prompts_of(request.prompt)))  # before any is tokenised
        longest = self.engine.limits.longest
        prompts = await _aside(call, self._prompts.completion, request, longest)
        echo: list[str] = []
        if request.echo:
            echo = [self._prompts.text(prompt.ids) for prompt in prompts for _ in range(request.n or 1)]
        form = Form(
            stops=stops(request),
            keep_stop=bool(request.include_stop_str_in_output),
            show_special=request.skip_special_tokens is False,
            choices=request.n or 1,
            echo=echo,
            ends=ends(request, self.engine.eos_ids),
        )
        held = await _aside(call, completion_held_to, request)
        return await self._answer(call, request, prompts, form, held)

    async def _answer(
        self,
        call: Call,
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[Prompt],
        form: Form,
        held: Held | None = None,
    ) -> Answer:
        limits, defaults = self.engine.limits, self._prompts.defaults
        if not all(prompt.ids for prompt in prompts) or not prompts:
            raise BadCall("The prompt is empty: it needs at least one token.", param="prompt")
        params = sampling_params(
            request, defaults, call_id=call.id, eos_ids=self.engine.eos_ids, vocabulary=limits.vocabulary
        )
        lengths = [len(prompt.ids) for prompt in prompts]
        count = choices(request, len(prompts))
        allowed = max_tokens(call, defaults, limits, max(lengths))
        ids = [prompt.ids for prompt in prompts]
        submit = partial(self.engine.submit, ids, params, max_tokens=allowed, choices=count, share=_share(call))
        generation = None
        if held is not None and not self.engine.grammar:
            if held.strict:
                raise BadCall("This model's tokenizer cannot be used to enforce schemas.", param=held.param)
            held = None
        if held is not None:
            generation = await _held_generation(submit, held)
        if generation is None:
            generation = submit()
        progress = Progress(input_tokens=sum(lengths), exact=True)
        vocabulary = self._prompts.vocabulary
        writers = [ChoiceWriter(index, form, vocabulary, self._ids.new) for index in range(len(prompts) * count)]

        async def close() -> None:  # noqa: RUF029 the port awaits it
            generation.close()

        stream = answer_events(generation, writers, form, progress)
        return Answer(stream=stream, progress=progress, close=close)


async def _aside(call: Call, function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """What the function gives, from a thread where the call's body is large."""
    if len(call.raw) > INLINE_BYTES:
        return await asyncio.to_thread(function, *arguments, **named)
    return function(*arguments, **named)


def _share(call: Call) -> Share:
    """Tenants take turns, in classes, and none finds another's prompts in the prefix cache."""
    return Share(call.tenant, call.tenant, PRIORITIES.index(call.priority or "normal"))


async def _held_generation(submit: Callable[..., Generation], held: Held) -> Generation | None:
    """A generation that follows the grammar; None if the grammar cannot be enforced and the caller did not insist."""
    generation = submit(grammar=held.grammar)
    try:
        await generation.accepted()
    except BadCall as error:
        if held.strict:
            raise blame(error.message, held) from error
        return None
    except BaseException:
        generation.close()
        raise
    return generation
