"""The words of the pocket grammar: which word bears which value of which attribute.

A marker is a word or phrase that bears one value of one attribute, as `laughed` bears the mood
joyful. No marker belongs to two values, contains another marker, or stands anywhere else in
the grammar, so counting markers in any text is exact; the tests hold this.
"""

from __future__ import annotations

KINDS: dict[str, tuple[str, ...]] = {
    "mood": ("joyful", "gloomy", "calm", "fearful"),
    "style": ("plain", "casual", "formal"),
    "topic": ("sea", "forest", "kitchen", "city", "mountain", "school"),
}
"""Attributes and their values. A text has one value of each, drawn uniformly unless tagged."""

OWN_SHARE: dict[str, float] = {"mood": 0.8, "style": 0.8, "topic": 0.9}
"""How often a marker bears its text's own value; the other values share the rest alike."""

SHE = ("Mara", "Nora", "Lily", "Ada", "Ines", "Rosa", "Hana", "Vera", "Zoe")
HE = ("Tom", "Omar", "Felix", "Hugo", "Ravi", "Leo", "Oskar", "Milo", "Ivan")
HEROES: tuple[str, ...] = SHE + HE
FRIENDS = ("Tessa", "Greta", "Freya", "Priya", "Juno", "Theo", "Kofi", "Noah", "Emil", "Sami")
"""Names of heroes and of friends are apart: nobody meets a namesake."""

NEUTRAL: dict[str, str] = {
    "colour": "blue, green, yellow, brown, white, purple, orange, pink",
    "daypart": "morning, afternoon, evening",
    "season": "spring, summer, autumn, winter",
    "spot": "a stone, a bench, an old box, a blanket, a bridge, a ladder",
    "relative": "mother, father, brother, sister, aunt, uncle, cousin, grandmother",
}
"""Slots whose words bear no attribute."""

