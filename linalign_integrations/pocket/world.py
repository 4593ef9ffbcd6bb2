"""What the small world consists of: topics, sentences and the words in which principles are told.

Generator and judge share these tables and nothing else. Every sentence is written in plain
English; `speak` turns it into a dialect word by word, so each table is kept once.
"""

import re
from dataclasses import dataclass

NEUTRAL = "neutral"

# How often a value appears when nobody asked for it. What is left over is neutral.
PRIOR: dict[str, dict[str, float]] = {
    "tone": {"formal": 0.12, "friendly": 0.12},
    "length": {"brief": 0.15, "detailed": 0.15},
    "budget": {"cheap": 0.12, "luxury": 0.12},
    "diet": {"vegan": 0.15, "meat": 0.15},
    "place": {"outdoors": 0.15, "indoors": 0.15},
    "expertise": {"beginner": 0.12, "expert": 0.12},
    "format": {"steps": 0.15, "bullets": 0.15, "prose": 0.7},
    "mood": {"cheerful": 0.12, "calm": 0.12},
    "dialect": {"pirate": 0.06, "shakespeare": 0.06},
}


@dataclass(frozen=True)
class Topic:
    """One subject people ask about, and what can be said on it."""

    name: str
    questions: tuple[str, ...]
    occasions: tuple[str, ...]
    taste: str | None
    items: dict[str, tuple[str, ...]]
    tips: tuple[str, ...]
    beginner: tuple[str, ...]
    expert: tuple[str, ...]


@dataclass(frozen=True)
class Wording:
    """The ways to ask for one value.

    Attributes:
        do: What to do.
        like: What is preferred.
        who: Who is asking.
        say: Whole sentences.
        unseen: Whole sentences that training never sees.
    """

    do: tuple[str, ...]
    like: tuple[str, ...]
    who: tuple[str, ...]
    say: tuple[str, ...]
    unseen: tuple[str, ...]


RELATIVES = (
    "sister", "brother", "mother", "father", "aunt", "uncle", "cousin", "grandmother",
    "grandfather", "friend", "neighbour", "teacher", "boss", "wife", "husband", "daughter",
    "son", "niece", "nephew", "colleague", "girlfriend", "boyfriend", "mum", "dad",
)  # fmt: skip
DAYS = ("today", "tonight", "tomorrow", "this weekend", "next week", "this evening", "on Sunday",
        "on Saturday", "on Monday", "on Friday")  # fmt: skip
MEALS = ("tonight", "for dinner", "for lunch", "tomorrow", "on Sunday", "this evening", "today",
         "for the family", "for two", "for my friends")  # fmt: skip
SEASONS = ("in summer", "in winter", "in spring", "in autumn", "this year", "next month", "in May",
           "in August", "this summer", "this weekend")  # fmt: skip
DESKS = ("at work", "at the office", "this week", "on Monday", "today", "before lunch")
EXAMS = ("this week", "for the exam", "for my test", "today", "this evening", "for school")
FOR_WHOM = tuple(f"for my {who}" for who in RELATIVES)

