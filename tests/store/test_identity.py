import pytest

from merc.store import difference, identity

BERT = {"encoder": "/a/bert", "weights": "w1", "pooling": "mean", "trained_on": "nothing", "merc": "0.1.0"}
EVIDENCE = {"source": "Gaussian evidence", "of": {"path": "/a/store", "digest": "d1", **BERT}, "temperature": 1.2}


def test_the_identity_tells_the_encoder_and_not_the_utterances():
    assert identity(BERT) == {"encoder": "/a/bert", "weights": "w1", "pooling": "mean"}
    assert identity(EVIDENCE) == {"source": "Gaussian evidence", "of": identity(BERT)}
    assert identity({}) == {} and identity({"notes": 3, "of": "text"}) == {}


@pytest.mark.parametrize(
    ("expected", "found", "message"),
    [
        (BERT, BERT, None),
        (BERT, {**BERT, "encoder": "/b/bert", "trained_on": "meld/train"}, None),
        ({}, BERT, None),
        (BERT, {**BERT, "weights": "w2"}, "weights: expected 'w1', found 'w2'"),
        (BERT, {}, "encoder: expected '/a/bert', found None"),
        (BERT, {**BERT, "pooling": "mask"}, "pooling: expected 'mean', found 'mask'"),
        ({"encoder": "a"}, {"encoder": "b", "weights": "w1"}, "encoder: expected 'a', found 'b'"),
        ({"columns": ["x" * 99]}, {"columns": ["y"]}, "columns: expected ['" + "x" * 74 + " ..., found ['y']"),
        (EVIDENCE, {**EVIDENCE, "temperature": 2, "of": {**BERT, "digest": "d2"}}, None),
        (EVIDENCE, {**EVIDENCE, "of": {**BERT, "weights": "w2"}}, "of.weights: expected 'w1', found 'w2'"),
        (EVIDENCE, {"source": "Gaussian evidence"}, "of.encoder: expected '/a/bert', found None"),
    ],
)
def test_features_differ_in_what_made_them(expected, found, message):
    assert difference(identity(expected), found) == message
