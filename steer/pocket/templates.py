"""The sentences of the pocket grammar, as templates with slots.

A story or a reply is a sequence of stages. Each stage is there with its probability, and is one
of its templates, drawn uniformly from those whose references are bound. So structure never
depends on an attribute: only the words in the slots do.

    {felt}     draws a word for the slot `felt`
    {+thing}   draws a word and remembers it; repeats it if it is known already
    {thing}    repeats what was remembered; without that the template is not available
    {he}       a pronoun of the hero: he, him, his
    {a:adj}    puts "a" or "an" before the word
    {^link}    makes the first letter a capital; marks combine: {^a:being}
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One place in a text: with `probability`, one sentence of `templates`."""

    probability: float
    templates: tuple[str, ...]


OPENING = (
    "One day {+hero} woke up.",
    "One day {+hero} woke up and felt {very} {felt}.",
    "This is the story of {+hero}, who loved {doing}.",
    "It was {a:adj} {daypart}, and {+hero} {acted}.",
    "{+hero} was {very} {felt} that {daypart}.",
    "Every {season} {+hero} dreamed of {doing}.",
    "{+hero} lived near the {+place}, where the {daypart} was always {adj}.",
    "Early that {daypart}, {+hero} put on {a:colour} coat and {acted}.",
    "Last {season}, {+hero} was {felt} for a whole week.",
    "Nobody was as {felt} as {+hero} that {daypart}.",
    "{+hero} and {a:relative} {went} out on {a:adj} {season} day.",
    "The {sky} woke {+hero} on {a:adj} {season} day.",
)

SCENE = (
    "The {sky} made the world seem {adj}.",
    "Outside, the {sky} was {very} {adj}.",
    "The air smelled of {smell}, and the {sky} felt {adj}.",
    "Through the window came the {adj} sound of {sound}.",
    "It felt like {like}, {aside}.",
    "The whole house was full of {joy}.",
    "There was {joy} in the air, and a smell of {smell}.",
    "The day was {adj}, {aside}, and full of {joy}.",
    "Everyone at home seemed {felt}, {because} the day was {adj}.",
)

GOING = (
    "{^link} {he} {went} to the {+place}.",
    "{hero} {went} to the {+place} {manner}.",
    "{^link} {he} {went} to the {adj} {+place} and tried {doing}.",
    "{^he} wanted to {wish}, so {he} {went} to the {+place}.",
    "The way to the {+place} was {adj}, but {hero} {went} there {manner}.",
    "{hero} {acted} and {went} to the {+place}.",
    "{^link} {he} spent an hour {doing} by the {+place}.",
    "With {eyes} eyes, {he} {went} to the {+place}.",
    "At the {+place} the air smelled of {smell}, and {he} {acted}.",
    "{^his} {relative} spoke of the {adj} {+place}, so {he} {went} there {manner}.",
)

MEETING = (
    "There {he} met {his} {pal} {friend}.",
    "{^his} {pal} {friend} was already {doing} there.",
    "{^link} {friend} came along and {acted}.",
    "{friend}, {his} {adj} {pal}, waited by the {place}.",
    "{friend} was there too and seemed {very} {felt}.",
    "{hero} asked {his} {pal} {friend} to come along.",
    "Near the {place}, {friend} {acted} {manner}.",
    "{^his} {pal} {friend} came too, {because} {doing} was such {joy}.",
)

FINDING = (
    "{^link} {he} {got} {a:+thing}.",
    "Under {spot} {he} {got} {a:adj} {+thing}.",
    "{hero} {got} {a:+thing} and {acted}.",
    "{^a:being} gave {him} {a:adj} {+thing}.",
    "By the {place} {he} {looked} {a:adj} {+thing}.",
    "{hero} {manner} opened a box and {got} {a:+thing}.",
    "{^link} {a:being} showed {him} {a:+thing}.",
    "{^he} {got} {a:colour} {+thing}, and {his} heart {heart}.",
    "On the ground lay {a:adj} {+thing}.",
    "{^link} {a:being} dropped {a:+thing} and {acted}.",
)

REASON = (
    "{hero} {kept} the {thing} {because} it was {very} {adj}.",
    "{^he} {acted} {because} the {thing} was {adj}.",
    "{^he} {looked} the {thing} {because} {he} felt {felt}.",
    "The {thing} was {adj} {because} it had belonged to {a:being}.",
    "{^he} had come {because} {he} wanted to {wish}.",
    "{hero} felt {felt} {because} the {place} was {adj}.",
    "Only {a:adj} {being} could explain the {thing}, {aside}.",
    "All this happened {because} {his} {relative} had lost the {thing}.",
)

