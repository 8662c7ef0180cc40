"""What the engine keeps of a running answer, and the probabilities that it reports with its tokens.

Shapes: `v` vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from chatglm import ChatGLMTokenizer
from chatglm.answer_text import AnswerText
from chatglm.drafts import Drafts
from chatglm.generation_chatglm import end_token_ids
from chatglm.host_transfer import download, upload
from chatglm.sampler import Sampler, foreign_tokens

from .answer import Answer, TokenProbability


class Row:
    """A running answer: how its tokens are sampled, the text so far, where it ends, and what may come next."""

    def __init__(self, answer: Answer, model: nn.Module, tokenizer: ChatGLMTokenizer) -> None:
        request = answer.request
        self.answer, self.request = answer, request
        foreign = None if request.language is None else foreign_tokens(tokenizer, request.language)
        self.text = AnswerText(
            tokenizer, request.map_punctuation, request.stop, request.min_tokens, request.before, request.grammar
        )
        self.limit = model.config.max_sequence_length - len(request.prompt_ids)
        if request.max_tokens is not None:
            self.limit = min(self.limit, request.max_tokens)
        ends = end_token_ids(model)
        self.sampler = Sampler(request, foreign, request.prompt_ids, ends, request.grammar, self.limit)
        self.logprobs: list[TokenProbability] = []  # of tokens whose text is held back
        self.drafts = Drafts.of(model, request.prompt_ids)
        self.last_token = 0

    @property
    def remaining(self) -> int:
        """Number of tokens that the answer may still have."""
        return self.limit - self.answer.completion_tokens

    def take(self, token_id: int) -> None:
        """Note a token of the answer."""
        self.last_token = token_id
        self.sampler.take(token_id)
        if self.drafts is not None:
            self.drafts.take(token_id)


def token_probabilities(logits: Tensor, tokens: list[int | None], rows: list[Row]) -> list[TokenProbability | None]:
    """Return the probabilities that the model gives, before temperature and penalties, to the rows that want them."""
    found: list[TokenProbability | None] = [None] * len(rows)
    wanted = [
        index
        for index, (token, row) in enumerate(zip(tokens, rows, strict=True))
        if row.request.logprobs is not None and token is not None
    ]
    if not wanted:
        return found
    chosen = upload([tokens[index] for index in wanted], logits.device)
    logprobs = logits[upload(wanted, logits.device)].log_softmax(dim=-1)
    count = min(max(rows[index].request.logprobs for index in wanted), logprobs.shape[-1])
    own, values, ids = download(logprobs.gather(-1, chosen[:, None])[:, 0], *logprobs.topk(count, dim=-1))
    for position, index in enumerate(wanted):
        asked = rows[index].request.logprobs
        likeliest = list(zip(ids[position, :asked].tolist(), values[position, :asked].tolist(), strict=True))
        found[index] = TokenProbability(tokens[index], float(own[position]), likeliest)
    return found
