"""What is said with an emotion: sentences that tell it, fit two, tell nothing, or mean the opposite."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_CLEAR: Mapping[str, tuple[str, ...]] = {
    "neutral": (
        "I put the {thing} on the table.",
        "The {event} starts at {time}.",
        "We can take the bus at {time}.",
        "You will find the {thing} in the kitchen.",
        "{name} works on the second floor.",
        "Let us meet after the {event}.",
    ),
    "surprise": (
        "What? {name} is getting married?",
        "Oh my God, I did not expect that {event}!",
        "Wow, you really bought the {thing}?",
        "No way! Since when do you know {name}?",
        "Wait, the {event} was today?",
        "You are kidding! {name} said that?",
    ),
    "fear": (
        "Please do not leave me alone here.",
        "I am so scared of the {event}.",
        "Something moved behind the {thing}, I am terrified.",
        "What if {name} never comes back? I am afraid.",
        "Run, it is dangerous in there!",
    ),
    "sadness": (
        "I miss {name} so much.",
        "I am sorry, I lost the {thing} that she gave me.",
        "Nobody came to my {event}. I feel so alone.",
        "It hurts that {name} left without a word.",
        "I just want to cry.",
    ),
    "joy": (
        "That is wonderful, I love this {thing}!",
        "The {event} was great fun, I am so happy!",
        "Yay, {name} is coming to the {event}!",
        "Thank you, this is the best {thing} ever!",
        "Congratulations, {name}! That is fantastic!",
    ),
    "disgust": (
        "Ew, there is mould on the {thing}.",
        "That is gross, {name} never washes it.",
        "Yuck, this smells disgusting.",
        "It makes me sick that {name} would eat that.",
    ),
    "anger": (
        "I told you not to touch my {thing}!",
        "How dare {name} lie to me about the {event}!",
        "Get out! I am sick of your excuses!",
        "I hate it when {name} does that!",
        "Stop it right now, this is outrageous!",
    ),
}
_EITHER: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (frozenset({"surprise", "joy"}), ("Oh! You brought the {thing}!", "I cannot believe we won the {event}!")),
    (frozenset({"surprise", "fear"}), ("Oh no, who is at the door?", "What was that noise near the {thing}?")),
    (frozenset({"anger", "disgust"}), ("I cannot stand {name} any more.", "That {event} was the worst.")),
    (frozenset({"sadness", "fear"}), ("I do not know what to do without {name}.", "It is all going wrong.")),
    (frozenset({"anger", "sadness"}), ("You forgot the {event} again.", "Why did {name} do this to me?")),
    (frozenset({"neutral", "joy"}), ("Sure, let us go to the {event}.", "{name} made dinner for us.")),
    (frozenset({"neutral", "sadness"}), ("{name} is not here any more.", "I guess the {event} is over.")),
)
_PLAIN = (
    "Okay.",
    "I know what you mean.",
    "Did you talk to {name}?",
    "It is about the {thing}.",
    "You said that at {time}.",
    "{name} was at the {event}.",
    "So, what happens now?",
    "Yeah, that is what I heard.",
    "Look at the {thing}.",
    "Well, here we are.",
)
_OPPOSITES = {"anger": "joy", "sadness": "joy", "disgust": "joy", "joy": "anger", "fear": "joy", "surprise": "neutral"}
_SLOTS: Mapping[str, tuple[str, ...]] = {
    "name": ("Anna", "Paul", "Maria", "Tom", "Julia", "Ben", "Lisa", "Mark"),
    "thing": ("lamp", "book", "cake", "car", "letter", "phone", "jacket", "picture"),
    "event": ("party", "meeting", "wedding", "game", "exam", "concert", "interview"),
    "time": ("eight", "noon", "half past three", "five"),
}


def sentence(emotion: str, clear: float, rng: np.random.Generator) -> str:
    """A sentence that is said with an emotion.

    Args:
        emotion: One of MELD's emotions.
        clear: Probability that the words tell it. Of the rest, half tell nothing, two fifths fit another emotion as
            well, and a tenth means the opposite of what it says.
        rng: Source of the choice.
    """
    kind = rng.random()
    pool: tuple[str, ...] = _PLAIN
    if kind < clear:
        pool = _CLEAR[emotion]
    elif kind < clear + 0.4 * (1 - clear):
        pool = tuple(text for emotions, texts in _EITHER if emotion in emotions for text in texts)
    elif kind < clear + 0.5 * (1 - clear):
        pool = _CLEAR[_OPPOSITES.get(emotion, emotion)]
    words = {slot: str(rng.choice(values)) for slot, values in _SLOTS.items()}
    return str(rng.choice(pool)).format(**words)
