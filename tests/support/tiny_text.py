"""Tiny, randomly initialised BERT and RoBERTa in folders, with real small tokenizers: no network needed."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from merc.conversation import Conversation, Corpus, Utterance
from merc.labels import MELD

WORDS = "oh my god yes no well the a i you we it is not what why how come here feels now hey there really okay".split()
SENTENCES = [" ".join(WORDS[i % 7 :: 1 + i % 5]) for i in range(40)] + ["Monica: Joey, Ross! ... feels?"] * 3


def tiny_bert(folder: Path, positions: int = 64) -> str:
    tokens = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **tokens)
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    BertModel(_small(BertConfig, len(fast), positions, fast.pad_token_id)).save_pretrained(folder)
    return str(folder)


def tiny_roberta(folder: Path, positions: int = 66) -> str:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )
    fast.save_pretrained(folder)
    torch.manual_seed(2)
    RobertaModel(_small(RobertaConfig, len(fast), positions, fast.pad_token_id)).save_pretrained(folder)
    return str(folder)


def _small(config: type, words: int, positions: int, pad: int) -> BertConfig | RobertaConfig:
    return config(
        vocab_size=words,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        pad_token_id=pad,
    )


def conversation(texts: list[str], speakers: list[str] | None = None, name: str = "0") -> Conversation:
    speakers = speakers or [("Monica", "Joey", "Ross")[i % 3] for i in range(len(texts))]
    turns = [Utterance(str(i), s, t, label="joy") for i, (t, s) in enumerate(zip(texts, speakers, strict=True))]
    return Conversation(name, tuple(turns), "train")


def tiny_corpus(dialogues: int = 12) -> Corpus:
    """Emotions that a bag of words can tell: the label is the first word."""
    words = dict(zip(MELD.names, ("well", "oh", "god", "no", "yes", "not", "why"), strict=True))
    splits: dict[str, list[Conversation]] = {"train": [], "val": [], "test": []}
    for split, conversations in splits.items():
        for d in range(dialogues):
            turns = []
            for u in range(1 + (d * 5) % 7):
                label = MELD.names[(d + 3 * u) % 7]
                text = " ".join([words[label], *WORDS[d % 4 : d % 4 + u]])
                turns.append(Utterance(str(u), ("Monica", "Joey")[u % 2], text, label=None if u == 4 else label))
            conversations.append(Conversation(str(d), tuple(turns), split))
    return Corpus("tiny", MELD, splits)
