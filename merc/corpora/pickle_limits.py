"""What a pickle would cost, from its opcodes alone: too much is refused before anything is built."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap

DEEPEST = 100
"""Containers inside each other. To hash much deeper ones overflows the stack of the interpreter."""

_EXPANSION, _COPIES = 256, 16
_ALLOWANCE = 2**24
"""A file of n bytes may hold ``256 n + 2**24`` bytes, where what it shares counts each time it is used (one vector for
every utterance of a speaker, say), and have ``16 n + 2**24`` bytes of it copied or hashed."""

_SKIPPED = 2**16
"""Memo indices that a file may leave out: the memo is an array up to the largest index."""

_LONGEST_INTEGERS = {"INT": 24, "LONG": 24, "LONG1": 1 + 9, "LONG4": 4 + 9}
"""Bytes of an argument: 64 bits and a sign. Dictionaries of longer integers can be made to collide: that is slow."""

_FLOATS = re.compile(rb"(?:G.{8})++", re.DOTALL)
_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_BEFORE = {opcode.name: [item.name for item in opcode.stack_before] for opcode in pickletools.opcodes}
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_KEYED = ("SETITEM", "SETITEMS", "DICT")
_HASHED = ("ADDITEMS", "FROZENSET")
_COPIED = ("REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX")


class PickleLimitError(ValueError):
    """A pickle asks for much more than it holds."""


@dataclass(slots=True)
class _Node:
    """An object: the bytes that it and everything inside it are made of, its depth, and whether it was used again."""

    size: int
    depth: int = 0
    shared: bool = False


def check_pickle(data: bytes | mmap) -> None:
    """Refuse a pickle whose objects would be much larger or deeper than the file.

    The opcodes are followed with sizes in place of objects, in time proportional to the file. Shared objects count each
    time they are used and must not change afterwards, which also excludes objects that contain themselves.

    Args:
        data: The file.

    Raises:
        PickleLimitError: The file exceeds a limit.
        ValueError: It is not a pickle.
        LookupError: Likewise.
    """
    largest, most = _EXPANSION * len(data) + _ALLOWANCE, _COPIES * len(data) + _ALLOWANCE
    stack: list[_Node | None] = []  # None is a mark
    memo: dict[int, _Node] = {}
    spent = position = 0
    while True:
        if floats := _FLOATS.match(data, position):  # lists of numbers are most of some files
            stack.extend([_Node(9)] * ((floats.end() - position) // 9))
            position = floats.end()
            continue
        opcode = _OPCODES[data[position]]
        start, position = position + 1, _end(data, opcode, position + 1)
        name = opcode.name
        if name == "STOP":
            return
        if name == "MARK":
            stack.append(None)
        elif name == "POP":
            stack.pop()
        elif name in _PUTS or name == "MEMOIZE":
            index = len(memo) if name == "MEMOIZE" else _index(data, name, start, position)
            if not 0 <= index <= len(memo) + _SKIPPED:
                raise PickleLimitError(f"memoizes object {index} after {len(memo)} others")
            [memo[index]] = _nodes(stack[-1:])
        elif name in _GETS or name == "DUP":
            [node] = _nodes(stack[-1:]) if name == "DUP" else [memo[_index(data, name, start, position)]]
            node.shared = True
            stack.append(node)
        else:
            _check_integer(name, position - start)
            if not (before := _BEFORE[name]):
                stack += [_Node(1 if name == "GLOBAL" else 1 + position - start)] * len(opcode.stack_after)
                continue
            taken = _taken(stack, before)
            if name in _FILLS:
                node, *taken = taken
                if node.shared:
                    raise PickleLimitError("changes an object that it has used before, or that contains itself")
            else:
                node = _Node(1 + position - start)
            node.size += sum(item.size for item in taken)
            node.depth = max([node.depth, *(1 + item.depth for item in taken)])
            if name in _COPIED or name in _HASHED:
                spent += sum(item.size for item in taken)
            elif name in _KEYED:
                spent += sum(item.size for item in taken[::2])
            if node.depth > DEEPEST:
                raise PickleLimitError(f"nests containers more than {DEEPEST} deep")
            if node.size > largest or spent > most:
                raise PickleLimitError(f"grows to {max(node.size, spent) // len(data)} times its size")
            if opcode.stack_after:
                stack.append(node)


def _end(data: bytes | mmap, opcode: pickletools.OpcodeInfo, start: int) -> int:
    """Where the argument of an opcode ends that begins at ``start``."""
    width = 0 if opcode.arg is None else opcode.arg.n
    if width == pickletools.UP_TO_NEWLINE:
        end = data.find(b"\n", start) + 1
        if end and opcode.name in ("GLOBAL", "INST"):  # module and name
            end = data.find(b"\n", end) + 1
        end = end or len(data) + 1
    elif width < 0:
        text = start + _LENGTH_BYTES[width]
        end = text + int.from_bytes(data[start:text], "little", signed=width == pickletools.TAKEN_FROM_ARGUMENT4)
    else:
        end = start + width
    if opcode.name == "FRAME":  # read at once
        end += int.from_bytes(data[start:end], "little")
    if not start <= end <= len(data):
        raise ValueError("pickle data was truncated")
    return start + width if opcode.name == "FRAME" else end


def _index(data: bytes | mmap, name: str, start: int, end: int) -> int:
    """The memo index of a put or get."""
    return int(data[start:end]) if name in ("PUT", "GET") else int.from_bytes(data[start:end], "little")


def _check_integer(name: str, length: int) -> None:
    if length > _LONGEST_INTEGERS.get(name, length):
        raise PickleLimitError("contains an integer of more than 64 bits")


def _taken(stack: list[_Node | None], before: Sequence[str]) -> list[_Node]:
    """Take the operands of an opcode from the stack."""
    count = len(before)
    if "mark" in before:
        mark = len(stack) - 1
        while stack[mark] is not None:
            mark -= 1
            if mark < 0:
                raise ValueError("no mark on the stack")
        operands = stack[mark + 1 :]
        del stack[mark:]
        count = before.index("mark")
        operands = [*stack[len(stack) - count :], *operands]
    else:
        operands = stack[len(stack) - count :]
    if count > len(stack):
        raise ValueError("too few objects on the stack")
    del stack[len(stack) - count :]
    return _nodes(operands)


def _nodes(operands: Sequence[_Node | None]) -> list[_Node]:
    """The same objects, none of which may be a mark."""
    nodes = [node for node in operands if node is not None]
    if len(nodes) < len(operands):
        raise ValueError("a mark where an object is expected")
    return nodes
