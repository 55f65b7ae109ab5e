"""A Whisper model of random weights, in the form in which real ones are published."""

import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

_MARKS = "endoftext startoftranscript en de translate transcribe startoflm startofprev nospeech notimestamps".split()


def tiny_whisper(folder, *, aligned=True, seed=0):
    """Save the model to a folder. Its tokens are bytes; ``aligned`` models tell when words are said."""
    marks = [f"<|{name}|>" for name in _MARKS]
    vocabulary = {letter: number for number, letter in enumerate(bytes_to_unicode().values())}
    vocabulary |= {mark: len(vocabulary) + number for number, mark in enumerate(marks)}
    tokenizer = WhisperTokenizer(vocabulary, [], pad_token=marks[0], additional_special_tokens=marks[1:])
    tokenizer.add_tokens([f"<|{number * 0.02:.2f}|>" for number in range(1501)])
    end, start, english, german, translate, transcribe, _, before, _, untimed = (vocabulary[mark] for mark in marks)
    sizes = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    special = {"eos_token_id": end, "bos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    torch.manual_seed(seed)
    network = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            d_model=16,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_target_positions=64,
            **sizes,
            **special,
        )
    )
    network.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={"<|en|>": english, "<|de|>": german},
        task_to_id={"transcribe": transcribe, "translate": translate},
        no_timestamps_token_id=untimed,
        prev_sot_token_id=before,
        max_length=64,
        **special,
        **({"alignment_heads": [[0, 0]]} if aligned else {}),
    )
    network.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return str(folder)
