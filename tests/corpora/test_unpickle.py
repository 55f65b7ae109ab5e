"""The unpickler: what numpy and plain containers write comes back, anything else is refused and not run."""

import builtins
import collections
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from merc.conversation import CorpusError
from merc.corpora.unpickle import UnsafePickleError, load_pickle
from support.limited import within_limits

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(st.integers(), max_size=4)
        | st.frozensets(st.text(max_size=3), max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(collections.OrderedDict)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(lambda d: collections.defaultdict(list, d))
    ),
    max_leaves=12,
)
DTYPES = (
    hnp.integer_dtypes()
    | hnp.unsigned_integer_dtypes()
    | hnp.floating_dtypes()
    | hnp.boolean_dtypes()
    | hnp.unicode_string_dtypes(max_len=5)
    | hnp.byte_string_dtypes(max_len=5)
)
PROTOCOLS = st.integers(0, pickle.HIGHEST_PROTOCOL)


def load(folder, content):
    path = folder / "f.pkl"
    path.write_bytes(content)
    return load_pickle(path)


@given(value=PLAIN, protocol=PROTOCOLS)
def test_plain_containers_come_back(tmp_path_factory, value, protocol):
    found = load(tmp_path_factory.mktemp("p"), pickle.dumps(value, protocol))
    assert found == value
    assert type(found) is type(value)


@given(
    array=hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4)),
    protocol=PROTOCOLS,
    numpy2=st.booleans(),
    fortran=st.booleans(),
)
def test_arrays_come_back(tmp_path_factory, array, protocol, numpy2, fortran):
    array = np.asfortranarray(array) if fortran else array
    content = pickle.dumps([array, array.reshape(-1)[:1].tolist()], protocol)
    if (
        not numpy2 and protocol < 4
    ):  # numpy 1 wrote another module's name; from protocol 4 on its length stands before it
        content = content.replace(b"numpy._core", b"numpy.core")
    found, _ = load(tmp_path_factory.mktemp("p"), content)
    assert isinstance(found, np.ndarray)
    # numpy itself brings foreign byte orders home while it reads.
    assert found.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array, strict=False)
    assert found.shape == array.shape


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("ab"), np.float64(np.inf)])
def test_numpy_scalars_come_back(tmp_path, value, protocol):
    found = load(tmp_path, pickle.dumps(value, protocol))
    assert found == value
    assert found.dtype == value.dtype


def test_ragged_object_arrays_come_back(tmp_path):
    ragged = np.empty(2, dtype=object)
    ragged[:] = [[1, 2], np.arange(3)]
    found = load(tmp_path, pickle.dumps(ragged))
    assert found[0] == [1, 2]
    assert found[1].tolist() == [0, 1, 2]


def test_python_2_pickles_come_back(tmp_path):
    """What Python 2 and numpy 1 wrote for ``{'a': np.array([1., 2.], '<f4')}``."""
    content = (
        b"\x80\x02}q\x00U\x01acnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + struct.pack("<2f", 1, 2) + b"tbs."
    )
    assert load(tmp_path, content)["a"].tolist() == [1, 2]