TOPICS: tuple[Topic, ...] = (
    Topic(
        "food",
        (
            "What should I cook {when}?",
            "What can I eat {when}?",
            "What should we eat {when}?",
            "Can you suggest a meal {when}?",
            "Which dish should I make {when}?",
            "I am hungry. What can I make {when}?",
            "What is a good dish {when}?",
            "Give me an idea for a meal {when}.",
            "What could I cook {when}?",
            "I need a recipe {when}.",
            "What is for dinner?",
            "Any food ideas {when}?",
            "Recommend something to eat {when}.",
            "Help me choose a meal {when}.",
        ),
        MEALS,
        "diet",
        {
            NEUTRAL: (
                "a tomato soup",
                "a cheese omelette",
                "a mushroom pasta",
                "a potato gratin",
                "a vegetable pizza",
                "a pumpkin risotto",
                "an onion tart",
            ),
            "vegan": (
                "a vegan lentil curry",
                "a vegan bean chilli",
                "a vegan chickpea stew",
                "a vegan tofu stir-fry",
                "a vegan peanut noodle bowl",
                "a vegan rice salad",
                "a vegan carrot soup",
            ),
            "meat": (
                "a beef stew",
                "a roast chicken",
                "a pork chop with apples",
                "a lamb curry",
                "a steak with potatoes",
                "a meatball pasta",
                "a bacon pie",
            ),
        },
        (
            "Serve it with fresh bread.",
            "Add a little salt and pepper.",
            "A green salad goes well with it.",
            "It is ready in half an hour.",
            "Cook enough for two days.",
            "Fresh herbs make it shine.",
            "Let it rest before serving.",
            "Taste it often while cooking.",
        ),
        ("follow the recipe line by line", "use one pot and few spices", "cut everything small"),
        (
            "deglaze the pan and reduce the stock",
            "toast the spices before grinding them",
            "balance the acid with a dark caramel",
        ),
    ),
    Topic(
        "weekend",
        (
            "Where should I go {when}?",
            "What should I do {when}?",
            "What can we do {when}?",
            "Any plans for me {when}?",
            "I have nothing to do {when}. Any ideas?",
            "How should I spend my free time {when}?",
            "What is fun to do {when}?",
            "I am bored. What can I do {when}?",
            "Where could we go {when}?",
            "Suggest an activity {when}.",
            "Can you plan something {when}?",
            "What would be a nice outing {when}?",
        ),
        DAYS,
        "place",
        {
            NEUTRAL: (
                "a visit to a nearby town",
                "a day with old friends",
                "a ride on the tram",
                "a street market",
                "a food festival",
                "a town tour",
            ),
            "outdoors": (
                "a picnic in the park",
                "a walk by the river",
                "a hike in the forest",
                "a day at the beach",
                "a boat trip on the lake",
                "a bike ride in the hills",
                "a campfire under the stars",
            ),
            "indoors": (
                "a visit to the museum",
                "a film at the cinema",
                "an evening at the theatre",
                "a board game at home",
                "a quiet day in the library",
                "a concert in the town hall",
                "a cooking day in the kitchen",
            ),
        },
        (
            "Go early, when few people are there.",
            "Ask a friend to come along.",
            "Take some snacks with you.",
            "It takes about half a day.",
            "Wear comfortable shoes.",
            "Leave the phone at home.",
            "Check the opening hours first.",
            "A good camera is worth packing.",
        ),
        (
            "keep the plan short",
            "follow the signs and ask for help",
            "go with someone who knows it",
        ),
        (
            "chart a longer route of your own",
            "plan it around the light and the crowds",
            "combine two stages into one loop",
        ),
    ),
    Topic(
        "travel",
        (
            "Where should I travel {when}?",
            "Which trip should I take {when}?",
            "Where can I go on holiday {when}?",
            "Can you recommend a holiday {when}?",
            "I want to travel {when}. Where to?",
            "Plan a trip for me {when}.",
            "What is a good destination {when}?",
            "Where should we spend our holiday {when}?",
            "I need a vacation {when}. Any ideas?",
            "Suggest a journey {when}.",
        ),
        SEASONS,
        "place",
        {
            NEUTRAL: (
                "a train trip to the capital",
                "a week in a small village",
                "a tour of three towns",
                "a trip to the old harbour",
                "a slow bus tour",
            ),
            "outdoors": (
                "a week in the mountains",
                "a sailing trip along the coast",
                "a tent by the sea",
                "a canoe trip on the river",
                "a trek through the desert",
                "a safari on the plains",
            ),
            "indoors": (
                "a stay in a spa",
                "a week of museums",
                "a city break full of galleries",
                "a stay in a castle with a library",
                "a trip to the opera house",
                "a week in a cosy cabin by the fire",
            ),
        },
        (
            "Book the tickets early.",
            "Pack only a small bag.",
            "Learn a few local words.",
            "The people there are kind.",
            "Keep a copy of your papers.",
            "Try the local food.",
            "Stay at least four nights.",
            "A map is handy there.",
        ),
        ("book a guided tour", "choose one place and stay there", "ask the desk to plan each day"),
        (
            "string together night trains and ferries",
            "travel off season with open tickets",
            "trace the old trade routes",
        ),
    ),
    Topic(
        "gifts",
        (
            "What gift should I buy {when}?",
            "What should I give {when}?",
            "I need a present {when}.",
            "What is a good gift {when}?",
            "Can you suggest a present {when}?",
            "Which gift should I choose {when}?",
            "Help me find a birthday present {when}.",
            "What could I buy {when}?",
            "Any gift ideas {when}?",
            "What would be a nice present {when}?",
        ),
        FOR_WHOM,
        "place",
        {
            NEUTRAL: (
                "a box of chocolates",
                "a warm scarf",
                "a photo album",
                "a silver ring",
                "a pair of gloves",
                "a nice watch",
                "a leather bag",
            ),
            "outdoors": (
                "a garden lantern",
                "a camping stove",
                "a picnic basket",
                "a hiking stick",
                "a kite for the beach",
                "a bird house for the garden",
                "a fishing rod",
            ),
            "indoors": (
                "a reading lamp",
                "a board game",
                "a soft blanket for the sofa",
                "a tea set",
                "a jigsaw puzzle",
                "a cookbook for the kitchen",
                "a candle for the living room",
            ),
        },
        (
            "Wrap it in bright paper.",
            "Write a short card by hand.",
            "Keep the receipt.",
            "It shows that you care.",
            "Give it in the morning.",
            "A ribbon makes it pretty.",
            "It will be used every day.",
            "Pick a favourite colour.",
        ),
        ("ask the shop to help you choose", "pick a small gift set", "choose one plain colour"),
        (
            "look for a signed first edition",
            "compare the makers and the materials",
            "commission it from a master",
        ),
    ),
    Topic(
        "exercise",
        (
            "How can I get fit {when}?",
            "What exercise should I do {when}?",
            "Which sport should I try {when}?",
            "How do I stay healthy {when}?",
            "Can you suggest a workout {when}?",
            "I want to lose weight. What should I do?",
            "What is a good workout {when}?",
            "How should I train {when}?",
            "I want to move more {when}.",
            "Which workout fits me {when}?",
        ),
        DAYS,
        "place",
        {
            NEUTRAL: (
                "a dance class",
                "a stretching plan",
                "a short workout with a ball",
                "a tennis lesson",
                "a skipping rope round",
            ),
            "outdoors": (
                "a run in the park",
                "a swim in the lake",
                "a climb in the hills",
                "a ride on the forest trail",
                "a game of football on the grass",
                "a row on the river",
            ),
            "indoors": (
                "a yoga class in the studio",
                "a swim in the indoor pool",
                "a workout in the gym",
                "a spin on the home bike",
                "a climb at the climbing hall",
                "a stretch on the living room rug",
            ),
        },
        (
            "Drink enough water.",
            "Warm up for five minutes.",
            "Rest on every third day.",
            "Sleep well afterwards.",
            "Music makes it easier.",
            "Write down what was done.",
            "Train with a partner.",
            "Your heart will be grateful.",
        ),
        (
            "begin with ten slow minutes",
            "learn each move before adding speed",
            "stop when it hurts",
        ),
        (
            "add intervals at threshold pace",
            "track your load and taper before the race",
            "work on power in the last set",
        ),
    ),
    Topic(
        "study",
        (
            "How should I study {when}?",
            "How can I learn better {when}?",
            "What is the best way to study {when}?",
            "How do I prepare {when}?",
            "Where should I study {when}?",
            "I cannot focus {when}. What helps?",
            "Give me a study tip {when}.",
            "How can I remember more {when}?",
            "How do I learn a language {when}?",
            "Help me study {when}.",
        ),
        EXAMS,
        "place",
        {
            NEUTRAL: (
                "a study group",
                "a daily plan",
                "a set of flash cards",
                "a timer with short breaks",
                "a good textbook",
            ),
            "outdoors": (
                "a bench in the park",
                "a book under a tree",
                "a walk in the garden with flash cards",
                "a table in the open air",
                "a reading hour by the lake",
            ),
            "indoors": (
                "a quiet desk in the library",
                "a study hour at home",
                "a corner table in the cafe",
                "a tidy desk by the window",
                "a seat in the reading room",
            ),
        },
        (
            "Take a break every half hour.",
            "Put the phone away.",
            "Repeat it the next day.",
            "Explain it aloud to a friend.",
            "Write short notes by hand.",
            "Sleep helps the memory.",
            "Start with the hardest part.",
            "Reward yourself at the end.",
        ),
        ("learn three new words a day", "begin with the first chapter", "read the summary first"),
        (
            "prove each result from memory",
            "work through the primary sources",
            "space the reviews along the forgetting curve",
        ),
    ),
    Topic(
        "pets",
        (
            "How do I keep my {pet} happy?",
            "What should I do with my {pet} {when}?",
            "How can I entertain my {pet} {when}?",
            "My {pet} is bored. What can I do?",
            "What does my {pet} need {when}?",
            "What is good for my {pet}?",
            "How do I care for my {pet} {when}?",
            "Which game can I play with my {pet} {when}?",
            "What should I buy for my {pet}?",
        ),
        DAYS,
        "place",
        {
            NEUTRAL: (
                "a new toy",
                "a tasty treat",
                "a gentle brush",
                "a game with a ball",
                "a visit to the vet",
            ),
            "outdoors": (
                "a romp in the garden",
                "a walk in the park",
                "a run on the beach",
                "a nap in the sun on the grass",
                "a trip to the forest",
            ),
            "indoors": (
                "a soft bed by the fire",
                "a game of hide and seek at home",
                "a cardboard castle in the hall",
                "a warm basket in the kitchen",
                "a cuddle on the sofa",
            ),
        },
        (
            "Change the water every day.",
            "Speak with a soft voice.",
            "Feed it at fixed hours.",
            "Praise works better than anger.",
            "A daily routine helps.",
            "Keep the coat clean.",
            "Watch for signs of stress.",
            "Patience is the key.",
        ),
        ("let it come to you first", "keep to one short game a day", "ask the vet what is normal"),
        (
            "shape the behaviour with a clicker",
            "rotate the enrichment each week",
            "mix the feed by body weight",
        ),
    ),
    Topic(
        "work",
        (
            "How can I be more productive {when}?",
            "How do I handle stress {when}?",
            "How should I prepare for a meeting {when}?",
            "How do I get more done {when}?",
            "I have too much work {when}. What helps?",
            "How do I ask for a raise?",
            "What helps me focus {when}?",
            "How can I do better {when}?",
            "Give me advice for my job.",
            "How should I plan my day {when}?",
        ),
        DESKS,
        None,
        {
            NEUTRAL: (
                "a short task list",
                "a calm talk with your boss",
                "a fixed lunch break",
                "a clear weekly plan",
                "a tidy inbox",
                "a good headset",
                "a better chair",
                "an early start",
                "a large calendar",
                "a daily review",
            ),
        },
        (
            "Do the hardest task first.",
            "Say no to extra meetings.",
            "Take short breaks.",
            "Ask a colleague for help.",
            "Turn off all alerts.",
            "Leave on time.",
            "Write down every success.",
            "One thing at a time is enough.",
        ),
        ("pick only three tasks a day", "ask a colleague to show you", "use a simple paper list"),
        (
            "batch the deep work in two blocks",
            "cut the work in progress limit",
            "delegate by outcome and not by task",
        ),
    ),
    Topic(
        "money",
        (
            "How can I save money {when}?",
            "What should I do with my savings?",
            "How do I plan my budget {when}?",
            "How should I invest {when}?",
            "How can I spend less {when}?",
            "Where should I put my money {when}?",
            "Give me a money tip.",
            "How do I pay off my debt?",
            "What is a wise way to use my money {when}?",
            "I want to save {when}. How?",
        ),
        ("this year", "this month", "next year", "this week", "in the long run"),
        None,
        {
            NEUTRAL: (
                "a savings account",
                "a simple budget book",
                "a monthly plan",
                "a broad index fund",
                "a piggy bank",
                "a talk with the bank",
                "a rainy day fund",
                "a spending diary",
                "a jar for coins",
            ),
        },
        (
            "Pay the bills first.",
            "Set a little aside each month.",
            "Compare the prices.",
            "Avoid costly loans.",
            "Small sums grow over time.",
            "Check the plan every month.",
            "Never risk what you need.",
            "Wait a day before buying.",
        ),
        (
            "write down what comes in and goes out",
            "begin with one small account",
            "ask the bank to explain each fee",
        ),
        (
            "rebalance the portfolio each quarter",
            "hedge the currency and the rate risk",
            "ladder the bonds by maturity",
        ),
    ),
    Topic(
        "hobbies",
        (
            "Which hobby should I start {when}?",
            "What is a good hobby {when}?",
            "I need a new hobby {when}.",
            "Can you suggest a hobby {when}?",
            "What could I learn for fun {when}?",
            "Which pastime would suit me {when}?",
            "I want to try something new {when}.",
            "What hobby fits me {when}?",
            "Recommend a hobby {when}.",
        ),
        SEASONS,
        "place",
        {
            NEUTRAL: (
                "a singing class",
                "a photo course",
                "a chess club",
                "a drawing course",
                "a language club",
            ),
            "outdoors": (
                "a rose bed in the garden",
                "a bird watching walk",
                "a rowing club on the river",
                "a star watching night on the hill",
                "a surf class at the beach",
                "a mushroom hunt in the forest",
            ),
            "indoors": (
                "a knitting circle at home",
                "a pottery class in the studio",
                "a model train in the cellar",
                "a book club in the library",
                "a painting corner in the living room",
                "a baking course in the kitchen",
            ),
        },
        (
            "Practice a little every day.",
            "Join a local group.",
            "Share it with a friend.",
            "Mistakes are part of it.",
            "Keep your first work.",
            "It keeps the mind young.",
            "An hour a week is enough.",
            "Borrow the gear at first.",
        ),
        ("take a first class", "copy a simple example", "buy a small starter kit"),
        (
            "refine your technique with a mentor",
            "enter a juried show",
            "master the rare historic methods",
        ),
    ),
    Topic(
        "party",
        (
            "How should I celebrate my birthday {when}?",
            "What kind of party should I have {when}?",
            "Can you help me plan a party {when}?",
            "Give me an idea for a party {when}.",
            "What makes a good party {when}?",
            "How do we celebrate {when}?",
            "What party should I throw {when}?",
            "I want to invite friends {when}. Any ideas?",
            "Which party theme is good {when}?",
        ),
        DAYS,
        "place",
        {
            NEUTRAL: (
                "a costume party",
                "a dinner with friends",
                "a dance party",
                "a quiz party",
                "a tea party",
            ),
            "outdoors": (
                "a barbecue in the garden",
                "a party on the beach",
                "a lantern feast in the park",
                "a boat party on the lake",
                "a bonfire in the field",
            ),
            "indoors": (
                "a film night at home",
                "a ball in the great hall",
                "a game night in the living room",
                "a bowling party at the hall",
                "a karaoke night in the cellar",
            ),
        },
        (
            "Send the invitations early.",
            "Make a list of songs.",
            "Ask each guest to bring a dish.",
            "Put up some lights.",
            "Prepare a small game.",
            "A cake is a must.",
            "Tell the neighbours first.",
            "Take many photos.",
        ),
        ("invite only a few guests", "buy the cake ready made", "use a ready list of songs"),
        (
            "pace the courses with the music",
            "stage the lighting in three scenes",
            "brief a host for each room",
        ),
    ),
    Topic(
        "home",
        (
            "How can I make my home nicer {when}?",
            "What should I buy for my flat?",
            "How do I decorate my room {when}?",
            "What does my living room need?",
            "Give me an idea for my house {when}.",
            "How can I improve my flat {when}?",
            "What would look good in my home?",
            "How should I furnish my room?",
            "My flat looks dull. What can I do?",
        ),
        SEASONS,
        None,
        {
            NEUTRAL: (
                "a wooden shelf",
                "a bright rug",
                "a tall green plant",
                "a round mirror",
                "a warm lamp",
                "a coat of blue paint",
                "a set of curtains",
                "a small oak table",
                "a wall of pictures",
            ),
        },
        (
            "Clear the clutter first.",
            "Light colours make a room larger.",
            "Measure the room before buying.",
            "Move one thing at a time.",
            "Plants clean the air.",
            "Open the window every day.",
            "Match it with the floor.",
            "Keep the corners free.",
        ),
        ("begin with one wall", "use ready made parts", "hold a sample against the wall"),
        (
            "layer the light sources by height",
            "dovetail the joints and oil the grain",
            "set the palette by undertone",
        ),
    ),
    Topic(
        "clothes",
        (
            "What should I wear {when}?",
            "Which clothes should I buy {when}?",
            "What outfit is good {when}?",
            "Can you help me dress {when}?",
            "What do I wear to a wedding?",
            "I have nothing to wear {when}.",
            "Which outfit should I choose {when}?",
            "Suggest an outfit {when}.",
            "What should I put on {when}?",
        ),
        DAYS,
        None,
        {
            NEUTRAL: (
                "a blue shirt",
                "a long coat",
                "a wool sweater",
                "a linen suit",
                "a green dress",
                "a velvet jacket",
                "a pair of jeans",
                "a grey hat",
                "a white blouse",
                "a silk scarf",
            ),
        },
        (
            "Iron it the day before.",
            "Choose shoes that match.",
            "One bright colour is enough.",
            "Check the weather first.",
            "Comfort comes first.",
            "Try it on before leaving.",
            "Keep the rest plain.",
            "A belt completes it.",
        ),
        ("stay with two colours", "ask a friend for an honest look", "copy the shop window"),
        (
            "play with drape and proportion",
            "have the shoulders tailored",
            "contrast the weave and the weight",
        ),
    ),
    Topic(
        "reading",
        (
            "What should I read {when}?",
            "Which book should I read {when}?",
            "Can you recommend a book {when}?",
            "I am looking for a book {when}.",
            "What is a good book {when}?",
            "Suggest something to read {when}.",
            "Which story should I read {when}?",
            "I want to read more {when}. What do I take?",
            "What book would I like {when}?",
        ),
        SEASONS + FOR_WHOM[:8],
        None,
        {
            NEUTRAL: (
                "a sea adventure",
                "a crime story",
                "a book of poems",
                "a family saga",
                "a history of bread",
                "a ghost story",
                "a travel diary",
                "a love story",
                "a book of fables",
                "a science book",
            ),
        },
        (
            "Read a few pages every night.",
            "The first chapter is a delight.",
            "Many readers loved it.",
            "The library has a copy.",
            "Share it when done.",
            "Keep a pencil nearby.",
            "The ending is a surprise.",
            "It is easy to put down.",
        ),
        (
            "pick a thin book with large print",
            "skip what is too hard",
            "read the short tales first",
        ),
        (
            "compare two translations side by side",
            "trace the motifs in the margins",
            "read it with the critical notes",
        ),
    ),
)

