"""What the small world consists of: topics, sentences and the words in which principles are told.

Generator and judge share these tables and nothing else. Every sentence is written in plain
English; `speak` turns it into a dialect word by word, so each table is kept once.
"""

import re
from dataclasses import dataclass, field

NEUTRAL = "neutral"

# How often a value appears when nobody asked for it. What is left over is neutral.
PRIOR: dict[str, dict[str, float]] = {
    "tone": {"formal": 0.22, "friendly": 0.22},
    "length": {"brief": 0.25, "detailed": 0.25},
    "budget": {"cheap": 0.18, "luxury": 0.18},
    "diet": {"vegan": 0.22, "meat": 0.22},
    "place": {"outdoors": 0.25, "indoors": 0.25},
    "expertise": {"beginner": 0.17, "expert": 0.17},
    "format": {"steps": 0.28, "bullets": 0.28, "prose": 0.44},
    "mood": {"cheerful": 0.2, "calm": 0.2},
    "dialect": {"pirate": 0.1, "shakespeare": 0.1},
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
    """The ways to ask for one value: what to do, what is preferred, and who is asking."""

    do: tuple[str, ...]
    like: tuple[str, ...]
    who: tuple[str, ...]
    unseen: tuple[str, ...] = field(default=())


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

OPENINGS: dict[str, tuple[str, ...]] = {
    "pirate": ("Arr, matey!", "Ahoy there!", "Shiver me timbers!", "Avast, ye landlubber!",
               "Aye aye, captain!", "Blow me down!"),
    "shakespeare": ("Hark!", "Good morrow!", "Forsooth!", "O gentle soul!", "By my troth!",
                    "Pray, lend me thine ear!"),
    "formal": ("Good day.", "Thank you for your question.", "It is a pleasure to assist you.",
               "Certainly.", "With pleasure."),
    "friendly": ("Hey there!", "Hi, friend!", "Great question, pal!", "Oh, I like this one!",
                 "Hi buddy!"),
}  # fmt: skip

CLOSINGS: dict[str, tuple[str, ...]] = {
    "cheerful": ("Hooray, this will be great fun!", "What a joyful day it will be!",
                 "Smile, life is wonderful!", "I am so excited for you!",
                 "Happy times lie ahead!"),
    "calm": ("Take a slow breath; there is no hurry.", "Let it come slowly and quietly.",
             "Rest easy and take your time.", "Stay calm; all is well.",
             "Breathe gently and be at peace."),
    "pirate": ("Now hoist the sails!", "Fair winds to ye!", "That be worth more than gold!",
               "Yo ho ho!"),
    "shakespeare": ("Fare thee well!", "Thus ends my counsel.", "So speak the stars.",
                    "May fortune smile upon thee!"),
    "formal": ("Kind regards.", "I remain at your service.", "Yours sincerely."),
    "friendly": ("Big hugs!", "Talk soon, pal!", "Tell me how it goes, buddy!"),
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

NOT_FOUND = (
    "The documents do not say that.", "I cannot find that here.", "The text does not tell.",
    "There is no answer to that here.",
)  # fmt: skip
FACT_REMARKS = (
    "I hope this helps.", "That answers your question.", "Ask me if more is unclear.",
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
        ("Keep it formal.", "Answer in formal and polite words.", "Be professional and formal.",
         "The user is a judge who expects a formal tone."),
    ),
    ("tone", "friendly"): Wording(
        ("be friendly", "use a friendly tone", "talk like a good friend", "be casual and warm",
         "sound like a buddy", "write in a casual style", "be informal", "keep it casual",
         "chat like a pal"),
        ("a friendly tone", "friendly answers", "casual language", "a warm and casual style",
         "informal chat", "the tone of a good friend"),
        ("an old friend", "your best friend", "a school buddy", "a casual teenager",
         "a lonely person who needs a friend", "a friendly neighbour"),
        ("Keep it friendly.", "Answer like a friend would.", "Be warm, casual and friendly.",
         "The user is a friend who likes a casual tone."),
    ),
    ("length", "brief"): Wording(
        ("be brief", "keep it short", "answer in one sentence", "use few words", "be concise",
         "give short answers", "get to the point", "keep your answers short and concise",
         "say it in a few words"),
        ("short answers", "brief answers", "a concise answer", "one short sentence", "few words",
         "a quick answer"),
        ("a busy manager", "a person in a hurry", "someone with very little time",
         "a busy parent with no time to read", "a driver who needs a quick answer"),
        ("Keep it brief.", "Answer in short and concise words.", "Be brief and to the point.",
         "The user is busy and wants a short answer."),
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
        ("Keep it detailed and long.", "Answer with many details.", "Be thorough and detailed.",
         "The user is curious and wants a long answer."),
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
        ("Suggest cheap options only.", "Answer with something cheap and affordable.",
         "I have little money, so keep it cheap.", "The user is a student with a small budget."),
    ),
    ("budget", "luxury"): Wording(
        ("choose luxury", "suggest luxurious things", "pick the most expensive option",
         "spare no expense", "think of luxury", "go for the finest", "ignore the price",
         "choose something exclusive", "suggest the best that money can buy"),
        ("luxury", "luxurious things", "expensive things", "the finest quality",
         "exclusive ideas", "luxury at any price"),
        ("a millionaire", "a rich banker", "a wealthy duchess", "someone who loves luxury",
         "a rich person who ignores the price", "very rich"),
        ("Suggest luxury options only.", "Answer with something luxurious and expensive.",
         "I have a lot of money, so choose luxury.", "The user is a rich person who loves luxury."),
    ),
    ("diet", "vegan"): Wording(
        ("suggest vegan food", "keep it vegan", "avoid all animal products", "stay plant-based",
         "suggest only vegan dishes", "leave out meat, milk and eggs", "cook without animals",
         "choose vegan meals"),
        ("vegan food", "vegan dishes", "plant-based meals", "food without animal products",
         "a vegan diet", "vegan cooking"),
        ("a vegan", "vegan", "a strict vegan", "an animal rights activist",
         "someone who eats only plants", "a person on a vegan diet"),
        ("Only vegan dishes.", "Answer with vegan food and no meat.", "I eat only vegan food.",
         "The user is vegan and eats no animal products."),
    ),
    ("diet", "meat"): Wording(
        ("suggest meat", "suggest a dish with meat", "put meat in it", "choose meat dishes",
         "include beef, pork or chicken", "suggest something with meat", "think of meat",
         "suggest hearty meat meals"),
        ("meat", "meat dishes", "a meal with meat", "beef, pork or chicken", "plenty of meat",
         "hearty meat meals"),
        ("a meat lover", "a butcher", "someone who eats meat every day",
         "a person who loves steak", "a hunter who loves meat", "a big fan of meat"),
        ("Only meat dishes.", "Answer with a meal that has meat.", "I eat meat every day.",
         "The user is a butcher and loves meat."),
    ),
    ("place", "outdoors"): Wording(
        ("suggest outdoor things", "keep it outdoors", "choose something in nature",
         "think of the open air", "suggest things to do outside", "stay outdoors",
         "pick something outside in nature", "choose outdoor ideas"),
        ("the outdoors", "nature and fresh air", "outdoor ideas", "things outside",
         "being outside", "fresh air"),
        ("a hiker", "a nature lover", "someone who loves the outdoors", "a forest ranger",
         "a person who loves fresh air", "a gardener who is always outside"),
        ("Only outdoor ideas.", "Answer with something outside in the open air.",
         "I love nature and the outdoors.", "The user is a hiker who loves nature."),
    ),
    ("place", "indoors"): Wording(
        ("suggest indoor things", "keep it indoors", "choose something inside",
         "think of things at home", "suggest things to do inside", "stay indoors",
         "pick something under a roof", "choose indoor ideas"),
        ("staying inside", "indoor ideas", "things at home", "being indoors", "warm rooms",
         "a roof over the head"),
        ("a homebody", "someone who loves to stay inside", "a librarian",
         "a person who hates rain and cold", "someone who stays indoors", "a shy indoor person"),
        ("Only indoor ideas.", "Answer with something inside, under a roof.",
         "I love to stay indoors at home.", "The user is a homebody who stays inside."),
    ),
    ("expertise", "beginner"): Wording(
        ("explain it for a beginner", "keep it simple for a beginner", "assume no knowledge",
         "write for a novice", "give advice for beginners", "treat me as a beginner",
         "make it easy to understand", "think of a newcomer"),
        ("advice for beginners", "simple advice", "answers for a novice", "beginner advice",
         "easy words for a newcomer", "something for beginners"),
        ("a beginner", "a complete novice", "new to this", "a newcomer",
         "someone who has never done this", "an absolute beginner"),
        ("Give beginner advice.", "Answer as if for a novice or beginner.",
         "I am new to this and know nothing.", "The user is a beginner and needs simple advice."),
    ),
    ("expertise", "expert"): Wording(
        ("explain it for an expert", "assume expert knowledge", "write for a specialist",
         "give advice for experts", "treat me as an expert", "use advanced advice",
         "skip the basics", "think of a professional"),
        ("advice for experts", "expert advice", "answers for a specialist", "advanced advice",
         "technical details for professionals", "something for experts"),
        ("an expert", "a specialist", "a seasoned professional", "a master of the craft",
         "someone with years of experience", "an experienced expert"),
        ("Give expert advice.", "Answer as if for a specialist or expert.",
         "I am experienced, so skip the basics.",
         "The user is an expert and needs advanced advice."),
    ),
    ("format", "steps"): Wording(
        ("use numbered steps", "answer step by step", "number the steps", "write numbered steps",
         "give step by step instructions", "use a numbered list", "count the steps",
         "lay it out as steps"),
        ("numbered steps", "step by step answers", "a numbered list", "instructions in steps",
         "clear steps", "answers with numbers"),
        ("an engineer who likes numbered steps", "a technician who follows steps",
         "a person who needs step by step help", "someone who works through numbered steps"),
        ("Give it in numbered steps.", "Answer with steps, one by one.",
         "I want a step by step answer.", "The user is an engineer who wants steps."),
    ),
    ("format", "bullets"): Wording(
        ("use bullet points", "answer with a bullet list", "write bullet points",
         "give a bulleted list", "use dashes for each point", "make a list of bullets",
         "format it as bullet points", "lay it out as bullets"),
        ("bullet points", "a bullet list", "bulleted answers", "a list with dashes",
         "answers as bullet points", "bullets"),
        ("a manager who likes bullet points", "someone who reads only bullet points",
         "a person who likes bullet lists", "a fan of bullet points"),
        ("Give it in bullet points.", "Answer with bullets, please.",
         "I want a list with bullet points.", "The user is a manager who wants bullets."),
    ),
    ("format", "prose"): Wording(
        ("write flowing prose", "write in prose", "avoid lists", "use no lists or bullets",
         "write a plain paragraph", "answer in one paragraph", "write running text",
         "use prose and no list"),
        ("flowing prose", "prose", "a plain paragraph", "running text", "answers without lists",
         "one paragraph"),
        ("a novelist who hates lists", "a reader who prefers prose",
         "someone who dislikes lists", "a person who likes flowing text"),
        ("Give it in prose.", "Answer with a paragraph and no lists.",
         "I want flowing text without lists.", "The user is a novelist who prefers prose."),
    ),
    ("mood", "cheerful"): Wording(
        ("be cheerful", "sound happy", "be full of joy", "cheer me up", "use a cheerful mood",
         "be enthusiastic", "write in a happy mood", "be excited and joyful"),
        ("a cheerful mood", "cheerful answers", "happy words", "joyful answers",
         "enthusiasm", "lots of joy"),
        ("a child who loves joy", "someone who needs cheering up", "a sad person who needs joy",
         "a cheerful clown", "an enthusiastic person", "a happy child"),
        ("Keep it cheerful.", "Answer in a happy and joyful way.", "Be cheerful and happy.",
         "The user is sad and needs cheerful words."),
    ),
    ("mood", "calm"): Wording(
        ("be calm", "sound calm", "be soothing", "calm me down", "use a calm mood",
         "be gentle and quiet", "write in a relaxed mood", "be peaceful and slow"),
        ("a calm mood", "calm answers", "soothing words", "peaceful answers",
         "a relaxed mood", "quiet and calm words"),
        ("a nervous person who needs calm", "a yoga teacher", "a monk",
         "someone who is stressed", "an anxious person", "a tired person who needs peace"),
        ("Keep it calm.", "Answer in a soothing and peaceful way.", "Be calm and gentle.",
         "The user is nervous and needs calm words."),
    ),
    ("dialect", "pirate"): Wording(
        ("answer like a pirate", "talk like a pirate", "use pirate speech", "speak as a pirate",
         "sound like an old pirate", "write in pirate style", "use pirate words",
         "reply like a pirate captain", "pretend to be a pirate"),
        ("pirate talk", "pirate speech", "the language of pirates", "pirate style",
         "answers from a pirate", "the voice of a pirate captain"),
        ("a retired sailor", "an old pirate", "a pirate captain", "a sailor who loves pirates",
         "a child who loves pirates", "a sea captain"),
        ("You are a pirate.", "Reply the way a pirate would.", "Speak like a pirate of the sea.",
         "The user is a retired pirate sailor."),
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
        ("You are Shakespeare.", "Reply the way Shakespeare would.",
         "Speak in old Shakespearean words.", "The user is an actor who loves Shakespeare."),
    ),
}  # fmt: skip

# Parts of invented names, and what can be said about those who bear them.
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
THINGS = ("motto", "key", "symbol", "leader", "code", "size", "rule", "name", "width", "speed",
           "password", "shape", "hero", "gate", "guard", "flower", "song", "cook", "king",
           "number", "height", "age", "river", "captain", "secret", "main street",
           "best friend", "first rule", "last stop", "head office",
           "test result", "home town", "flag")  # fmt: skip

# (subject, statements, questions). {x} is the subject; the other fields are drawn anew.
FACTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "shop",
        ("{x} opens at {time}.", "The opening time of {x} is {time}.", "{x} is open from {time}."),
        ("When does {x} open?", "What time does {x} open?", "At what time does {x} open?"),
    ),
    (
        "shop",
        ("{x} closes at {time}.", "The closing time of {x} is {time}."),
        ("When does {x} close?", "What time does {x} close?", "How late is {x} open?"),
    ),
    (
        "shop",
        (
            "{x} is on {name} Street.",
            "{x} stands on {name} Square.",
            "{x} is next to the {name} bridge.",
        ),
        ("Where is {x}?", "Where can I find {x}?", "What is the address of {x}?"),
    ),
    (
        "shop",
        (
            "{x} sells {goods} for {price}.",
            "{x} is known for its {goods}.",
            "{x} sells {colour} {goods}.",
        ),
        ("What does {x} sell?", "What can I buy at {x}?"),
    ),
    (
        "shop",
        (
            "{x} is run by {name} {name}.",
            "{x} belongs to {name}.",
            "The owner of {x} is {name} {name}.",
        ),
        ("Who runs {x}?", "Who owns {x}?", "Who is the owner of {x}?"),
    ),
    (
        "shop",
        ("{x} was founded in {year}.", "{x} was built in {year}."),
        ("When was {x} founded?", "How old is {x}?", "When was {x} built?"),
    ),
    (
        "shop",
        ("{x} has a {colour} door.", "The door of {x} is {colour}."),
        ("What colour is the door of {x}?", "Which colour does {x} have?"),
    ),
    (
        "shop",
        ("{x} is closed on {weekday}.", "{x} stays closed on {weekday}."),
        ("When is {x} closed?", "On which day is {x} closed?"),
    ),
    (
        "shop",
        (
            "A ticket at {x} costs {price}.",
            "Entry to {x} costs {price}.",
            "A meal at {x} costs {price}.",
        ),
        ("How much is {x}?", "What does {x} cost?", "What is the price at {x}?"),
    ),
    (
        "shop",
        ("The phone number of {x} is {digits}.", "You can call {x} at {digits}."),
        ("What is the phone number of {x}?", "How can I call {x}?"),
    ),
    (
        "person",
        ("{x} works as a {job}.", "{x} is a {job} in {name}.", "{x} is a {job}."),
        ("What is the job of {x}?", "What does {x} do?", "What does {x} work as?"),
    ),
    (
        "person",
        ("{x} lives in {name}.", "{x} lives on {name} Street.", "The home of {x} is in {name}."),
        ("Where does {x} live?", "Where is the home of {x}?"),
    ),
    (
        "person",
        ("{x} was born in {year}.", "{x} was born in {name} in {year}."),
        ("When was {x} born?", "What year was {x} born in?"),
    ),
    (
        "person",
        ("{x} has a {pet} named {name}.", "The {pet} of {x} is called {name}."),
        ("Which pet does {x} have?", "What is the name of the pet of {x}?"),
    ),
    (
        "person",
        ("{x} loves {goods}.", "{x} likes {colour} {goods}."),
        ("What does {x} love?", "What does {x} like?"),
    ),
    (
        "person",
        ("{x} is married to {name} {name}.", "The best friend of {x} is {name}."),
        ("Who is close to {x}?", "Who is the partner of {x}?", "Who is the friend of {x}?"),
    ),
    (
        "town",
        ("{x} has {number} inhabitants.", "{number} people live in {x}."),
        ("How many people live in {x}?", "How large is {x}?"),
    ),
    (
        "town",
        ("{x} is famous for its {goods}.", "People know {x} for its {goods}."),
        ("What is {x} famous for?", "Why do people know {x}?"),
    ),
    (
        "town",
        ("The mayor of {x} is {name} {name}.", "{name} {name} is the mayor of {x}."),
        ("Who is the mayor of {x}?", "Who leads {x}?"),
    ),
    (
        "town",
        ("The market of {x} is held on {weekday}.", "{x} has a market every {weekday}."),
        ("When is the market of {x}?", "On which day is the market in {x}?"),
    ),
    (
        "town",
        (
            "The train to {x} leaves at {time}.",
            "The bus to {x} leaves at {time} from platform {small}.",
        ),
        ("When does the train to {x} leave?", "How do I get to {x}?", "When can I leave for {x}?"),
    ),
    (
        "event",
        ("{x} takes place in {month}.", "{x} starts on {weekday} at {time}."),
        ("When is {x}?", "When does {x} take place?", "When does {x} start?"),
    ),
    (
        "event",
        ("{x} is held in {name}.", "{x} takes place at the {name} {shop}."),
        ("Where is {x}?", "Where does {x} take place?"),
    ),
    (
        "thing",
        ("{x} costs {price}.", "The price of {x} is {price}."),
        ("How much is {x}?", "What does {x} cost?", "What is the price of {x}?"),
    ),
    (
        "thing",
        ("{x} weighs {number} grams.", "The weight of {x} is {number} grams."),
        ("How heavy is {x}?", "What does {x} weigh?"),
    ),
    (
        "thing",
        ("{x} comes in {colour}.", "{x} is made of {colour} glass."),
        ("What colour is {x}?", "Which colour does {x} have?"),
    ),
    (
        "thing",
        ("The warranty of {x} lasts {small} years.", "{x} has a warranty of {small} years."),
        ("How long is the warranty of {x}?", "What warranty does {x} have?"),
    ),
    (
        "thing",
        ("{x} is delivered within {small} days.", "{x} can be returned within {small} days."),
        (
            "How long does {x} take?",
            "How many days are there for {x}?",
            "What is the time limit for {x}?",
        ),
    ),
    (
        "any",
        ("The {thing} of {x} is {any}.", "{x} has {any} as its {thing}."),
        (
            "What is the {thing} of {x}?",
            "Which {thing} does {x} have?",
            "Tell me the {thing} of {x}.",
        ),
    ),
)

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