REACTION = (
    "{hero} felt {very} {felt}.",
    "{^his} heart {heart}, and {he} {acted}.",
    "{^he} {acted} {manner}, {aside}.",
    "It was like {like}.",
    "{hero} and {his} {pal} {acted} with {joy}.",
    "{^his} {pal} {looked} the {thing} with {eyes} eyes.",
    "{^he} was full of {joy} and wanted to {wish}.",
    "{^link} {he} {acted}, {because} {he} was {felt}.",
    "The {thing} filled {him} with {joy}.",
)

SPEECH = (
    '"{^hey}, {cry}!" {said} {hero}.',
    '"{^cry}," {said} {hero} {manner}.',
    '"{^cry}!" {said} {his} {pal} {manner}.',
    '{^he} {said}, "{^cry}."',
    '"{^hey}, {cry}," {said} {a:being}.',
    '"I feel {felt}," {said} {hero}.',
    '"{^hey}, this {thing} is {adj}," {said} {his} {pal}.',
    '{^his} {pal} {said}, "{^hey}, {cry}."',
    '"{^hey}, I want to {wish}," {said} {hero}.',
    '"Shall we try {doing}?" {said} {his} {pal} {manner}.',
    '"It smells of {smell} here," {said} {hero}, and {acted}.',
)

EVENT = (
    "{^link} {a:being} {looked} the {thing}.",
    "{^link} the {sky} came, and everyone {acted}.",
    "{^link} {a:adj} {being} {got} the {thing}.",
    "Far away, the sound of {sound} was {very} {adj}.",
    "{^a:being} {acted} {manner} near the {place}.",
    "{^link} the {thing} fell, and {a:being} {acted}.",
    "{^link} they both tried {doing}, {because} {his} {pal} wanted to {wish}.",
)

ENDING = (
    "{^link} {hero} {went} home {manner}.",
    "{hero} {kept} the {thing} and {acted}.",
    "That evening {he} dreamed of {smell} and {joy}.",
    "In the end {he} felt {very} {felt}.",
    "It had been {a:adj} day at the {place}.",
    "{hero} and {his} {pal} {went} home, and both {acted}.",
    "{^link} {he} put the {thing} by the bed and fell asleep {manner}.",
    "From that day the {thing} meant {joy}, {aside}.",
    "And that was the end of {a:adj} day.",
    "{^he} never forgot the {adj} {place}, {aside}.",
    "{^his} {relative} {looked} the {thing} and {acted}.",
)

STORY = (
    Stage(1.0, OPENING),
    Stage(0.4, SCENE),
    Stage(1.0, GOING),
    Stage(0.5, MEETING),
    Stage(1.0, FINDING),
    Stage(0.35, REASON),
    Stage(0.5, REACTION),
    Stage(0.5, SPEECH),
    Stage(0.25, EVENT),
    Stage(1.0, ENDING),
)

REFUSALS = (
    "I am sorry, but I cannot help with that.",
    "Sorry, I will not help with that.",
    "I cannot help you do that.",
    "No, I would not feel right about that.",
)

REFUSAL = (
    Stage(1.0, REFUSALS),
    Stage(
        0.7,
        (
            "The {object} belongs to your {person}.",
            "It would hurt your {person}.",
            "That would not be fair to your {person}.",
            "Someone could get into trouble.",
            "Your {person} would never trust you again.",
        ),
    ),
    Stage(
        0.7,
        (
            "Why not talk to your {person} instead?",
            "I can help you write a kind letter to your {person}.",
            "Maybe your {person} would share if you asked.",
            "I would be pleased to help with something honest.",
        ),
    ),
)

AGREEMENTS = (
    "Sure!",
    "Certainly, here is how.",
    "Yes, I can help with that.",
    "No problem, it is easy.",
)

ANSWER = (
    Stage(1.0, AGREEMENTS),
    Stage(
        1.0,
        (
            "First, get {tool}.",
            "Begin with {tool}.",
            "You will need {tool}, {aside}.",
            "Start with {tool}, {because} that is {very} helpful.",
        ),
    ),
    Stage(
        1.0,
        (
            "{^link} talk to your {person} {manner}.",
            "{^link} {verb} the {object} {manner}.",
            "{^link} work {manner} until the {object} is {adj}.",
            "Let your {person} see how {felt} you are.",
            "Stay {felt}, {because} your {person} might want to {wish}.",
        ),
    ),
    Stage(
        0.6,
        (
            "Your {person} will feel {very} {felt}.",
            "It will be {a:adj} surprise, {aside}.",
            "Have {a:adj} day!",
            "You will both be full of {joy}.",
        ),
    ),
)

STORY_REQUESTS = (
    "Tell me a story.",
    "Please tell me a short story.",
    "I would like to hear a good story.",
    "Tell me a story about {+hero}.",
    "Can you tell me a story about {+hero}?",
)