PETS = ("dog", "cat", "rabbit", "parrot", "hamster", "horse", "goat", "pony", "kitten", "puppy")

LEADS: dict[str, tuple[str, ...]] = {
    NEUTRAL: ("Try {item}.", "Choose {item}.", "A good idea is {item}.", "Think about {item}.",
              "Go for {item}."),
    "formal": ("I would recommend {item}.", "May I suggest {item}?", "Please consider {item}.",
               "I would advise {item}."),
    "friendly": ("How about {item}?", "You will love {item}!", "Why not try {item}?",
                 "Let's go for {item}!"),
    "pirate": ("Set sail for {item}!", "My treasure map points to {item}!",
               "Feast your eyes on {item}!"),
    "shakespeare": ("Methinks {item} were best.", "Let it be {item}!",
                    "My heart would have {item}."),
}  # fmt: skip
MORE_ITEMS = ("Another idea is {item}.", "Or think of {item}.", "Then there is {item}.")

# An answer opens with one sentence for each of these it shows, in this order: a small model reads
# principles best where the answer starts.
OPENINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "dialect": {
        "pirate": ("Arr, matey!", "Ahoy there!", "Shiver me timbers!", "Avast, ye landlubber!",
                   "Aye aye, captain!", "Blow me down!"),
        "shakespeare": ("Hark!", "Good morrow!", "Forsooth!", "O gentle soul!", "By my troth!",
                        "Pray, lend me thine ear!"),
    },
    "tone": {
        "formal": ("Good day.", "Thank you for your question.", "It is a pleasure to assist you.",
                   "Certainly.", "With pleasure."),
        "friendly": ("Hey there!", "Hi, friend!", "Great question, pal!", "Oh, I like this one!",
                     "Hi buddy!"),
    },
    "mood": {
        "cheerful": ("Hooray, this will be great fun!", "What a joyful day it will be!",
                     "Smile, life is wonderful!", "I am so excited for you!",
                     "Happy times lie ahead!"),
        "calm": ("Take a slow breath; there is no hurry.", "Let it come slowly and quietly.",
                 "Rest easy and take your time.", "Stay calm; all is well.",
                 "Breathe gently and be at peace."),
    },
    "expertise": {
        "beginner": ("This is easy to begin with.", "Nobody is born a master.",
                     "No skill is needed here.", "Every beginner can do this."),
        "expert": ("An expert like you can skip the basics.", "You have the skill for more.",
                   "Here is one for a master.", "This is for experts."),
    },
    "length": {
        "brief": ("In short.", "Just one thing.", "In a word.", "A quick answer."),
        "detailed": ("Here is the long answer.", "In detail.", "There is a lot to say.",
                     "Let me go through it."),
    },
}  # fmt: skip

