"""The text encoder against slow, obvious versions; no network."""

import string
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.conversation import Conversation, Utterance
from merc.encoders import TextEncoder
from support.tiny_text import conversation, tiny_bert, tiny_roberta

PROMPT = "{speaker} feels {mask}"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return tiny_roberta(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="module")
def encoders(bert, roberta):
    """One encoder for every way of reading; hypothesis only changes its limit."""
    return {
        (name, context, prompt, speakers): TextEncoder(
            model, context, prompt, "mask" if prompt else "mean", speaker_tokens=speakers
        ).eval()
        for name, model in (("bert", bert), ("roberta", roberta))
        for context in ("none", "past", "symmetric")
        for prompt in (None, PROMPT)
        for speakers in (0, 2)
    }


def obvious(encoder: TextEncoder, talk: Conversation, target: int) -> list[int]:
    """The input of one utterance: grow the context one utterance at a time, and lay the parts out anew each time."""
    tok = encoder.tokenizer

    def ids(text):
        return tok(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def marker(index):
        number = min(talk.speaker_ids[index] + 1, 2)
        return tok.convert_tokens_to_ids([f"<s{number}>"])

    def turn(index):
        u = talk.utterances[index]
        if encoder.context == "none":
            return ids(u.text)
        if encoder._speakers:
            return marker(index) + ids(" " + u.text)
        return ids(f" {u.speaker}: {u.text}")

    def prompt():
        if encoder.prompt is None:
            return []
        mask = [tok.mask_token_id]
        if encoder._speakers:
            return marker(target) + ids(" feels") + mask + [tok.sep_token_id]
        return ids(f"{talk.utterances[target].speaker} feels") + mask + [tok.sep_token_id]

    def layout(left, middle, right):
        sep = [tok.sep_token_id]
        out = [tok.cls_token_id]
        if encoder.context != "none":
            out += [token for i in left for token in turn(i)] + sep
        out += middle + sep
        if encoder.context == "symmetric":
            out += [token for i in right for token in turn(i)] + sep
        return out + prompt()

    middle = turn(target)
    while len(layout([], middle, [])) > encoder.max_tokens:
        middle = middle[:-1]
    left, right = [], []
    sides = {"none": [], "past": ["left"], "symmetric": ["left", "right"]}[encoder.context]
    while sides:
        for side in list(sides):
            new_left, new_right = left, right
            if side == "left":
                new_left = [target - len(left) - 1, *left]
            else:
                new_right = [*right, target + len(right) + 1]
            inside = all(0 <= i < len(talk) for i in new_left + new_right)
            if inside and len(layout(new_left, middle, new_right)) <= encoder.max_tokens:
                left, right = new_left, new_right
            else:
                sides.remove(side)
    return layout(left, middle, right)


texts = st.one_of(
    st.text(string.ascii_letters + " .!?", max_size=60),
    st.sampled_from(["", "yes", "[MASK] [SEP] <mask></s><s1>", "why " * 90, "żółć 你好 🙂"]),
)


@settings(max_examples=60, deadline=None)
@given(
    turns=st.lists(st.tuples(texts, st.sampled_from(["Monica", "Joey", "Ross", "é"])), min_size=1, max_size=9),
    limit=st.integers(20, 64),
    data=st.data(),
)
def test_inputs_equal_the_obvious_builder(encoders, turns, limit, data):
    encoder = encoders[data.draw(st.sampled_from(sorted(encoders, key=str)))]
    encoder.max_tokens = limit
    talk = conversation([t for t, _ in turns], [s for _, s in turns])
    inputs = encoder.tokenize([talk])
    assert [item.key for item in inputs] == talk.keys
    for target, item in enumerate(inputs):
        assert item.ids.tolist() == obvious(encoder, talk, target)
        assert len(item.ids) <= limit
        if encoder.prompt:
            masks = (item.ids == encoder.tokenizer.mask_token_id).nonzero().flatten().tolist()
            assert masks == [item.mask_position] == [len(item.ids) - 2]


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.lists(texts, min_size=1, max_size=5), min_size=1, max_size=5),
    data=st.data(),
)
def test_a_vector_does_not_depend_on_its_batch(encoders, shapes, data):
    encoder = encoders[data.draw(st.sampled_from(sorted(encoders, key=str)))]
    encoder.max_tokens = 64
    inputs = encoder.tokenize([conversation(shape, name=str(n)) for n, shape in enumerate(shapes)])
    order = data.draw(st.permutations(range(len(inputs))))
    with torch.no_grad():
        together = encoder(encoder.collate([inputs[i] for i in order]))
        alone = torch.cat([encoder(encoder.collate([inputs[i]])) for i in order])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "mask", "cls"])
def test_pooling_equals_a_loop(roberta, pooling):
    encoder = TextEncoder(roberta, "symmetric", PROMPT, pooling).eval()
    inputs = encoder.tokenize([conversation(["oh my god", "", "well the " * 9])])
    with torch.no_grad():
        vectors = encoder(encoder.collate(inputs))
        for item, vector in zip(inputs, vectors, strict=True):
            hidden = encoder.network(input_ids=item.ids[None].long()).last_hidden_state[0]
            if pooling == "mask":
                expected = hidden[item.ids.tolist().index(encoder.tokenizer.mask_token_id)]
            elif pooling == "cls":
                expected = hidden[item.ids.tolist().index(encoder.tokenizer.cls_token_id)]
            else:
                expected = sum(hidden[t] for t in range(len(hidden))) / len(hidden)
            torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)


