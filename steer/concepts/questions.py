"""The questions for making vectors from concepts, and openings for base models.

The split is fixed: vectors are fitted to answers to `TRAIN`, their strength is chosen on `CHOICE`,
and they are measured on `HELD_OUT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.base.errors import InputError

#: The fewest questions of a user's own.
FEWEST = 16

TRAIN = (
    "What did you do this morning?",
    "How should I spend a free afternoon?",
    "My train is two hours late. What now?",
    "Tell me about your neighbourhood.",
    "What do you think of winter?",
    "How do I make a good cup of tea?",
    "Why do people keep pets?",
    "Describe the view from a hill.",
    "Can you explain how a fridge works?",
    "I lost my umbrella again.",
    "What would you bring on a long journey?",
    "How can I get better at chess?",
    "Tell me a story about a baker.",
    "Is it worth learning to play the piano?",
    "What is the point of small talk?",
    "My neighbour is noisy. What should I do?",
    "How do you plan a week?",
    "Write a message to an old friend.",
    "What makes a film good?",
    "Give me some advice for my first day at work.",
    "Why is honesty hard?",
    "What happens in a thunderstorm?",
    "Describe your ideal kitchen.",
    "I have just finished a difficult exam.",
    "How do I choose a good melon?",
    "What do you remember about school?",
    "Should I buy a car or a bicycle?",
    "Tell me something about rivers.",
    "How do I apologise to somebody?",
    "What is a healthy lunch?",
    "My plan did not work out.",
    "Why do some people like crowds?",
    "Describe a busy street.",
    "How does a vaccine work?",
    "What would you change about your town?",
    "Can you help me write a toast for a wedding?",
    "What is the best thing about autumn?",
    "How do I fall asleep faster?",
    "Tell me about a machine that you find interesting.",
    "What should children learn first?",
    "I cannot decide what to wear tonight.",
    "How do I keep houseplants alive?",
    "What is a fair price for a haircut?",
    "Describe a meal that you will not forget.",
    "Why do we celebrate birthdays?",
    "My computer is slow. Any ideas?",
    "What does it take to be a good leader?",
    "Tell me about the last hundred years.",
    "How do I start a conversation with a stranger?",
    "What would a perfect holiday look like?",
    "Explain how rainbows form.",
    "I am thinking of moving to another city.",
    "How can two people share a small flat?",
    "What is the difference between a hill and a mountain?",
    "Give me three ideas for dinner.",
    "What do you say to someone who failed?",
    "Describe how snow feels.",
    "Why do prices go up?",
    "How do I train for a race?",
    "What is your opinion of television?",
    "Tell me how bread is made.",
    "What makes a house a home?",
    "A friend borrowed money and forgot it.",
    "How do I pack a suitcase well?",
    "What was the best invention ever?",
    "Describe a walk on the beach.",
    "Why do cats sleep so much?",
    "How should I answer an angry letter?",
    "What is a good present for a grandmother?",
    "Tell me what you know about volcanoes.",
    "I want to read more. Where do I begin?",
    "What do you do when you are bored?",
)
CHOICE = (
    "What is your favourite time of the day?",
    "How do I look after a wooden table?",
    "Tell me about the stars.",
    "My shoes are wet. What can I do?",
    "Why should anybody vote?",
    "Describe a market.",
    "What would you cook for ten guests?",
    "How do I talk to a shy child?",
    "What is the use of history?",
    "I have a job interview tomorrow.",
    "Tell me about a famous bridge.",
    "How can I save water at home?",
    "What makes people laugh?",
    "Describe an evening at home.",
    "Should I wait or call again?",
    "How do trees survive the winter?",
)
HELD_OUT = (
    "What should I do on a rainy day?",
    "How do I learn to swim?",
    "Tell me about bees.",
    "Why is the night dark?",
    "My brother forgot my birthday.",
    "Describe an old railway station.",
    "What do you think of early mornings?",
    "How do I repair a torn page?",
    "Can you recommend something for the weekend?",
    "What is the secret of a long friendship?",
    "Write a few lines about the wind.",
    "How does a lock work?",
    "I am nervous about a speech.",
    "What makes a good photograph?",
    "Why do people travel?",
    "Tell me about your plans.",
    "How should I organise my desk?",
    "What happens to an unpaid bill?",
    "Describe a garden in spring.",
    "Is it rude to leave a party early?",
    "How do I cook rice?",
    "What would you ask a scientist?",
    "My phone fell into the sink.",
    "What is a good age to retire?",
    "Explain how a ship floats.",
    "What do neighbours owe each other?",
    "Tell me something about glass.",
    "How can I be on time more often?",
    "What is the hardest thing about cooking?",
    "Describe a quiet place.",
    "Why do we shake hands?",
    "I found a wallet in the street.",
)
#: Openings for base models, which continue a text.
OPENINGS_TRAIN = (
    "One day", "The", "It was", "In the morning", "At the", "Last night", "She", "He", "They",
    "Once", "There was", "The old", "Every day", "After the", "When the", "On a", "My", "People",
    "This", "We", "All", "Outside", "In the", "That evening", "I", "The first", "Before", "Some",
    "The little", "At last", "Everyone", "Then", "It felt", "Her", "His", "Today",
)  # fmt: skip
OPENINGS_CHOICE = ("That day", "The house", "Soon", "A", "Nobody", "The next", "It had", "Through")
OPENINGS_HELD_OUT = (
    "One morning", "The road", "It began", "She had", "Yesterday", "Under the", "The other",
    "He was", "Behind the", "Two", "At noon", "The day", "Now", "What", "Near the", "Suddenly",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions, or openings for a base model, in three sets: to fit a vector, to choose its
    strength, and to measure it."""

    train: tuple[str, ...]
    choice: tuple[str, ...]
    held_out: tuple[str, ...]

    def first(self, train: int, choice: int, held_out: int) -> Questions:
        """The first questions of each set."""
        return Questions(self.train[:train], self.choice[:choice], self.held_out[:held_out])

    def beside(self, own: Sequence[str]) -> Questions:
        """A concept's own questions, then these. Every third of its own is held out."""
        fitted = tuple(question for index, question in enumerate(own) if index % 3 != 2)
        held = tuple(question for index, question in enumerate(own) if index % 3 == 2)
        known = set(own)
        return Questions(
            fitted + tuple(question for question in self.train if question not in known),
            tuple(question for question in self.choice if question not in known),
            held + tuple(question for question in self.held_out if question not in known),
        )

    @classmethod
    def split(cls, own: Sequence[str]) -> Questions:
        """A user's own questions: every fourth is held out, and every eighth is for choosing.

        Raises:
            InputError: there are too few.
        """
        every = list(dict.fromkeys(own))
        if len(every) < FEWEST:
            raise InputError(
                f"there are {len(every)} questions, and {FEWEST} are the fewest",
                hint="some are held out to measure on",
            )
        choice, held_out = every[1::8], every[3::4]
        used = {*choice, *held_out}
        train = tuple(question for question in every if question not in used)
        return cls(train, tuple(choice), tuple(held_out))


def everyday(*, chat: bool) -> Questions:
    """steer's own questions for a chat model, or openings for a base model."""
    if chat:
        return Questions(TRAIN, CHOICE, HELD_OUT)
    return Questions(OPENINGS_TRAIN, OPENINGS_CHOICE, OPENINGS_HELD_OUT)