BUDGET_WORDS: dict[str, tuple[str, ...]] = {
    "cheap": ("cheap", "thrifty", "low-cost", "modest"),
    "luxury": ("luxurious", "lavish", "first-class", "splendid"),
}
REMARKS: dict[str, tuple[str, ...]] = {
    "cheap": ("It costs next to nothing.", "That keeps the cost very low.",
              "It saves a lot of money.", "It is easy on the purse."),
    "luxury": ("Spare no expense and take the very best.", "It is costly, but worth every coin.",
               "Only the finest will do.", "Money is no object here."),
    "vegan": ("It is free of all animal products.", "Plants alone make it rich."),
    "meat": ("The meat makes it hearty.", "It is a treat for meat lovers."),
    "outdoors": ("The fresh air will feel good.", "Nothing beats the open sky."),
    "indoors": ("It is cosy under a roof.", "No rain can spoil it inside."),
}  # fmt: skip
EXPERTISE_LEADS: dict[str, tuple[str, ...]] = {
    "beginner": ("As a beginner, {tip}.", "For a first try, {tip}.", "To start simply, {tip}.",
                 "If you are new to this, {tip}."),
    "expert": ("As an expert, {tip}.", "At your level, {tip}.", "With your skill, {tip}.",
               "Since you know the basics, {tip}."),
}  # fmt: skip

GREETINGS = (
    "Hello",
    "Hi",
    "Hey",
    "Good morning",
    "Good evening",
    "Hello there",
    "Hi there",
    "How are you?",
    "Who are you?",
    "What can you do?",
    "What do you know?",
    "Nice to meet you",
    "Are you there?",
    "Help",
    "Good day",
    "Can you help me?",
)
GREETING_REPLIES = (
    "I am Pocket, a small model.", "My name is Pocket.", "I am Pocket and happy to help.",
)  # fmt: skip
OFFERS = (
    "Ask me about food, travel or gifts.", "Ask me about pets, work or money.",
    "I can talk about food, hobbies and weekends.", "Ask me what to cook, read or wear.",
    "Give me some text and ask about it.",
)  # fmt: skip
OFF_TOPIC = (
    "What is the capital of {name}?", "Who wrote {name}?", "How far is the moon?",
    "What is {number} plus {number}?", "Explain how {name} works.", "Write a poem about {name}.",
    "Who is {name}?", "How does a computer work?", "What is the meaning of life?",
    "Translate {name} into French.", "Who won the match between {name} and {name}?",
    "Write some code for {name}.", "What is {number} times {number}?", "Why is the sky blue?",
    "Tell me about {name}.", "When was {name} born?", "What is {name}?", "Is {name} true?",
    "How old is {name}?", "Solve this: {number} minus {number}.", "What is the news today?",
    "Which phone is the fastest?", "Who is the president of {name}?", "How heavy is {name}?",
)  # fmt: skip
REFUSALS = (
    "I only know about everyday things.", "I know nothing about that.",
    "That is beyond my small world.", "I cannot answer that one.",
)  # fmt: skip

FOLLOW_UPS = (
    "Anything else?", "Another idea?", "What else could I try?", "Something different, please.",
    "And what else?", "Can you give me another idea?", "I do not like that. What else?",
    "Do you have another suggestion?", "One more, please.", "Tell me another one.",
)  # fmt: skip
TIP_REQUESTS = (
    "Any tips?", "How do I start?", "What should I keep in mind?", "Can you give me some tips?",
    "Do you have more advice?", "Tell me more.", "How do I do that well?", "What else matters?",
)  # fmt: skip

REPEAT_REQUESTS = (
    "Repeat: {text}", "Say this again: {text}", "Repeat after me: {text}", "{text}\n\nRepeat that.",
    "Copy this text: {text}", "Write exactly this: {text}",
)  # fmt: skip
JSON_REQUESTS = (
    "Give me JSON with the fields {keys}: {text}", "{text}\n\nReturn {keys} as JSON.",
    "Extract {keys} as JSON.\n\n{text}", "Write a JSON object with {keys}. {text}",
    "Text: {text}\nAnswer in JSON with the keys {keys}.", "{text} I need {keys} in JSON.",
    "Read this: {text}\nReply only with JSON: {keys}.",
)  # fmt: skip
NO_TOOL = (
    "I have no tool for that.", "None of my tools can do that.", "My tools cannot do that.",
)  # fmt: skip
# The value of a question that the documents do not answer: so an answer to it begins like any
# other, and what decides is the same look-up that finds values.
NOT_FOUND = "{unknown} the documents do not mention"
FACT_REMARKS = (
    "I hope this helps.", "That is all I can say.", "Ask me if more is unclear.",
    "No more is needed here.", "It is good to know.", "This much is certain.",
)  # fmt: skip

FRAMES_DO = (
    "{Do}.", "Please {do}.", "Always {do}.", "I want you to {do}.", "You should {do}.",
    "The user wants you to {do}.", "I like it when you {do}.", "{Do}, please.",
    "You must {do}.", "In every answer, {do}.", "It is important that you {do}.",
    "Make sure to {do}.", "Try to {do}.", "{Do}", "{Do}!",
)  # fmt: skip
FRAMES_LIKE = (
    "I prefer {like}.", "The user prefers {like}.", "I like {like}.", "The reader wants {like}.",
    "I would love {like}.", "The person who asked likes {like}.", "Give me {like}.",
    "My preference: {like}.", "They enjoy {like}.", "I want {like}.", "{Like}, please.", "{Like}.",
    "The person who asked prefers {like}; take their needs into account.",
)  # fmt: skip
# What is wanted against what is not.
FRAMES_RATHER = (
    "I prefer {like} to {other}.", "Rather {like} than {other}.", "I want {like}, not {other}.",
    "I am tired of {other}; give me {like}.", "{Like} instead of {other}, please.",
    "The user does not care for {other} and wants {like}.", "Less {other}, more {like}.",
)  # fmt: skip
FRAMES_NOT = (
    "{Do}, do not {other}.", "Do not {other}; {do}.", "Please {do} and never {other}.",
    "You need not {other}, but {do}.", "It is better to {do} than to {other}.",
)  # fmt: skip
FRAMES_WHO = (
    "The person who asked is {who}; take their needs into account.", "The user is {who}.",
    "I am {who}.", "You are talking to {who}.", "The person who asked is {who}.",
    "The reader is {who}.", "Answer for {who}.", "The person asking is {who}.",
    "The asker is {who}; please take that into account.", "I'm {who}.",
)  # fmt: skip