MARKERS: dict[str, dict[str, dict[str, str]]] = {
    "mood": {
        "adj": {  # before a noun or after "was"
            "joyful": "bright, cheerful, golden, sunny, merry, wonderful, lovely, festive",
            "gloomy": "grey, dreary, bleak, dull, dismal, drab, lonely, cheerless",
            "calm": "quiet, gentle, still, soft, peaceful, mild, smooth, unhurried",
            "fearful": "dark, eerie, strange, shadowy, creepy, ghostly, menacing, sinister",
        },
        "felt": {  # after "felt", of a person
            "joyful": "happy, delighted, glad, thrilled, overjoyed, jolly, lucky",
            "gloomy": "sad, miserable, heartbroken, downcast, weary, hopeless, forlorn",
            "calm": "relaxed, content, serene, untroubled, rested, composed, easygoing",
            "fearful": "afraid, scared, nervous, terrified, anxious, frightened, uneasy",
        },
        "manner": {  # adverb
            "joyful": "happily, cheerfully, gladly, merrily, playfully, blissfully",
            "gloomy": "sadly, wearily, glumly, mournfully, bitterly, listlessly",
            "calm": "quietly, gently, slowly, softly, peacefully, patiently",
            "fearful": "nervously, timidly, anxiously, shakily, warily, fearfully",
        },
        "acted": {  # past tense, needs no object
            "joyful": "laughed, smiled, danced, sang, giggled, beamed, cheered",
            "gloomy": "sighed, wept, cried, sobbed, moped, frowned, groaned",
            "calm": "dozed, lingered, nodded, paused, yawned, daydreamed, meditated",
            "fearful": "trembled, shivered, froze, flinched, gasped, cowered, shuddered",
        },
        "joy": {  # after "full of"
            "joyful": "joy, happiness, delight, laughter, cheer, glee, fun",
            "gloomy": "sorrow, grief, sadness, regret, misery, despair, tears",
            "calm": "peace, stillness, comfort, patience, harmony, tranquility, silence",
            "fearful": "fear, dread, worry, panic, terror, alarm, danger",
        },
        "sky": {  # singular, after "the"
            "joyful": "sunshine, rainbow, sunrise, sunlight, warmth",
            "gloomy": "drizzle, rain, fog, sleet, downpour",
            "calm": "breeze, twilight, moonlight, dew, mist",
            "fearful": "thunder, darkness, storm, lightning, howling wind",
        },
        "cry": {  # a clause for someone to say
            "joyful": "this is the best day ever, we finally did it, "
            "everything is going our way, I could hug the whole world, life is good",
            "gloomy": "nothing ever goes right, I miss the old days, "
            "all our hopes are gone, nobody cares about us, it was all for nothing",
            "calm": "there is no hurry, let us sit a while, "
            "the world can wait, we have plenty of time, things will sort themselves out",
            "fearful": "something is out there, we must run, "
            "do not make a sound, I heard footsteps, it is coming closer",
        },
        "like": {  # after "it felt like"
            "joyful": "a birthday, a party, a holiday, a parade, a carnival",
            "gloomy": "a funeral, a farewell, a long goodbye, an empty room, a lost cause",
            "calm": "a lullaby, a slow song, a Sunday nap, a warm bath, a deep breath",
            "fearful": "a nightmare, a trap, a ghost tale, a bad omen, a haunted house",
        },
        "eyes": {  # before "eyes"
            "joyful": "shining, twinkling, sparkling, radiant",
            "gloomy": "tearful, swollen, tired, downturned",
            "calm": "sleepy, dreamy, restful, steady",
            "fearful": "wide, staring, darting, blinking",
        },
        "heart": {  # after "heart"
            "joyful": "leapt, soared, sparkled, glowed",
            "gloomy": "sank, ached, broke, withered",
            "calm": "slowed, settled, eased, softened",
            "fearful": "pounded, raced, hammered, thumped",
        },
        "wish": {  # after "wanted to"
            "joyful": "celebrate, dance, sing, play, make everyone laugh",
            "gloomy": "give up, cry, be alone, forget everything, mourn",
            "calm": "rest, sit down, take a nap, breathe deeply, daydream",
            "fearful": "run away, hide, scream, escape, call for help",
        },
    },
    "style": {
        "link": {  # opens a sentence, brings its own comma
            "plain": "then, later, next, after that, soon",
            "casual": "anyway, | well, | okay so | long story short, | boom,",
            "formal": "thereafter, | subsequently, | in due course, | presently, | thereupon,",
        },
        "very": {  # before an adjective
            "plain": "very, quite, rather, truly",
            "casual": "super, totally, crazy, kinda",
            "formal": "exceedingly, remarkably, profoundly, extraordinarily",
        },
        "said": {  # with a quotation
            "plain": "said, answered, replied, explained",
            "casual": "blurted, quipped, joked, piped up",
            "formal": "remarked, declared, proclaimed, asserted",
        },
        "pal": {  # after "his" or "her"
            "plain": "friend, playmate, schoolfriend",
            "casual": "buddy, pal, mate",
            "formal": "companion, acquaintance, associate",
        },
        "looked": {  # with an object
            "plain": "looked at, watched, saw",
            "casual": "checked out, peeked at, gawked at",
            "formal": "examined, inspected, contemplated",
        },
        "got": {  # with an object
            "plain": "found, picked up, took",
            "casual": "grabbed, snagged, scooped up",
            "formal": "discovered, acquired, obtained",
        },
        "went": {  # before "to the" or "home"
            "plain": "went, walked, ran",
            "casual": "headed, zipped, moseyed",
            "formal": "proceeded, travelled, journeyed",
        },
        "aside": {  # between commas
            "plain": "for once, after all, at last",
            "casual": "you know, no kidding, I swear",
            "formal": "indeed, as it were, without question",
        },
        "because": {
            "plain": "because, since",
            "casual": "'cause, cos",
            "formal": "given that, inasmuch as",
        },
        "kept": {  # with an object
            "plain": "kept, carried, held",
            "casual": "hung on to, lugged, toted",
            "formal": "retained, preserved, safeguarded",
        },
        "hey": {  # opens a quotation
            "plain": "look, listen, you see",
            "casual": "wow, hey, whoa",
            "formal": "behold, dear me, I dare say",
        },
    },
    "topic": {
        "place": {  # after "the"
            "sea": "harbour, beach, lighthouse, pier, bay, shore",
            "forest": "clearing, woods, hollow, thicket, glade, treehouse",
            "kitchen": "pantry, bakery, stove, cellar, larder, oven",
            "city": "station, town hall, tram stop, museum, avenue, skyscraper",
            "mountain": "summit, ridge, cave, valley, cliff, waterfall",
            "school": "classroom, library, playground, gym, schoolyard, hallway",
        },
        "thing": {  # after "a" or "the"
            "sea": "shell, pearl, net, anchor, oar, starfish, compass",
            "forest": "acorn, mushroom, feather, pinecone, nest, twig, fern",
            "kitchen": "spoon, kettle, loaf, pie, teapot, honey jar, cake",
            "city": "ticket, coin, newspaper, umbrella, lantern, street map, postcard",
            "mountain": "pebble, crystal, climbing boot, tent, cowbell, rope, rucksack",
            "school": "pencil, notebook, ruler, blackboard, paintbrush, globe, schoolbag",
        },
        "being": {  # after "a" or "the"
            "sea": "gull, crab, sailor, fisherman, seal, dolphin",
            "forest": "fox, owl, squirrel, deer, woodcutter, badger",
            "kitchen": "cook, baker, kitten, mouse, waiter, dishwasher",
            "city": "driver, pigeon, postman, busker, tourist, shopkeeper",
            "mountain": "goat, eagle, shepherd, climber, marmot, hermit",
            "school": "teacher, pupil, librarian, caretaker, hamster, headmaster",
        },
        "doing": {  # after "loved"
            "sea": "sailing, fishing, swimming, rowing, diving",
            "forest": "berry picking, birdwatching, whittling, tree climbing, chopping wood",
            "kitchen": "baking, cooking, stirring soup, peeling potatoes, kneading dough",
            "city": "shopping, sightseeing, street theatre, people watching, riding trams",
            "mountain": "hiking, skiing, camping, sledding, rock collecting",
            "school": "reading, studying, spelling, doing sums, learning verses",
        },
        "smell": {  # after "smelled of"
            "sea": "salt, seaweed, tar, driftwood, wet sand",
            "forest": "moss, pine, damp leaves, bark, wild garlic",
            "kitchen": "fresh bread, cinnamon, butter, ginger, roast onions",
            "city": "petrol, hot asphalt, street food, coal smoke, perfume",
            "mountain": "snow, granite, heather, cold rock, glacier ice",
            "school": "chalk, ink, paste, old books, crayons",
        },
        "sound": {  # after "the sound of"
            "sea": "waves, foghorns, surf, flapping sails",
            "forest": "birdsong, rustling leaves, creaking branches, woodpeckers",
            "kitchen": "frying eggs, boiling water, clinking plates, humming cooks",
            "city": "traffic, car horns, church bells, sirens",
            "mountain": "echoes, falling rocks, rushing streams, distant yodels",
            "school": "chatter, scratching pens, the school bell, clapping hands",
        },
    },
}
"""Kind, slot, value, words. Words are split at commas, or at bars where they hold commas."""


def split(words: str) -> tuple[str, ...]:
    """The entries of one cell of the tables above."""
    return tuple(word.strip() for word in words.split("|" if "|" in words else ","))
