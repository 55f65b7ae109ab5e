"""The text encoder: one vector from an utterance in its conversation, with any Hugging Face encoder."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AddedToken, AutoTokenizer

from merc.batch import FlatBatch
from merc.conversation import Conversation, UtteranceKey
from merc.encoders.loading import load_pretrained
from merc.labels import IGNORE_INDEX
from merc.weights import weights_digest

Context = Literal["none", "past", "symmetric"]
"""The other utterances of the conversation that the encoder reads beside the target."""

Pooling = Literal["mean", "mask", "cls"]
"""Mean over all real tokens, or the hidden state at the mask token of the prompt or at the first token, ``[CLS]``."""


@dataclass(frozen=True, slots=True, eq=False)
class TextInput:
    """One utterance with its context and its prompt, as token ids.

    Args:
        key: The target utterance.
        ids: ``(T,)`` int32 token ids with their special tokens, at most ``max_tokens``.
        mask_position: Position of the prompt's mask in ``ids``; 0 if there is none.
    """

    key: UtteranceKey
    ids: Tensor
    mask_position: int = 0

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.ids)


@dataclass(slots=True, eq=False)
class TextBatch(FlatBatch):
    """B utterances, padded on the right to the longest of them.

    Args:
        keys: The B utterance keys.
        input_ids: ``(B, T)`` token ids.
        attention_mask: ``(B, T)``, true at real tokens.
        mask_position: ``(B,)`` position of the prompt's mask.
        label: ``(B,)`` label ids, -100 for unlabelled.
    """

    keys: Sequence[UtteranceKey]
    input_ids: Tensor
    attention_mask: Tensor
    mask_position: Tensor
    label: Tensor


class TextEncoder(nn.Module):
    """Encodes an utterance together with its conversation and a prompt (arXiv 2511.13731, section 3.3.1, eq. 7).

    The encoder reads ``[CLS] L [SEP] target [SEP] R [SEP] prompt [SEP]``. With ``context="symmetric"``
    the context grows around the target by whole utterances, alternately left and right, until the next one on
    a side does not fit; with ``"past"`` there is no R (TelME, arXiv 2401.12987), with ``"none"`` neither L
    nor R; without a prompt its part is absent. In a context every utterance carries its speaker, as
    ``"Monica: text"``. Without context the target is its bare text.

    Target and prompt are always kept, and context is dropped first. A target that is too long by itself is truncated at
    its end; the prompt is never truncated. The text of an utterance never becomes a special token, even if it spells
    one.

    Tokenise separately from encoding: call :meth:`tokenize` once for all conversations, :meth:`collate` for a batch,
    then ``forward``. The vector of an utterance does not depend on its batch.

    Args:
        model: Name on the Hugging Face hub, a local folder, or ``package:folder`` for a folder inside an
            installed Python package. Folders need no network.
        context: The other utterances that the encoder reads.
        prompt: Text with ``{speaker}`` and ``{mask}``, put at the end; the paper's is
            ``"{speaker} feels {mask}"``.
        pooling: ``mean`` over all real tokens, or the hidden state at the ``mask`` of the prompt, or at ``cls``, the
            first token.
        speaker_tokens: 0 to use the names of speakers; n for n added tokens ``<s1>`` to ``<sn>``, assigned in order of
            first appearance in the conversation. Further speakers share ``<sn>``.
        max_tokens: Limit of the whole input, special tokens included. Default: the limit of the model.
        projection: Width of a linear layer behind the pooling, to be fine-tuned (the paper: 768).

    Attributes:
        dim: Width of the vectors.
        max_tokens: The limit in use.

    Raises:
        FileNotFoundError: The model is neither a folder nor available on the hub.
        ValueError: An option does not match the model or another option.

    Example:
        >>> encoder = TextEncoder("roberta-large", "symmetric", "{speaker} feels {mask}", "mask")  # doctest: +SKIP
        >>> vectors = encoder(encoder.collate(encoder.tokenize(conversations)))  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str,
        context: Context = "none",
        prompt: str | None = None,
        pooling: Pooling = "mean",
        speaker_tokens: int = 0,
        max_tokens: int | None = None,
        projection: int | None = None,
    ) -> None:
        super().__init__()
        has_mask = "mask" in _prompt_fields(prompt, pooling)
        self.model = model
        self.context: Context = context
        self.prompt = prompt
        self.pooling: Pooling = pooling
        self.speaker_tokens = speaker_tokens
        self.projection = projection
        self.tokenizer, self.network = load_pretrained(
            model, "Text encoder", "tokenizer", AutoTokenizer.from_pretrained
        )
        if pooling == "cls" and self.tokenizer.cls_token_id is None:
            raise ValueError(f"pooling 'cls' needs a [CLS] token, which {model} has not: expected 'mean' or 'mask'.")
        limit = _position_limit(self.tokenizer, self.network)
        if max_tokens is None and limit is None:
            raise ValueError(f"Model {model!r} states no limit of its input. Set max_tokens.")
        if max_tokens is not None and limit is not None and max_tokens > limit:
            raise ValueError(f"max_tokens is {max_tokens}, but model {model!r} reads at most {limit} tokens.")
        self.max_tokens: int = limit if max_tokens is None else max_tokens  # type: ignore[assignment]  # see above
        self._cls, self._sep, self._pad = (self._special(name) for name in ("cls", "sep", "pad"))
        self._mask = self._special("mask") if has_mask else None
        self._speakers = self._add_speakers(speaker_tokens)
        width = int(self.network.config.hidden_size)
        self.project: nn.Module = nn.Identity() if projection is None else nn.Linear(width, projection)
        self.dim = projection or width

    def _special(self, name: str) -> int:
        token = getattr(self.tokenizer, f"{name}_token_id")
        if token is None:
            raise ValueError(f"The tokenizer of {self.model!r} has no {name} token. Use an encoder such as BERT.")
        return int(token)

    def _add_speakers(self, count: int) -> list[int]:
        if not count:
            return []
        names = [f"<s{number}>" for number in range(1, count + 1)]
        self.tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in names])
        ids: list[int] = self.tokenizer.convert_tokens_to_ids(names)
        table = self.network.get_input_embeddings()
        old = table.weight.detach()
        if max(ids) >= len(old):
            self.network.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
            table = self.network.get_input_embeddings()
        # The same initial values for every seed, near those of known words, so that frozen features are reproducible.
        noise = torch.randn(count, old.shape[1], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            table.weight[ids] = old.mean(0) + noise * old.std(0)
        return ids

    def tokenize(self, conversations: Sequence[Conversation]) -> list[TextInput]:
        """Token ids of every utterance with its context and prompt; tokenises each text once.

        Args:
            conversations: Whole conversations.

        Returns:
            One input per utterance, in order.

        Raises:
            ValueError: The prompt leaves no room for the target within ``max_tokens``.
        """
        pieces = iter(self._ids([self._spoken(c, index) for c in conversations for index in range(len(c))]))
        prompts: dict[str | int, list[int]] = {}
        inputs = []
        for conversation in conversations:
            turns = [next(pieces) for _ in conversation.utterances]
            if self.context != "none" and self._speakers:
                turns = [[self._speaker(i), *turn] for i, turn in zip(conversation.speaker_ids, turns, strict=True)]
            for index, (key, speaker) in enumerate(zip(conversation.keys, conversation.speaker_ids, strict=True)):
                name = self._speaker(speaker) if self._speakers else conversation.utterances[index].speaker
                if name not in prompts:
                    prompts[name] = self._prompt_ids(name)
                ids = self._assemble(turns, index, prompts[name], key)
                mask = len(ids) - len(prompts[name]) + prompts[name].index(self._mask) if self._mask is not None else 0
                inputs.append(TextInput(key, torch.tensor(ids, dtype=torch.int32), mask))
        return inputs

    def _spoken(self, conversation: Conversation, index: int) -> str:
        utterance = conversation.utterances[index]
        if self.context == "none":
            return utterance.text
        # The leading space is a word boundary for byte-level vocabularies when turns are concatenated.
        return f" {utterance.text}" if self._speakers else f" {utterance.speaker}: {utterance.text}"

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        options = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        # Split special tokens: an utterance that spells "[SEP]" or "<mask>" must not become one.
        ids: list[list[int]] = self.tokenizer(texts, split_special_tokens=True, verbose=False, **options)["input_ids"]
        return ids

    def _speaker(self, index: int) -> int:
        return self._speakers[min(index, len(self._speakers) - 1)]

    def _prompt_ids(self, speaker: str | int) -> list[int]:
        """The prompt and its closing separator; ``speaker`` is a name or the id of a speaker token."""
        if self.prompt is None:
            return []
        ids: list[int] = []
        text = ""
        for literal, field, _, _ in string.Formatter().parse(self.prompt):
            text += literal
            if field == "speaker" and isinstance(speaker, str):
                text += speaker
            elif field is not None:
                # Inserted by id; the mask token of byte-level vocabularies includes the space before it.
                ids += self._ids([text.rstrip()])[0]
                ids.append(self._mask if field == "mask" else speaker)  # type: ignore[arg-type]
                text = ""
        return [*ids, *self._ids([text])[0], self._sep]

    def _assemble(self, turns: list[list[int]], target: int, prompt: list[int], key: UtteranceKey) -> list[int]:
        separators = {"none": 2, "past": 3, "symmetric": 4}[self.context]  # including [CLS]
        room = self.max_tokens - separators - len(prompt)
        if room < 1:
            raise ValueError(
                f"The prompt of {key} takes {len(prompt)} tokens and leaves no room for the utterance within "
                f"{self.max_tokens}. Raise max_tokens or shorten the prompt."
            )
        spoken = turns[target][:room]
        first, last = self._window([len(turn) for turn in turns], target, room - len(spoken))
        ids = [self._cls]
        if self.context != "none":
            ids += [token for turn in turns[first:target] for token in turn]
            ids.append(self._sep)
        ids += [*spoken, self._sep]
        if self.context == "symmetric":
            ids += [token for turn in turns[target + 1 : last] for token in turn]
            ids.append(self._sep)
        return ids + prompt

    def _window(self, lengths: list[int], target: int, room: int) -> tuple[int, int]:
        """The utterances ``first..last - 1`` around the target that fit into ``room`` tokens."""
        first, last = target, target + 1
        left, right = self.context != "none", self.context == "symmetric"
        while left or right:
            left = left and first > 0 and lengths[first - 1] <= room
            if left:
                first -= 1
                room -= lengths[first]
            right = right and last < len(lengths) and lengths[last] <= room
            if right:
                room -= lengths[last]
                last += 1
        return first, last

    def collate(self, inputs: Sequence[TextInput]) -> TextBatch:
        """Pad inputs to a batch; labels stay -100."""
        lengths = torch.tensor([len(item.ids) for item in inputs])
        ids = pad_sequence([item.ids for item in inputs], batch_first=True, padding_value=self._pad).long()
        return TextBatch(
            keys=[item.key for item in inputs],
            input_ids=ids,
            attention_mask=torch.arange(ids.shape[1]) < lengths[:, None],
            mask_position=torch.tensor([item.mask_position for item in inputs]),
            label=torch.full((len(inputs),), IGNORE_INDEX),
        )

    def forward(self, batch: TextBatch) -> Tensor:
        """Encode a batch.

        Returns:
            ``(B, dim)`` vectors, one per utterance.
        """
        output = self.network(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long())
        hidden: Tensor = output.last_hidden_state
        if self.pooling == "mask":
            rows = torch.arange(hidden.shape[0], device=hidden.device)  # not len(): an export would fix it
            pooled = hidden[rows, batch.mask_position]
        elif self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            real = batch.attention_mask[..., None].to(hidden.dtype)
            pooled = (hidden * real).sum(1) / real.sum(1)
        projected: Tensor = self.project(pooled)
        return projected

    def settings(self) -> dict[str, Any]:
        """The options that determine the meaning of a vector, as plain values, without the location of the model."""
        return {
            "context": self.context,
            "prompt": self.prompt,
            "pooling": self.pooling,
            "speaker_tokens": self.speaker_tokens,
            "max_tokens": self.max_tokens,
            "projection": self.projection,
        }

    def provenance(self) -> dict[str, Any]:
        """The model, a digest of its current weights and the settings, for the provenance of a store."""
        return {"encoder": self.model, "weights": weights_digest(self), **self.settings()}


def _prompt_fields(prompt: str | None, pooling: Pooling) -> list[str]:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(prompt or "") if field is not None]
    except ValueError as error:
        raise ValueError(
            f"Prompt {prompt!r} is not a template ({error}): expected {{speaker}} and {{mask}}."
        ) from error
    if not set(fields) <= {"speaker", "mask"} or fields.count("mask") > 1:
        raise ValueError(f"Prompt {prompt!r} has the fields {fields}: expected {{speaker}} and at most one {{mask}}.")
    if pooling == "mask" and "mask" not in fields:
        raise ValueError(
            f"pooling 'mask' needs a prompt with {{mask}}, got {prompt!r}: try '{{speaker}} feels {{mask}}'."
        )
    return fields


def _position_limit(tokenizer: Any, network: nn.Module) -> int | None:  # noqa: ANN401 - transformers is untyped
    """The limit of tokenizer and position embeddings; models such as RoBERTa lose padding_idx + 1 positions."""
    limits = [limit for limit in (tokenizer.model_max_length,) if limit < 10**9]
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - skipped)
    return min(limits, default=None)