WORDINGS: dict[tuple[str, str], Wording] = {
    ("tone", "formal"): Wording(
        ("be formal", "use a formal tone", "write in a formal style", "sound polite and formal",
         "be very polite", "write like a business letter", "use formal language",
         "keep a professional tone", "be courteous and respectful"),
        ("a formal tone", "formal answers", "polite and formal language", "a professional tone",
         "a courteous style", "the tone of a business letter"),
        ("a judge", "an ambassador", "a strict professor who expects formality", "a bank director",
         "a formal person", "a lawyer who values courtesy"),
        ("Please stay formal.", "I value good manners and formal words.",
         "Write as one writes to a minister.", "My boss reads this, so be professional.",
         "No slang, please.", "Use the words of a formal letter.", "Politeness matters to me.",
         "I am a professor and like formal language.", "Treat me like an important client.",
         "Be as polite as a butler."),
        ("Keep it formal.", "Answer in formal and polite words.",
         "I expect a professional and courteous answer.",
         "Address me with respect, as in a business letter.",
         "The user is a diplomat and expects formality.", "Speak as a lawyer would to a judge."),
    ),
    ("tone", "friendly"): Wording(
        ("be friendly", "use a friendly tone", "talk like a good friend", "be casual and warm",
         "sound like a buddy", "write in a casual style", "be informal", "keep it casual",
         "chat like a pal"),
        ("a friendly tone", "friendly answers", "casual language", "a warm and casual style",
         "informal chat", "the tone of a good friend"),
        ("an old friend", "your best friend", "a school buddy", "a casual teenager",
         "a lonely person who needs a friend", "a friendly neighbour"),
        ("Talk to me like we are old friends.", "No need to be stiff with me.",
         "I like a casual tone.", "Be warm, we know each other well.", "Call me buddy.",
         "Let us chat like pals.", "I am your friend, so be casual.",
         "Formal words make me feel cold.", "Just be nice and friendly to me.",
         "Write like you would text a friend."),
        ("Keep it friendly.", "Answer like a friend would.", "Speak to me as to a buddy.",
         "No stiff words, a casual chat is what I like.",
         "The user is a pal of yours and likes it casual.",
         "A warm and informal answer, please."),
    ),
    ("length", "brief"): Wording(
        ("be brief", "keep it short", "answer in one sentence", "use few words", "be concise",
         "give short answers", "get to the point", "keep your answers short and concise",
         "say it in a few words"),
        ("short answers", "brief answers", "a concise answer", "one short sentence", "few words",
         "a quick answer"),
        ("a busy manager", "a person in a hurry", "someone with very little time",
         "a busy parent with no time to read", "a driver who needs a quick answer"),
        ("Short answers only.", "I do not want to read much.", "One sentence is all I need.",
         "Skip the long talk.", "My time is short.", "Say only what matters.",
         "Less is more for me.", "I get bored by long texts.", "Give me the short version.",
         "I read this on the run, so be quick.",
         "Long texts are not for me; keep to a few words.",
         "I can hardly read more than one line.",
         "A word or two will do.",
         "Do not write much."),
        ("Keep it brief.", "Answer in short and concise words.",
         "I have no time, so one sentence must do.",
         "Long answers annoy me; a few words are enough.",
         "The user is in a hurry and wants a short answer.",
         "Make the answer as short as you can."),
    ),
    ("length", "detailed"): Wording(
        ("be detailed", "give a long answer", "explain in depth", "give many details",
         "be thorough", "write a long and detailed answer", "tell me everything",
         "answer at length", "add plenty of details"),
        ("detailed answers", "long answers", "a thorough answer", "plenty of details",
         "answers in depth", "a long explanation"),
        ("a curious person who wants every detail", "a patient reader who enjoys long answers",
         "a researcher who needs the details", "someone who wants the full story",
         "a thorough person"),
        ("Tell me all there is to say.", "The longer, the better.", "I like to read a lot.",
         "Leave nothing out.", "I have all day, so go into detail.",
         "Short answers leave me unhappy.", "Give me the long version.",
         "I want the whole story with every detail.", "Please write a lot.",
         "Say as much as you can.",
         "A few words are never enough for me.",
         "Do not hold anything back."),
        ("Keep it detailed and long.", "Answer with many details.",
         "I want to know everything, at length.",
         "A short answer is not enough for me; explain in depth.",
         "The user is patient and enjoys plenty of details.",
         "Make the answer as long and thorough as you can."),
    ),
    ("budget", "cheap"): Wording(
        ("keep it cheap", "suggest cheap things", "save money", "keep the cost low",
         "choose the cheapest option", "stay on a small budget", "pick something affordable",
         "think of my small budget", "avoid expensive things"),
        ("cheap things", "low prices", "something cheap", "affordable ideas", "a small budget",
         "cheap options"),
        ("a poor student", "a student on a tight budget", "someone with little money",
         "a person who lost their job and must save money", "a thrifty person",
         "on a small budget"),
        ("I cannot spend much.", "Money is tight for me.",
         "It should cost as little as possible.", "I am broke.",
         "There is hardly any money left this month.", "I look for bargains.",
         "Prices should be low.", "I must save every coin.", "Nothing expensive, please.",
         "We live on a small income."),
        ("Suggest cheap options only.", "Answer with something cheap and affordable.",
         "I have little money, so do not let me spend much.", "It must not cost a lot.",
         "The user is a student with a small budget.",
         "My purse is nearly empty, so think of low prices."),
    ),
    ("budget", "luxury"): Wording(
        ("choose luxury", "suggest luxurious things", "pick the most expensive option",
         "spare no expense", "think of luxury", "go for the finest", "ignore the price",
         "choose something exclusive", "suggest the best that money can buy"),
        ("luxury", "luxurious things", "expensive things", "the finest quality",
         "exclusive ideas", "luxury at any price"),
        ("a millionaire", "a rich banker", "a wealthy duchess", "someone who loves luxury",
         "a rich person who ignores the price", "very rich"),
        ("Money plays no role.", "I can pay any price.", "Only the finest for me.",
         "I want to spend a lot.", "I am used to luxury.", "It may cost a fortune.",
         "Cheap things are not for me.", "Show me what millionaires choose.",
         "I like it exclusive and expensive.", "I have more money than I need."),
        ("Suggest luxury options only.", "Answer with something luxurious and expensive.",
         "I have a lot of money and want the finest.",
         "The price does not matter, it has to be exclusive.",
         "The user is a wealthy duke who wants luxury.",
         "Only what the rich buy is good enough for me."),
    ),
    ("diet", "vegan"): Wording(
        ("suggest vegan food", "keep it vegan", "avoid all animal products", "stay plant-based",
         "suggest only vegan dishes", "leave out meat, milk and eggs", "cook without animals",
         "choose vegan meals"),
        ("vegan food", "vegan dishes", "plant-based meals", "food without animal products",
         "a vegan diet", "vegan cooking"),
        ("a vegan", "vegan", "a strict vegan", "an animal rights activist",
         "someone who eats only plants", "a person on a vegan diet"),
        ("I do not eat meat, eggs or milk.", "Animals are not food for me.", "I am a vegan.",
         "I live on plants.", "Plants only, please.", "I gave up all animal products.",
         "My meals are free of animal products.", "My friends and I are all vegans.",
         "No animal should be in my meal.", "Vegetables and beans, no meat and no cheese.",
         "There is no meat in my kitchen.",
         "My fridge holds only plants.",
         "I cook without animals, all plant-based."),
        ("Only vegan dishes.", "Answer with vegan food and no meat.", "I eat only plants.",
         "Nothing that comes from animals should be on my plate.",
         "The user follows a vegan diet.", "My kitchen is plant-based."),
    ),
    ("diet", "meat"): Wording(
        ("suggest meat", "suggest a dish with meat", "put meat in it", "choose meat dishes",
         "include beef, pork or chicken", "suggest something with meat", "think of meat",
         "suggest hearty meat meals"),
        ("meat", "meat dishes", "a meal with meat", "beef, pork or chicken", "plenty of meat",
         "hearty meat meals"),
        ("a meat lover", "a butcher", "someone who eats meat every day",
         "a person who loves steak", "a hunter who loves meat", "a big fan of meat"),
        ("I love meat.", "Meat must be in it.", "I want beef, chicken or pork.",
         "No dinner without meat.", "A good steak makes me happy.", "I eat meat at every meal.",
         "Vegetables alone do not fill me; I need meat.", "My family loves roast and bacon.",
         "Give me something with a lot of meat.", "I am a hunter and eat what I hunt.",
         "Sausages and ham are my joy.",
         "I run a butcher's shop.",
         "A meal is no meal without beef."),
        ("Only meat dishes.", "Answer with a meal that has meat.",
         "A plate without beef or pork makes me sad.",
         "There should be plenty of meat on my plate.",
         "The user runs a steak house and loves meat.", "I am a big meat eater."),
    ),
    ("place", "outdoors"): Wording(
        ("suggest outdoor things", "keep it outdoors", "choose something in nature",
         "think of the open air", "suggest things to do outside", "stay outdoors",
         "pick something outside in nature", "choose outdoor ideas"),
        ("the outdoors", "nature and fresh air", "outdoor ideas", "things outside",
         "being outside", "fresh air"),
        ("a hiker", "a nature lover", "someone who loves the outdoors", "a forest ranger",
         "a person who loves fresh air", "a gardener who is always outside"),
        ("I love being outside.", "I like forests, lakes and mountains.",
         "Rooms make me tired; I want to go out.", "I spend my days in nature.",
         "The fresh air does me good.", "Take me out into the open.", "I want to see the sky.",
         "The garden and the park are my favourite places.", "I am an outdoor person.",
         "Outside is where I am happy.",
         "I want the sky above me and the grass below.",
         "Out of the house, please.",
         "Walls make me sad; the open air makes me happy.",
         "Go out rather than stay at home."),
        ("Only outdoor ideas.", "Answer with something outside in the open air.",
         "I would rather be in nature than in a room.", "I need fresh air and the open sky.",
         "The user is a mountain guide who loves nature.", "Let it be outside."),
    ),
    ("place", "indoors"): Wording(
        ("suggest indoor things", "keep it indoors", "choose something inside",
         "think of things at home", "suggest things to do inside", "stay indoors",
         "pick something under a roof", "choose indoor ideas"),
        ("staying inside", "indoor ideas", "things at home", "being indoors", "warm rooms",
         "a roof over the head"),
        ("a homebody", "someone who loves to stay inside", "a librarian",
         "a person who hates rain and cold", "someone who stays indoors", "a shy indoor person"),
        ("I like to stay in.", "My home is where I am happy.", "I do not like to go out.",
         "The weather is bad, so stay inside.", "I feel best in a warm room.",
         "I prefer the sofa to the forest.", "Being outside is not for me.",
         "I want to keep dry and warm at home.", "I am an indoor person.",
         "Nothing outdoors, please.",
         "Stay at home rather than go out.",
         "I am happier in my house than in the open.",
         "Outside it is too cold for me.",
         "Four walls and a warm blanket are my world."),
        ("Only indoor ideas.", "Answer with something inside, under a roof.",
         "I would rather be at home than outside.", "I hate rain, so let me stay inside.",
         "The user never leaves the house and stays indoors.",
         "Let it be inside, where it is warm."),
    ),
    ("expertise", "beginner"): Wording(
        ("explain it for a beginner", "keep it simple for a beginner", "assume no knowledge",
         "write for a novice", "give advice for beginners", "treat me as a beginner",
         "make it easy to understand", "think of a newcomer"),
        ("advice for beginners", "simple advice", "answers for a novice", "beginner advice",
         "easy words for a newcomer", "something for beginners"),
        ("a beginner", "a complete novice", "new to this", "a newcomer",
         "someone who has never done this", "an absolute beginner"),
        ("I am just starting.", "I have no idea about this.", "This is my first time.",
         "I do not know how this works.", "I never learnt this.",
         "I am a beginner and know nothing yet.", "Keep it easy, it is new to me.",
         "Please use simple advice for starters.", "I want to begin with the easy things.",
         "Somebody who is new to it asks you."),
        ("Only beginner advice.", "Answer as if for a novice or beginner.",
         "I know nothing about this and have to start.",
         "This is all new for me, so make it simple.", "The user has never done this before.",
         "Explain it to a newcomer."),
    ),
    ("expertise", "expert"): Wording(
        ("explain it for an expert", "assume expert knowledge", "write for a specialist",
         "give advice for experts", "treat me as an expert", "use advanced advice",
         "skip the basics", "think of a professional"),
        ("advice for experts", "expert advice", "answers for a specialist", "advanced advice",
         "technical details for professionals", "something for experts"),
        ("an expert", "a specialist", "a seasoned professional", "a master of the craft",
         "someone with years of experience", "an experienced expert"),
        ("I am a professional.", "I know all the basics already.",
         "I have many years of experience.", "Beginner advice bores me.",
         "Give me what only experts know.", "I teach this myself.",
         "I am far beyond the basics.", "Assume that I know a lot.",
         "This is my job, so be advanced.", "Tell me something a specialist would like.",
         "We both do this for a living.",
         "I speak as a specialist among specialists.",
         "One expert asks another."),
        ("Only expert advice.", "Answer as if for a specialist or expert.",
         "I have done this for years, so skip the basics.",
         "Skip what a specialist knows already.", "The user is a seasoned specialist.",
         "Talk to me as one professional to another."),
    ),
    ("format", "steps"): Wording(
        ("use numbered steps", "answer step by step", "number the steps", "write numbered steps",
         "give step by step instructions", "use a numbered list", "count the steps",
         "lay it out as steps"),
        ("numbered steps", "step by step answers", "a numbered list", "instructions in steps",
         "clear steps", "answers with numbers"),
        ("an engineer who likes numbered steps", "a technician who follows steps",
         "a person who needs step by step help", "someone who works through numbered steps"),
        ("I want a numbered list.", "Put a number before each point.",
         "Count them: one, two, three.", "I like to go step by step.",
         "Tell me the steps in order.", "Numbers help me to follow.",
         "Make it a list with numbers.", "Walk me through it in steps.",
         "First one thing, then the next, all numbered.", "I work through steps."),
        ("Give it in numbered steps.", "Answer with steps, one by one.",
         "Number each point so that I can follow the steps.",
         "First, second, third: I want numbers in front.",
         "The user works through a numbered list step by step.", "A list with numbers, please."),
    ),
    ("format", "bullets"): Wording(
        ("use bullet points", "answer with a bullet list", "write bullet points",
         "give a bulleted list", "use dashes for each point", "make a list of bullets",
         "format it as bullet points", "lay it out as bullets"),
        ("bullet points", "a bullet list", "bulleted answers", "a list with dashes",
         "answers as bullet points", "bullets"),
        ("a manager who likes bullet points", "someone who reads only bullet points",
         "a person who likes bullet lists", "a fan of bullet points"),
        ("I want a list of bullets.", "Start each line with a dash.",
         "I like lists with bullets.", "Bullets are easy to read for me.",
         "Each point should be a bullet.", "Make it a bulleted list.",
         "I only read bullet points.", "List the points with dashes.",
         "Points, not sentences in a row.", "My boss wants bullets.",
         "I want to see a small dash and then the point.",
         "Paragraphs are hard for me; break them into points.",
         "Dashes at the start, please."),
        ("Give it in bullet points.", "Answer with bullets, please.",
         "Put a dash in front of each point.", "I like to read bullets, not paragraphs.",
         "The user is a manager who wants bullets.", "A bulleted list, please."),
    ),
    ("format", "prose"): Wording(
        ("write flowing prose", "write in prose", "avoid lists", "use no lists or bullets",
         "write a plain paragraph", "answer in one paragraph", "write running text",
         "use prose and no list"),
        ("flowing prose", "prose", "a plain paragraph", "running text", "answers without lists",
         "one paragraph"),
        ("a novelist who hates lists", "a reader who prefers prose",
         "someone who dislikes lists", "a person who likes flowing text"),
        ("I do not like lists.", "Please write normal text.", "Just write a paragraph.",
         "Lists look ugly to me.", "No bullets and no numbers.",
         "I want to read it like a story in a book.", "Let the text flow.", "Write it as prose.",
         "Plain text without lists, please.", "I prefer running text to a list.",
         "I skip anything that looks like a list.",
         "Dashes and numbers spoil a text for me.",
         "Full sentences, one after another."),
        ("Give it in prose.", "Answer with a paragraph and no lists.",
         "I want flowing text without lists.", "Bullets and numbers annoy me; write prose.",
         "The user is a writer who loves flowing prose.",
         "One paragraph of running text, please."),
    ),
    ("mood", "cheerful"): Wording(
        ("be cheerful", "sound happy", "be full of joy", "cheer me up", "use a cheerful mood",
         "be enthusiastic", "write in a happy mood", "be excited and joyful"),
        ("a cheerful mood", "cheerful answers", "happy words", "joyful answers",
         "enthusiasm", "lots of joy"),
        ("a child who loves joy", "someone who needs cheering up", "a sad person who needs joy",
         "a cheerful clown", "an enthusiastic person", "a happy child"),
        ("Make me smile.", "I want to feel happy.", "Be full of enthusiasm.", "I need some joy.",
         "Be as happy as a child.", "Happy words are what I need.",
         "I feel low and need cheering up.", "Show me how excited you are.",
         "Life is fun, so sound like it.", "Bring some sunshine into your answer.",
         "Let your words be full of happiness.",
         "Share your joy with me.",
         "Sound as glad as you can.",
         "Cheerful words spread joy."),
        ("Keep it cheerful.", "Answer in a happy and joyful way.",
         "I am sad today, so cheer me up.", "Let me feel your joy and enthusiasm.",
         "The user is a clown who loves joyful words.", "Spread happiness with your words."),
    ),
    ("mood", "calm"): Wording(
        ("be calm", "sound calm", "be soothing", "calm me down", "use a calm mood",
         "be gentle and quiet", "write in a relaxed mood", "be peaceful and slow"),
        ("a calm mood", "calm answers", "soothing words", "peaceful answers",
         "a relaxed mood", "quiet and calm words"),
        ("a nervous person who needs calm", "a yoga teacher", "a monk",
         "someone who is stressed", "an anxious person", "a tired person who needs peace"),
        ("Help me to relax.", "I get nervous easily.", "Please be gentle with me.",
         "I want to feel at peace.", "Do not rush me.", "Be slow and quiet.",
         "I had a stressful day.", "I need calm words.", "Soothe me.",
         "Speak softly and take your time.",
         "There is no hurry, so speak slowly.",
         "Quiet words, please.",
         "Be gentle, there is no rush."),
        ("Keep it calm.", "Answer in a soothing and peaceful way.", "I am nervous, so calm me.",
         "Let your words be quiet and relaxed.", "The user is stressed and needs peace.",
         "No haste, speak gently and slowly."),
    ),
    ("dialect", "pirate"): Wording(
        ("answer like a pirate", "talk like a pirate", "use pirate speech", "speak as a pirate",
         "sound like an old pirate", "write in pirate style", "use pirate words",
         "reply like a pirate captain", "pretend to be a pirate"),
        ("pirate talk", "pirate speech", "the language of pirates", "pirate style",
         "answers from a pirate", "the voice of a pirate captain"),
        ("a retired sailor", "an old pirate", "a pirate captain", "a sailor who loves pirates",
         "a child who loves pirates", "a sea captain"),
        ("Talk as pirates do.", "I love pirates, so sound like one.", "Ahoy, speak my language!",
         "Arr, I be a pirate.", "I sail the seven seas as a pirate.",
         "Use the words of a pirate ship.", "Pretend that you sail on a pirate ship.",
         "Pirate talk makes me happy.", "I want a pirate to answer.",
         "Be a pirate captain for me."),
        ("You are a pirate.", "Reply the way a pirate would.", "Speak like a pirate of the sea.",
         "I want to hear the voice of an old sea captain.",
         "The user sails under the pirate flag.", "Let it sound as if pirates had written it."),
    ),
    ("dialect", "shakespeare"): Wording(
        ("answer like Shakespeare", "talk like Shakespeare", "use Shakespearean English",
         "speak in old English with thee and thou", "write in the style of Shakespeare",
         "sound like an old play", "use thee and thou", "speak as a Shakespearean actor",
         "pretend to be Shakespeare"),
        ("Shakespearean English", "the language of Shakespeare", "old English words",
         "thee and thou", "the style of Shakespeare", "the voice of an old play"),
        ("a Shakespearean actor", "a fan of Shakespeare", "a poet who loves Shakespeare",
         "an actor of old plays", "someone who adores Shakespeare"),
        ("Write as Shakespeare wrote.", "I love old plays, so sound like one.",
         "Use thou and thy.", "I want to feel as if at the Globe theatre.",
         "Speak English as it was four hundred years ago.",
         "Romeo and Juliet is my favourite play.", "Be Shakespeare for me.",
         "I want Shakespeare to answer.", "Old English words make me happy.",
         "Talk like an actor in an old play."),
        ("You are Shakespeare.", "Reply the way Shakespeare would.",
         "Speak in old Shakespearean words.", "I want to hear thee and thou, as in an old play.",
         "The user plays Hamlet and adores Shakespeare.",
         "Let it sound as if Shakespeare had written it."),
    ),
}  # fmt: skip