def test_a_bare_utterance_is_read_as_the_tokenizer_itself_would(bert):
    encoder = TextEncoder(bert)
    (item,) = encoder.tokenize([conversation(["oh my god"])])
    tok = encoder.tokenizer
    assert item.ids.tolist() == [
        tok.cls_token_id,
        *tok("oh my god", add_special_tokens=False)["input_ids"],
        tok.sep_token_id,
    ]


def test_symmetric_context_alternates_and_keeps_whole_utterances(bert):
    encoder = TextEncoder(bert, "symmetric", max_tokens=64)
    talk = conversation(["no", "yes", "well", "oh", "god"], ["a"] * 5)
    (whole,) = [i for i in encoder.tokenize([talk]) if i.key.utterance == "2"]
    assert encoder.tokenizer.decode(whole.ids) == "[CLS] a : no a : yes [SEP] a : well [SEP] a : oh a : god [SEP]"
    encoder.max_tokens = 4 + 3 * 4
    (cut,) = [i for i in encoder.tokenize([talk]) if i.key.utterance == "2"]
    assert encoder.tokenizer.decode(cut.ids) == "[CLS] a : no a : yes [SEP] a : well [SEP] a : oh [SEP]"


def test_the_future_is_unread_with_past_context(bert):
    encoder = TextEncoder(bert, "past", PROMPT, "mask")
    one = encoder.tokenize([conversation(["no", "yes", "well"])])
    other = encoder.tokenize([conversation(["no", "yes", "god god"])])
    assert [i.ids.tolist() for i in one[:2]] == [i.ids.tolist() for i in other[:2]]
    assert one[2].ids.tolist() != other[2].ids.tolist()


def test_limits_of_the_models(bert, roberta):
    assert TextEncoder(bert).max_tokens == 64
    encoder = TextEncoder(roberta).eval()
    assert encoder.max_tokens == 64  # 66 positions, of which RoBERTa leaves the first two unused
    with torch.no_grad():
        assert encoder(encoder.collate(encoder.tokenize([conversation(["why " * 200])]))).isfinite().all()
    with pytest.raises(ValueError, match=r"max_tokens is 65, but model .* reads at most 64"):
        TextEncoder(roberta, max_tokens=65)


def test_a_prompt_that_leaves_no_room_is_refused(bert):
    encoder = TextEncoder(bert, "past", PROMPT, "mask", max_tokens=24)
    talk = Conversation("7", (Utterance("0", "x " * 40, "hey"),))
    with pytest.raises(ValueError, match=r"prompt of train/7/0 takes \d+ tokens .* Raise max_tokens"):
        encoder.tokenize([talk])


@pytest.mark.parametrize(
    ("prompt", "pooling", "message"),
    [
        (None, "mask", "pooling 'mask' needs a prompt"),
        ("{speaker} feels", "mask", "pooling 'mask' needs a prompt"),
        ("{who} feels {mask}", "mask", "fields"),
        ("{mask} {mask}", "mask", "at most one"),
        ("{speaker feels", "mean", "is not a template"),
    ],
)
def test_bad_prompts(bert, prompt, pooling, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(bert, prompt=prompt, pooling=pooling)


def test_a_model_without_a_first_token_to_pool_is_refused(bert, tmp_path):
    encoder = TextEncoder(bert)
    encoder.tokenizer.cls_token = None
    encoder.tokenizer.save_pretrained(tmp_path)
    encoder.network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"needs a \[CLS\] token"):
        TextEncoder(str(tmp_path), pooling="cls")


def test_a_model_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="Without a network, download the model elsewhere"):
        TextEncoder("nobody/has-this-model")
    with pytest.raises(FileNotFoundError, match="could not be loaded"):
        TextEncoder(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Install the package"):
        TextEncoder("no_such_package_here:model")


def test_a_folder_inside_a_package(bert, tmp_path, monkeypatch):
    package = tmp_path / "weights_in_a_wheel"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model").symlink_to(Path(bert), target_is_directory=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert TextEncoder("weights_in_a_wheel:model").dim == 16


def test_speaker_tokens_start_the_same_whatever_the_seed(bert):
    tables = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        encoder = TextEncoder(bert, "past", speaker_tokens=3)
        tables.append(encoder.network.get_input_embeddings().weight)
    assert torch.equal(*tables)
    assert not torch.equal(tables[0][-1], tables[0][-2])
    assert encoder.provenance() == TextEncoder(bert, "past", speaker_tokens=3).provenance()


def test_every_parameter_gets_a_gradient_and_dropout_is_on(bert):
    encoder = TextEncoder(bert, "symmetric", PROMPT, "mask", projection=5)
    assert all(module.training for module in encoder.modules())
    vectors = encoder(encoder.collate(encoder.tokenize([conversation(["oh", "my god"])])))
    assert vectors.shape == (2, encoder.dim) == (2, 5)
    vectors.sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_provenance_tells_weights_apart(bert):
    encoder = TextEncoder(bert)
    before = encoder.provenance()
    with torch.no_grad():
        encoder.network.get_input_embeddings().weight[0, 0] += 1e-3
    assert encoder.provenance()["weights"] != before["weights"]
    assert before["encoder"] == bert and before["context"] == "none"