class Runs:
    """An object whose pickle runs ``function(*arguments)`` when a careless program loads it."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "attack",
    [
        lambda marker: Runs(os.system, f"touch {marker}"),
        lambda marker: Runs(builtins.eval, f"open({str(marker)!r}, 'w')"),
        lambda marker: Runs(builtins.exec, f"open({str(marker)!r}, 'w')"),
        lambda marker: Runs(builtins.getattr, [], "append"),
        lambda marker: Runs(builtins.open, str(marker), "w"),
        lambda marker: Runs(np.save, str(marker), np.zeros(1)),
        lambda marker: Runs(np.load, str(marker)),
        lambda marker: np.array([1, Runs(os.mkdir, str(marker))], dtype=object),
        lambda marker: collections.OrderedDict(a={"b": [Runs(os.mkdir, str(marker))]}),
        lambda marker: collections.defaultdict(os.getcwd),
        lambda marker: torch.zeros(2),
        lambda marker: Exception("no"),
    ],
)
def test_what_would_run_code_is_refused_and_not_run(tmp_path, attack, protocol):
    marker = tmp_path / "ran"
    content = pickle.dumps(attack(marker), protocol)
    with pytest.raises(UnsafePickleError, match=r"f\.pkl asks for .*nothing of the file was run"):
        load(tmp_path, content)
    assert not marker.exists()


def reduce_to(call, argument, build=None):
    """The pickle that calls the global ``call`` with a pickled tuple, and then gives the result a state."""
    body = call + pickle.dumps(argument, 2)[2:-1] + b"R"
    return b"\x80\x02" + body + (b"" if build is None else build + b"b") + b"."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def dtype(code, state=b""):
    return b"cnumpy\ndtype\nU" + bytes([len(code)]) + code + b"\x89\x88\x87R" + state


@pytest.mark.parametrize(
    "content",
    [
        # raw bytes as objects: pointers of the file's choice
        ARRAY + b"(K\x01K\x01\x85" + dtype(b"O8") + b"\x89U\x08AAAAAAAAtb.",
        # fewer bytes, or fewer objects, than the shape needs
        ARRAY + b"(K\x01K\x09\x85" + dtype(b"f8") + b"\x89U\x08AAAAAAAAtb.",
        ARRAY + b"(K\x01K\x09\x85" + dtype(b"O") + b"\x89]tb.",
        ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + dtype(b"f8") + b"\x89U\x08AAAAAAAAtb.",
        # a structured dtype, and one whose flags the file sets
        dtype(b"V8") + b".",
        dtype(b"f8", b"(K\x03U\x01<N]}K\x08K\x08K\x01tb") + b".",
        # another class in the place of ndarray, another dtype than a dtype
        b"cnumpy.core.multiarray\n_reconstruct\ncbuiltins\nset\nK\x00\x85U\x01b\x87R.",
        ARRAY + b"(K\x01K\x01\x85U\x01b\x89U\x01Atb.",
        b"cnumpy.core.multiarray\nscalar\n" + dtype(b"O") + b"K\x01\x86R.",
        # a codec that could be anyone's
        reduce_to(b"c_codecs\nencode\n", ("a", "rot13"))[2:],
        # memory for nothing
        reduce_to(b"cbuiltins\nbytes\n", (1 << 40,))[2:],
    ],
)
def test_states_that_could_corrupt_memory_are_refused(tmp_path, content):
    with pytest.raises(CorpusError):
        load(tmp_path, b"\x80\x02" + content)


def test_setting_attributes_does_not_outlive_the_load(tmp_path):
    poison = b"\x80\x02cnumpy\ndtype\nN}U\x08__call__K\x01s\x86b."
    with pytest.raises(CorpusError):
        load(tmp_path, poison)
    assert load(tmp_path, pickle.dumps(np.arange(2))).tolist() == [0, 1]


@settings(max_examples=300)
@given(content=st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x80\x04" + tail))
def test_arbitrary_bytes_are_read_or_refused(tmp_path_factory, content):
    try:
        load(tmp_path_factory.mktemp("p"), content)
    except CorpusError as error:
        assert "f.pkl" in str(error)


@given(cut=st.floats(0, 0.999), flip=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_damaged_pickles_are_read_or_refused(tmp_path_factory, cut, flip, bit):
    folder = tmp_path_factory.mktemp("p")
    content = bytearray(pickle.dumps([{"a": np.arange(5.0), "b": {1, 2}}, "text"], 2))
    with pytest.raises(CorpusError, match="no whole pickle"):
        load(folder, bytes(content[: int(cut * len(content))]))
    content[flip % len(content)] ^= 1 << bit
    try:
        load(folder, bytes(content))
    except CorpusError:
        pass


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No file"):
        load_pickle(tmp_path / "none.pkl")


# --- files that are made to take memory or time


def doubled(make, times, start):
    """A pickle in which every object holds the one before it twice."""
    return b"\x80\x04" + start + b"".join(b"\x94" + make(b"h" + bytes([index])) for index in range(times))


TUPLES = doubled(lambda one: one + b"\x86", 60, b"K\x01\x85")
LISTS = doubled(lambda one: b"0](" + one + one + b"e", 60, b"]K\x01a")
LONG_TEXT = b"\x80\x02X" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\x000"
ENCODED = b"c_codecs\nencode\nq\x020X\x06\x00\x00\x00latin1q\x010"

ATTACKS = {
    "memo index": b"Nr\x00\x00\x00\x20.",
    "memo index as text": b"Np536870912\n.",
    "frame": b"\x80\x04\x95\x00\x00\x00\x00\x01\x00\x00\x00N.",
    "item size": b"B\xff\xff\xff\x7fabc.",
    "item of 8 bytes": b"\x80\x04\x8e\xff\xff\xff\xff\x7f\x00\x00\x00abc.",
    "no bytes an item": b"\x80\x02"
    + ARRAY
    + b"(K\x01\x8a\x06\x00\x10\xa5\xd4\xe8\x00\x85"
    + dtype(b"S0")
    + b"\x89U\x00tb.",
    "endless rows of nothing": b"\x80\x02"
    + ARRAY
    + b"(K\x01\x8a\x06\x00\x10\xa5\xd4\xe8\x00K\x00\x86"
    + dtype(b"f8")
    + b"\x89U\x00tb.",
    "deep": b"\x80\x02" + b"(" * 10**6 + b"t" * 10**6 + b".",
    "deep tuple as a key": b"\x80\x02}K\x01" + b"\x85" * 10**6 + b"K\x01s.",
    "doubled tuples as a key": b"\x80\x04}" + TUPLES[2:] + b"K\x01s.",
    "doubled lists": LISTS + b".",
    "in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "list in itself": b"\x80\x02]q\x00h\x00a.",
    "changed when shared": b"\x80\x02]q\x00](h\x00h\x00e0h\x00K\x01a.",
    "copies": LONG_TEXT + ENCODED + b"](" + b"h\x02h\x00h\x01\x86R" * 5000 + b"e.",
    "long integer": b"\x80\x02\x8b\x00\x00\x01\x00" + bytes([1]) * 2**16 + b".",
    "long integer as text": b"L" + b"9" * 10**6 + b"L\n.",
    "mark as an object": b"\x80\x02((\x85.",
    "mark in the memo": b"(q\x00N.",
    "nothing to take": b"a.",
    "no mark": b"Nt.",
}


@pytest.mark.parametrize("content", ATTACKS.values(), ids=ATTACKS)
def test_a_small_file_takes_little_memory_and_time(tmp_path, content):
    path = tmp_path / "f.pkl"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"f\.pkl"):
        load_pickle(path)


def test_attacks_are_refused_with_little_memory(tmp_path):
    for number, content in enumerate(ATTACKS.values()):
        (tmp_path / f"{number:02}.pkl").write_bytes(content)
    run = within_limits(
        "import pathlib\nfrom merc.corpora.unpickle import load_pickle\nfrom merc.conversation import CorpusError\n"
        f"for path in sorted(pathlib.Path({str(tmp_path)!r}).glob('*.pkl')):\n"
        "    try:\n        load_pickle(path)\n    except CorpusError as error:\n        print(path.name)\n",
        megabytes=1000,
        seconds=60,
    )
    assert len(run.split()) == len(ATTACKS)


def test_sharing_that_files_have_is_read(tmp_path):
    vector, names = np.eye(9)[2], ["Anna", "Ben"]
    value = {str(number): {"speakers": [vector] * 30, "names": names} for number in range(500)}
    for protocol in range(6):
        found = load(tmp_path, pickle.dumps(value, protocol))
        assert found["7"]["speakers"][3].tolist() == vector.tolist() and found["499"]["names"] == names