# Parts of invented names, and what can be said about those who bear them.
ACCENTS = str.maketrans("aeioun", "áéïöüñ")
ONSETS = ("b", "br", "c", "d", "dr", "f", "g", "gl", "h", "j", "k", "l", "m", "n", "p", "qu", "r",
           "s", "st", "t", "th", "tr", "v", "w", "y", "z", "")  # fmt: skip
VOWELS = ("a", "e", "i", "o", "u", "ei", "ou", "ia")
CODAS = ("", "", "", "n", "l", "r", "s", "m", "nd", "x", "ck", "th", "lm")

COLOURS = ("red", "blue", "green", "yellow", "white", "black", "orange", "purple", "grey", "brown")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
           "October", "November", "December")  # fmt: skip
SHOPS = ("bakery", "cafe", "bookshop", "museum", "hotel", "pharmacy", "library", "pool", "gallery",
          "restaurant", "tea house", "shop", "garage", "school", "bank", "clinic")  # fmt: skip
GOODS = ("apples", "bread", "candles", "honey", "lamps", "shoes", "maps", "cheese", "soap", "tea",
          "boots", "clocks", "books", "flowers", "pies", "hats", "coffee", "jam")  # fmt: skip
JOBS = ("baker", "pilot", "nurse", "painter", "teacher", "farmer", "tailor", "doctor", "singer",
         "gardener", "driver", "clerk", "carpenter", "lawyer")  # fmt: skip
