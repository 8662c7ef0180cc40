"""How an answer comes about: the decoding loop, `chat` and `stream_chat`, and what the library's `generate` needs.

An answer's way through this file: `ChatMixin.stream_chat` encodes the prompt, `decode` reads it (prefill) and then
computes a token at a time, `sampler.sample` takes the next token of each row from its logits, and `AnswerText` turns
the tokens into text that does not change any more. The engine for many requests samples and writes with the same.

What only the library's `generate` can do (beams, the user's stopping criteria, assistant models, ...) stays its.

Shapes: `b` batch, `s` prompt tokens, `t` tokens so far, `v` vocabulary.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers import __version__ as transformers_version
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from .answer_text import AnswerText, process_response
from .cache import CACHE_NAME, ChatGLMCache, expected_length, one_cache
from .drafts import Drafts
from .grammar import Grammar, response_grammar
from .host_transfer import upload
from .logits_processors import AdjustLogits, FiniteLogits, InvalidScoreLogitsProcessor  # noqa: F401
from .positions import PromptLayout, refuse_right_padding
from .sampler import Sampler, foreign_tokens, sample
from .sampling import MAX_LENGTH, PARAMETERS, Sampling, check_parameter
from .tokenization_chatglm import ChatGLMTokenizer

logger = logging.get_logger(__name__)


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    samplers: Sequence[Sampler],
    max_new_tokens: int,
    end_ids: Iterable[int],
    pad_token_id: int,
    logits_processor: Sequence[LogitsProcessor] | None = None,
    drafts: Drafts | None = None,
) -> Iterator[list[int]]:
    """Read prompts, then yield a token for each row until all rows have ended; closing the generator ends it, too.

    The model reads each prompt once and each token but the last once, and those tokens of drafts that are refused.

    Args:
        model: a `ChatGLMForConditionalGeneration`.
        input_ids: int64 [b, s], prompts padded on the left.
        attention_mask: as `forward` takes it.
        samplers: one for each row.
        max_new_tokens: tokens of an answer at most.
        end_ids: ids that end a row; they are yielded.
        pad_token_id: yielded for rows that have ended.
        logits_processor: applied to the logits of every token.
        drafts: of the one row, to read several tokens in a pass; None to read one. The tokens are the same.

    Raises:
        InvalidLogitsError: the model computed NaN or infinite logits.
    """
    processors, process = LogitsProcessorList(logits_processor or []), None
    end_ids, running = set(end_ids), [True] * len(input_ids)
    cache = ChatGLMCache()
    cache.expected_length = input_ids.shape[1] + max_new_tokens
    output = model(input_ids=input_ids, attention_mask=attention_mask, cache=cache, use_cache=True, logits_to_keep=1)
    draft, place = [], 0  # tokens read ahead, and how many of them have turned out to be the answer's
    for remaining in range(max_new_tokens - 1, -1, -1):
        if processors:
            process = functools.partial(processors, input_ids)
        tokens = sample(output.logits[:, place].to(torch.float32, copy=True), samplers, process)
        if None in tokens:
            raise next((sampler.failure() for sampler, token in zip(samplers, tokens, strict=True) if token is None))
        for sampler, token_id in zip(samplers, tokens, strict=True):
            sampler.take(token_id)
        tokens = [token_id if runs else pad_token_id for token_id, runs in zip(tokens, running, strict=True)]
        yield tokens
        running = [
            runs and token_id not in end_ids and not sampler.finished
            for sampler, token_id, runs in zip(samplers, tokens, running, strict=True)
        ]
        if not remaining or not any(running):
            return
        if processors:
            input_ids = torch.cat([input_ids, upload(tokens, input_ids.device)[:, None]], dim=1)
        if drafts is not None:
            drafts.take(tokens[0])
        if draft[place : place + 1] == tokens:
            place += 1
            continue
        if draft:
            output.cache.crop(place - len(draft))
        draft, place = [] if drafts is None else drafts.propose(remaining - 1), 0
        new_ids = upload([[token_id, *draft] for token_id in tokens], input_ids.device)  # [b, 1 + len(draft)]
        output = model(input_ids=new_ids, cache=output.cache, use_cache=True)


def end_token_ids(model: PreTrainedModel) -> set[int]:
    """Return the ids that end an answer of a model."""
    ids = getattr(model.generation_config, "eos_token_id", None) or model.config.eos_token_id
    return set(ids) if isinstance(ids, list | tuple) else {ids}


class StopWhen(StoppingCriteria):
    """Stop the rows for which a function of the ids [b, t] says so, bool [b]."""

    def __init__(self, condition: Callable[[Tensor], Tensor]) -> None:
        self.condition = condition

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        return self.condition(input_ids)


class GenerationThread(BaseStreamer):
    """Run `generate` in a thread and iterate over its tokens; leaving the `with` block ends it within a token.

    Args:
        model: a `ChatGLMForConditionalGeneration`.
        arguments: of its `generate`.
    """

    def __init__(self, model: PreTrainedModel, arguments: dict) -> None:
        self.tokens: queue.SimpleQueue = queue.SimpleQueue()
        self.stopped = False
        self.prompt_seen = False
        criteria = [*(arguments.get("stopping_criteria") or []), StopWhen(self._stop)]
        arguments = dict(arguments, streamer=self, stopping_criteria=criteria)
        self.thread = threading.Thread(target=self._run, args=(model, arguments), daemon=True, name="chatglm-generate")

    def _run(self, model: PreTrainedModel, arguments: dict) -> None:
        try:
            model.generate(**arguments)
            self.tokens.put(None)
        except BaseException as error:  # whatever it is, the consumer raises it
            self.tokens.put(error)

    def put(self, value: Tensor) -> None:
        """Take new token ids from `generate`: [b], or of accepted drafts [1, n]; the first call brings the prompt."""
        if self.prompt_seen:
            for ids in value.reshape(-1, 1).tolist() if value.dim() == 2 else [value.tolist()]:
                self.tokens.put(ids)
        self.prompt_seen = True

    def end(self) -> None:
        """Take note of the end: nothing to do, `_run` reports it."""

    def _stop(self, input_ids: Tensor) -> Tensor:
        return torch.full((input_ids.shape[0],), self.stopped, dtype=torch.bool, device=input_ids.device)

    def __iter__(self) -> Iterator[list[int]]:
        """Iterate over the next token of each row."""
        while (item := self.tokens.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> GenerationThread:
        self.thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stopped = True
        self.thread.join()


class ChatMixin:
    """What `ChatGLMForConditionalGeneration` generates with: `chat` and `stream_chat`, and the library's `generate`.

    Attributes:
        drafts: whether answers may be drafted, see `drafts.py`; they are the same without, and some come later.
    """

    drafts = True

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values=None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache=None,
        is_first_iteration: bool = False,
        **kwargs,
    ) -> dict:
        """Return the inputs of the next forward pass: the whole prompt first, then what is not yet cached.

        `position_ids` are ignored: the library passes its own one-dimensional ones. Positions follow from the ids.

        Args:
            input_ids: int64 [b, t], all tokens so far.
            cache: of the tokens read so far; `past_key_values` is its older name.
            attention_mask: as `forward` takes it.
            use_cache, logits_to_keep, output_attentions, output_hidden_states: handed on to `forward`.
            is_first_iteration: whether nothing has been read yet.

        Raises:
            RuntimeError: after the first iteration, the library wants a cache to be used and hands over none.
            ValueError: fewer ids than the cache holds.
        """
        cache = one_cache(cache, past_key_values)
        if use_cache and cache is None and not is_first_iteration:  # every token would read all tokens before it again
            raise RuntimeError(
                f"transformers {transformers_version} handed no key/value cache to the model (it gave "
                f"{', '.join(sorted(kwargs)) or 'nothing else'}): please report this version. `chat` and `stream_chat` "
                "do not depend on it"
            )
        cache = None if use_cache is False else ChatGLMCache.from_past(cache)
        if cache is None or cache.get_seq_length() == 0:
            layout = PromptLayout.from_input_ids(input_ids, attention_mask, self.config)
            if cache is not None:
                cache.layout = layout
            if logits_to_keep is None:  # an answer's first tokens may be candidates
                logits_to_keep = input_ids.shape[1] - int(layout.context_length.min())
        elif cache.layout is None:  # filled from another class' keys and values
            cache.layout = PromptLayout.from_input_ids(input_ids, attention_mask, self.config)
        cached = 0 if cache is None else cache.get_seq_length()
        if cached >= input_ids.shape[1]:
            raise ValueError(
                f"input_ids must hold the whole sequence, cached tokens included: there are {input_ids.shape[1]} ids, "
                f"and the cache holds {cached} tokens"
            )
        return {
            "input_ids": input_ids[:, cached:],
            CACHE_NAME: cache,
            "attention_mask": attention_mask,
            "use_cache": cache is not None,
            "logits_to_keep": logits_to_keep or 0,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config=None,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        stopping_criteria: Sequence[StoppingCriteria] | None = None,
        **kwargs,
    ):
        """Call the library's `generate`; prompts may carry the tokenizer's mask and positions.

        Raises:
            InvalidLogitsError: the model computed NaN or infinite logits.
            ValueError: a prompt without `<sop>` or mask token, or padded on the right; `inputs_embeds`;
                `position_ids` that are not the tokenizer's; a cache of another prompt, or of a kind that this model
                has not.
        """
        input_ids = kwargs.get("input_ids") if inputs is None else inputs
        attention_mask = kwargs.get("attention_mask")
        # the library wants a mask of ones and zeros, and extends it itself
        if attention_mask is not None and attention_mask.dim() == 4:
            kwargs["attention_mask"] = (~attention_mask[:, 0, -1, :].bool()).long()
        position_ids = kwargs.pop("position_ids", None)
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError("generate needs input_ids, not inputs_embeds: a prompt's positions follow from its ids")
        if input_ids is not None:
            refuse_right_padding(input_ids, kwargs.get("attention_mask"), self.config)
        if position_ids is not None and input_ids is not None:
            self._check_position_ids(position_ids, input_ids, kwargs.get("attention_mask"))
        self._use_own_cache(generation_config, input_ids, kwargs)
        if kwargs.get("guidance_scale") not in (None, 1) and kwargs.get("negative_prompt_ids") is None:
            empty_prompt = torch.tensor([[self.config.gmask_token_id, self.config.bos_token_id]], device=self.device)
            kwargs["negative_prompt_ids"] = empty_prompt.repeat(len(input_ids), 1)
        guard = FiniteLogits()
        result = super().generate(
            inputs,
            generation_config=generation_config,
            logits_processor=LogitsProcessorList([guard, *(logits_processor or [])]),
            stopping_criteria=StoppingCriteriaList([*(stopping_criteria or []), StopWhen(guard.stop)]),
            **kwargs,
        )
        guard.check()
        return result

    def _check_position_ids(self, position_ids: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """Refuse positions that the model would not use: all but the tokenizer's and the library's plain count."""
        if position_ids.dim() == 2:  # the library counts 0, 1, 2, … for models it drafts with
            plain = bool((position_ids.diff(dim=-1).clamp(min=0) <= 1).all())
        else:
            layout = PromptLayout.from_input_ids(input_ids, attention_mask, self.config)
            plain = torch.equal(position_ids, layout.position_ids(0, input_ids.shape[1]))
        if not plain:
            raise ValueError("generate takes the tokenizer's position_ids only: leave them out")

    def _use_own_cache(self, generation_config, input_ids: Tensor | None, kwargs: dict) -> None:
        """Put a `ChatGLMCache` with the content of the caller's cache into the arguments of `generate`.

        The library then hands over this very cache for every token, however it treats those of its own.
        """
        configs = [config for config in (generation_config, self.generation_config) if config is not None]
        implementations = {kwargs.pop("cache_implementation", None), *(each.cache_implementation for each in configs)}
        for implementation in implementations - {None, "dynamic", "dynamic_full", "static"}:
            raise ValueError(
                f"cache_implementation must be dynamic or static (both are ChatGLMCache), got {implementation}"
            )
        for config in configs:  # the library refuses it beside a cache
            config.cache_implementation = None
        given = one_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if kwargs.get("use_cache", configs[0].use_cache) is False:
            return
        cache = ChatGLMCache.from_past(given)
        if input_ids is not None:
            cache.expected_length = expected_length(input_ids.shape[1], configs[0], kwargs)
        if cache.layout is not None and cache.get_seq_length() and input_ids is not None:
            layout = PromptLayout.from_input_ids(input_ids, kwargs.get("attention_mask"), self.config)
            if not torch.equal(layout.context_length, cache.layout.context_length.to(layout.context_length.device)):
                raise ValueError(
                    "the cache holds another prompt: a changed prompt has to be read anew, as its tokens see one "
                    "another. Leave the cache out, or continue the same sequence"
                )
        kwargs[CACHE_NAME] = cache

    def stream_generate(
        self,
        input_ids: Tensor,
        generation_config=None,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        stopping_criteria: Sequence[StoppingCriteria] | None = None,
        prefix_allowed_tokens_fn: Callable | None = None,
        **kwargs,
    ) -> Iterator[Tensor]:
        """Yield the ids so far, int64 [b, t], after every token that `generate` would add.

        Args:
            input_ids: int64 [b, s], prompts.
            generation_config, logits_processor, stopping_criteria, prefix_allowed_tokens_fn: as `generate` takes them.
            **kwargs: all others of `generate`, such as `max_length`, `do_sample`, `top_p`, `eos_token_id`.

        Source: the original's method of this name.
        """
        arguments = {
            "input_ids": input_ids,
            "generation_config": generation_config,
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
            **kwargs,
        }
        with GenerationThread(self, arguments) as tokens:
            for token_ids in tokens:
                input_ids = torch.cat([input_ids, torch.tensor(token_ids, device=input_ids.device)[:, None]], dim=1)
                yield input_ids

    @staticmethod
    def process_response(response: str, map_punctuation: bool = True) -> str:
        """Return an answer as the original shows it; see `generation_chatglm.process_response`."""
        return process_response(response, map_punctuation)

    def chat(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[Sequence[str]] | None = None,
        max_length: int | None = MAX_LENGTH,
        num_beams: int = 1,
        do_sample: bool = True,
        top_p: float = Sampling.top_p,
        temperature: float = Sampling.temperature,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        map_punctuation: bool = True,
        on_dropped_rounds: Callable[[int], None] | None = None,
        **kwargs,
    ) -> tuple[str, list[tuple[str, str]]]:
        """Answer one question.

        Args:
            tokenizer: the model's.
            query: the question; control tokens spelled in it are text.
            history: earlier (question, answer) pairs.
            max_length: limit for prompt and answer together, in tokens; at most `config.max_sequence_length` counts,
                which 0 and None stand for. If the history does not fit, its oldest rounds are left out.
            num_beams: beams of the search; 1 for none.
            do_sample: whether to sample; if not, or at temperature 0, the likeliest token is taken.
            top_p: sample from the likeliest tokens that have this probability together, 0 to 1.
            temperature: divides the logits; 0 and up.
            logits_processor: applied to the logits of every token.
            map_punctuation: see `process_response`.
            on_dropped_rounds: called with the number of rounds left out, if any were.
            **kwargs: further arguments of `_answer`, such as `max_new_tokens`, `repetition_penalty`, `language`,
                `seed`, `stop`, `response_format` and `drafts`; with any others, which are for the library's
                `generate`, that computes the answer.

        Returns:
            The answer, and the history with this round added.

        Raises:
            PromptTooLongError: the question alone is longer than the limit.
            InvalidLogitsError: the model computed NaN or infinite logits.
            GrammarError: a `response_format` that is none, or cannot be followed.
            ValueError: an argument that asks for something else than one answer.
        """
        pieces = self._answer(
            tokenizer,
            query,
            history,
            on_dropped_rounds,
            map_punctuation,
            streamed=False,
            max_length=max_length,
            num_beams=num_beams,
            do_sample=do_sample,
            top_p=top_p,
            temperature=temperature,
            logits_processor=logits_processor,
            **kwargs,
        )
        response = "".join(pieces)
        return response, [*_pairs(history), (query, response)]

    def stream_chat(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[Sequence[str]] | None = None,
        max_length: int | None = MAX_LENGTH,
        do_sample: bool = True,
        top_p: float = Sampling.top_p,
        temperature: float = Sampling.temperature,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        map_punctuation: bool = True,
        on_dropped_rounds: Callable[[int], None] | None = None,
        **kwargs,
    ) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Answer one question piece by piece: yield `(answer so far, history with it)` as text becomes final.

        Takes what `chat` takes, but beams. Half characters are held back, and so is punctuation that the next character
        may change. Closing the generator ends the generation within a token. The last yield is what `chat` returns.
        """
        pieces = self._answer(
            tokenizer,
            query,
            history,
            on_dropped_rounds,
            map_punctuation,
            streamed=True,
            max_length=max_length,
            do_sample=do_sample,
            top_p=top_p,
            temperature=temperature,
            logits_processor=logits_processor,
            **kwargs,
        )
        response, past_rounds = "", _pairs(history)
        with closing(pieces):
            for piece in filter(None, pieces):
                response += piece
                yield response, [*past_rounds, (query, response)]
        if not response:
            yield response, [*past_rounds, (query, response)]

    def _answer(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[Sequence[str]] | None,
        on_dropped_rounds: Callable[[int], None] | None,
        map_punctuation: bool,
        streamed: bool,
        max_length: int | None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        response_format: Mapping[str, Any] | None = None,
        **generation,
    ) -> Iterator[str]:
        """Yield the answer to a question in final pieces of text, some of them empty.

        Args:
            max_new_tokens: limit of the answer alone, in tokens.
            stop: texts that end the answer, which does not include them.
            response_format: the form that the answer has, see `response_grammar`.
            **generation: of `_answer_ids`.
        """
        limit = min(max_length or self.config.max_sequence_length, self.config.max_sequence_length)
        check_parameter("max_new_tokens", max_new_tokens)
        prompt_ids, dropped = tokenizer.encode_chat(query, history, max_length=limit)
        if dropped and on_dropped_rounds is not None:
            on_dropped_rounds(dropped)
        elif dropped:
            logger.warning("history too long for max_length %d: the %d oldest rounds were left out", limit, dropped)
        room = limit - len(prompt_ids)
        room = room if max_new_tokens is None else min(room, max_new_tokens)
        stop = (stop,) if isinstance(stop, str) else stop
        grammar = response_grammar(tokenizer, response_format)
        text = AnswerText(tokenizer, map_punctuation, stop, generation.get("min_tokens", 0), grammar=grammar)
        with closing(self._answer_ids(tokenizer, prompt_ids, room, streamed, grammar, **generation)) as answer_ids:
            for token_id in answer_ids:
                yield text.put(token_id)
                if text.stopped:
                    return
        yield text.end()

    def _answer_ids(
        self,
        tokenizer: ChatGLMTokenizer,
        prompt_ids: list[int],
        max_new_tokens: int,
        streamed: bool,
        grammar: Grammar | None,
        do_sample: bool,
        logits_processor: Sequence[LogitsProcessor] | None,
        num_beams: int = 1,
        drafts: bool = True,
        **more,
    ) -> Iterator[int]:
        """Yield the ids of an answer from `decode`, or from the library's `generate` for arguments that only it has.

        Args:
            drafts: whether `decode` may read several tokens in a pass, where that gives the same answer.
            **more: fields of `Sampling`, whose seed None follows `torch.manual_seed` here; all others are arguments of
                the library's `generate`.
        """
        sampling = Sampling(**{name: more.pop(name) for name in PARAMETERS if name in more})
        sampling.check_vocabulary(self.config.vocab_size)
        library, seed, ends = more, sampling.seed, end_token_ids(self)
        foreign = None if sampling.language is None else foreign_tokens(tokenizer, sampling.language)
        input_ids = torch.tensor([prompt_ids], device=self.device)
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        sampling.temperature = sampling.temperature if do_sample else 0
        if library or num_beams != 1:
            if seed is not None:
                raise ValueError(
                    f"seed is not for the library's generate, which {', '.join(library) or 'num_beams'} asks for: "
                    "call torch.manual_seed instead"
                )
            adjust = AdjustLogits(lambda: Sampler(sampling, foreign, prompt_ids, ends, grammar), len(prompt_ids))
            sampled = {name: getattr(sampling, name) for name in ("top_k", "top_p", "temperature")}
            arguments = {
                **inputs,
                **({"do_sample": True, **sampled} if sampling.temperature else {"do_sample": False}),
                "max_length": len(prompt_ids) + max_new_tokens,
                "num_beams": num_beams,
                "logits_processor": [adjust, *(logits_processor or [])],
                **library,
            }
            yield from self._library_ids(arguments, streamed)
            return
        sampling.seed = int(torch.randint(1 << 62, ())) if seed is None else seed
        sampler = Sampler(sampling, foreign, prompt_ids, ends, grammar, max_new_tokens)
        drafted = Drafts.of(self, prompt_ids) if drafts else None
        arguments = [sampler], max_new_tokens, ends, self.config.pad_token_id, logits_processor, drafted
        for (token_id,) in decode(self, input_ids, inputs["attention_mask"], *arguments):
            yield token_id

    def _library_ids(self, arguments: dict, streamed: bool) -> Iterator[int]:
        """Yield the ids of an answer that the library's `generate` computes."""
        if arguments.get("num_return_sequences", 1) != 1 or arguments.get("return_dict_in_generate"):
            raise ValueError(
                "chat and stream_chat give one answer as text: call generate for num_return_sequences and "
                "return_dict_in_generate"
            )
        if not streamed:
            yield from self.generate(**arguments)[0, arguments["input_ids"].shape[1] :].tolist()
            return
        if arguments["num_beams"] != 1:
            raise ValueError("stream_chat yields text that is final, which beams are not: call chat for num_beams")
        with GenerationThread(self, arguments) as tokens:
            for (token_id,) in tokens:
                yield token_id


def _pairs(history: Sequence[Sequence[str]] | None) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in history or []]