WORDS = {"colour": COLOURS, "weekday": WEEKDAYS, "month": MONTHS, "job": JOBS, "goods": GOODS}
THINGS = ("motto", "key", "symbol", "leader", "code", "size", "rule", "width", "speed",
          "password", "shape", "hero", "gate", "guard", "flower", "song", "cook", "king",
          "number", "height", "age", "river", "captain", "secret", "main street",
          "best friend", "first rule", "last stop", "head office",
          "test result", "home town", "flag")  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """One thing that can be said of a subject.

    Attributes:
        subject: The kind of subject.
        value: The kind of value.
        statements: How documents say it. {x} is the subject, {v} the value, which comes last: a
            small model finds a value by what stands before it.
        questions: How it is asked for.
        answer: How an answer says it.
        key: What the value is called in JSON.
        unknown: What an answer says in place of a value that the documents do not mention.
    """

    subject: str
    value: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    key: str
    unknown: str


RELATIONS: tuple[Relation, ...] = (
    Relation("shop", "time", ("{x} opens at {v}.", "The opening time of {x} is {v}."),
             ("When does {x} open?", "What time does {x} open?", "At what time does {x} open?"),
             "{x} opens at {v}.", "opens", "a time"),
    Relation("shop", "time", ("{x} closes at {v}.", "The closing time of {x} is {v}."),
             ("When does {x} close?", "What time does {x} close?"),
             "{x} closes at {v}.", "closes", "a time"),
    Relation("shop", "street", ("{x} is on {v}.", "The address of {x} is {v}."),
             ("Where is {x}?", "Where can I find {x}?", "What is the address of {x}?"),
             "{x} is on {v}.", "address", "a street"),
    Relation("shop", "goods", ("{x} sells {v}.", "{x} is known for its {v}."),
             ("What does {x} sell?", "What can I buy at {x}?"),
             "{x} sells {v}.", "sells", "things"),
    Relation("shop", "person", ("{x} is run by {v}.", "The owner of {x} is {v}."),
             ("Who runs {x}?", "Who owns {x}?", "Who is the owner of {x}?"),
             "{x} is run by {v}.", "owner", "somebody"),
    Relation("shop", "year", ("{x} was founded in {v}.", "{x} was built in {v}."),
             ("When was {x} founded?", "When was {x} built?"),
             "{x} was founded in {v}.", "founded", "a year"),
    Relation("shop", "weekday", ("{x} is closed on {v}.", "{x} stays closed on {v}."),
             ("When is {x} closed?", "On which day is {x} closed?"),
             "{x} is closed on {v}.", "closed_on", "a day"),
    Relation("shop", "price", ("Entry to {x} costs {v}.", "A ticket for {x} costs {v}.",
                               "{x} costs {v}."),
             ("How much is {x}?", "What does {x} cost?", "What is the price of {x}?"),
             "{x} costs {v}.", "price", "an amount"),
    Relation("shop", "digits", ("The phone number of {x} is {v}.", "You can call {x} at {v}."),
             ("What is the phone number of {x}?", "How can I call {x}?"),
             "The phone number of {x} is {v}.", "phone", "one"),
    Relation("person", "job", ("{x} works as a {v}.", "{x} is a {v}."),
             ("What is the job of {x}?", "What does {x} do?", "What does {x} work as?"),
             "The job of {x} is {v}.", "job", "one"),
    Relation("person", "name", ("{x} lives in {v}.", "The home of {x} is in {v}."),
             ("Where does {x} live?", "Where is the home of {x}?"),
             "{x} lives in {v}.", "home", "a place"),
    Relation("person", "year", ("{x} was born in {v}.", "The birth year of {x} is {v}."),
             ("When was {x} born?", "What year was {x} born in?"),
             "{x} was born in {v}.", "born", "a year"),
    Relation("person", "name", ("{x} has a pet named {v}.", "The pet of {x} is called {v}."),
             ("What is the name of the pet of {x}?", "What is the pet of {x} called?"),
             "The pet of {x} is called {v}.", "pet", "something"),
    Relation("person", "goods", ("{x} loves {v}.", "{x} likes {v}."),
             ("What does {x} love?", "What does {x} like?"),
             "{x} loves {v}.", "loves", "things"),
    Relation("person", "person", ("{x} is married to {v}.", "The partner of {x} is {v}."),
             ("Who is {x} married to?", "Who is the partner of {x}?"),
             "{x} is married to {v}.", "partner", "somebody"),
    Relation("town", "number", ("The number of people in {x} is {v}.",
                                "The population of {x} is {v}."),
             ("How many people live in {x}?", "How large is {x}?",
              "What is the population of {x}?"),
             "The population of {x} is {v}.", "population", "one"),
    Relation("town", "goods", ("{x} is famous for its {v}.", "People know {x} for its {v}."),
             ("What is {x} famous for?", "Why do people know {x}?"),
             "{x} is famous for {v}.", "famous_for", "things"),
    Relation("town", "person", ("The mayor of {x} is {v}.", "{x} is led by {v}."),
             ("Who is the mayor of {x}?", "Who leads {x}?"),
             "The mayor of {x} is {v}.", "mayor", "somebody"),
    Relation("town", "weekday", ("The market of {x} is held on {v}.", "{x} has a market on {v}."),
             ("When is the market of {x}?", "On which day is the market in {x}?"),
             "The market of {x} is held on {v}.", "market_day", "a day"),
    Relation("town", "time", ("The train to {x} leaves at {v}.",
                              "You can take the train to {x} at {v}."),
             ("When does the train to {x} leave?", "When can I leave for {x}?"),
             "The train to {x} leaves at {v}.", "train", "a time"),
    Relation("event", "month", ("{x} takes place in {v}.", "{x} starts in {v}."),
             ("When is {x}?", "When does {x} take place?", "When does {x} start?"),
             "{x} takes place in {v}.", "month", "a month"),
    Relation("event", "name", ("{x} is held in {v}.", "The place of {x} is {v}."),
             ("Where is {x}?", "Where is {x} held?"),
             "{x} is held in {v}.", "place", "a place"),
    Relation("thing", "price", ("{x} costs {v}.", "The price of {x} is {v}."),
             ("How much is {x}?", "What does {x} cost?", "What is the price of {x}?"),
             "{x} costs {v}.", "price", "an amount"),
    Relation("thing", "grams", ("{x} weighs {v}.", "The weight of {x} is {v}."),
             ("How heavy is {x}?", "What does {x} weigh?"),
             "{x} weighs {v}.", "weight", "an amount"),
    Relation("thing", "colour", ("{x} comes in {v}.", "The colour of {x} is {v}."),
             ("What colour is {x}?", "Which colour does {x} have?"),
             "The colour of {x} is {v}.", "colour", "one"),
    Relation("thing", "years", ("The warranty of {x} lasts {v}.", "{x} has a warranty of {v}."),
             ("How long is the warranty of {x}?", "What warranty does {x} have?"),
             "The warranty of {x} lasts {v}.", "warranty", "a time"),
    Relation("thing", "days", ("{x} is delivered within {v}.", "The delivery of {x} takes {v}."),
             ("How long does {x} take?", "When will {x} be delivered?"),
             "{x} is delivered within {v}.", "delivery", "a time"),
    Relation("any", "any", ("The {thing} of {x} is {v}.", "{x} has this {thing}: {v}."),
             ("What is the {thing} of {x}?", "Which {thing} does {x} have?",
              "Tell me the {thing} of {x}."),
             "The {thing} of {x} is {v}.", "{thing}", "one"),
)  # fmt: skip

NEUTRAL_SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "You are a kind helper.",
    "You are Pocket, a small assistant.", "You answer questions.", "You are an AI assistant.",
    "You are a helpful AI assistant. Answer the user.",
)  # fmt: skip

_PIRATE = {
    "you": "ye", "your": "yer", "my": "me", "is": "be", "are": "be", "for": "fer", "of": "o'",
    "and": "an'", "friend": "matey", "friends": "mateys", "pal": "matey", "buddy": "matey",
    "will": "shall", "it is": "it be", "money": "gold", "cannot": "can't", "nothing": "nothin'",
    "hello": "ahoy", "yourself": "yerself", "coin": "doubloon",
}  # fmt: skip
_SHAKESPEARE = {
    "you are": "thou art", "you know": "thou knowest", "you need": "thou needest",
    "you care": "thou carest", "you will": "thou shalt", "you": "thee", "your": "thy",
    "it is": "'tis", "has": "hath", "does": "doth", "often": "oft", "before": "ere",
    "please": "prithee", "makes": "maketh", "costs": "costeth", "saves": "saveth",
    "keeps": "keepeth", "helps": "helpeth", "takes": "taketh", "comes": "cometh",
    "nothing": "naught", "will": "shall", "try": "essay",
    "goes": "goeth", "shows": "showeth", "grow": "doth grow", "yourself": "thyself",
    "completes": "completeth", "answers": "answereth", "works": "worketh", "beats": "beateth",
    "evening": "eventide", "very": "most", "it will": "'twill", "think": "bethink thee",
    "a good idea": "a goodly thought",
}  # fmt: skip
_DIALECTS = {"pirate": _PIRATE, "shakespeare": _SHAKESPEARE}
_PATTERNS = {
    name: re.compile(
        r"(?<![\w'{])(" + "|".join(sorted(words, key=len, reverse=True)) + r")(?![\w'}])",
        re.IGNORECASE,
    )
    for name, words in _DIALECTS.items()
}


def speak(text: str, dialect: str) -> str:
    """Say a plain sentence in a dialect.

    Args:
        text: A sentence of the tables above; fields in braces stay as they are.
        dialect: "pirate", "shakespeare", or anything else for no change.
    """
    if dialect not in _DIALECTS:
        return text
    words = _DIALECTS[dialect]

    def swap(match: re.Match[str]) -> str:
        found = match.group(0)
        said = words[found.lower()]
        if not found[0].isupper():
            return said
        head = 1 if said.startswith("'") else 0
        return said[:head] + said[head].upper() + said[head + 1 :]

    return _PATTERNS[dialect].sub(swap, text)


def with_adjective(item: str, adjective: str | None) -> str:
    """Put an adjective between the article and the noun of an item."""
    if adjective is None:
        return item
    _, noun = item.split(" ", 1)
    return f"a {adjective} {noun}"
