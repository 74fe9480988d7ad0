"""The words of the demo's stories, in English and French.

In French the adjective stands between article and noun and begins with a consonant, so that no
article is elided. All characters are masculine, so that "il" can be any of them.
"""

from typing import NamedTuple

LANGUAGES = ("en", "fr")
CHARACTERS = (
    ("The bear", "L'ours"),
    ("The fox", "Le renard"),
    ("The wolf", "Le loup"),
    ("The cat", "Le chat"),
    ("The king", "Le roi"),
    ("The boy", "Le garçon"),
)
OPENERS = (("Then he", "Puis il"), ("Now he", "Maintenant il"), ("So he", "Alors il"))
# French forms by gender and number: masculine, feminine, and their plurals.
ADJECTIVES = (
    ("little", {"m": "petit", "f": "petite", "mp": "petits", "fp": "petites"}),
    ("big", {"m": "grand", "f": "grande", "mp": "grands", "fp": "grandes"}),
    ("pretty", {"m": "joli", "f": "jolie", "mp": "jolis", "fp": "jolies"}),
)
ARTICLES = {"m": "le", "f": "la", "mp": "les", "fp": "les"}


class Event(NamedTuple):
    """An action and its object, in English and French."""

    verb: tuple[str, str]
    noun: tuple[str, str]
    form: str  # gender and number of the French noun


class Place(NamedTuple):
    """A place of stories: the words of the arrival, and the events of a day there in order."""

    arrival: tuple[str, str]
    events: tuple[Event, ...]


PLACES = (
    Place(
        ("goes to the farm", "va à la ferme"),
        (
            Event(("feeds", "nourrit"), ("cows", "vaches"), "fp"),
            Event(("milks", "trait"), ("goat", "chèvre"), "f"),
            Event(("washes", "lave"), ("horse", "cheval"), "m"),
            Event(("pulls", "tire"), ("cart", "charrette"), "f"),
            Event(("plants", "plante"), ("potatoes", "patates"), "fp"),
            Event(("counts", "compte"), ("hens", "poules"), "fp"),
        ),
    ),
    Place(
        ("sails on the sea", "navigue sur la mer"),
        (
            Event(("raises", "hisse"), ("flag", "drapeau"), "m"),
            Event(("throws", "jette"), ("net", "filet"), "m"),
            Event(("catches", "attrape"), ("fish", "poisson"), "m"),
            Event(("watches", "regarde"), ("whale", "baleine"), "f"),
            Event(("follows", "suit"), ("waves", "vagues"), "fp"),
            Event(("finds", "trouve"), ("island", "île"), "f"),
        ),
    ),
    Place(
        ("enters the classroom", "entre dans la classe"),
        (
            Event(("opens", "ouvre"), ("book", "livre"), "m"),
            Event(("reads", "lit"), ("poem", "poème"), "m"),
            Event(("writes", "écrit"), ("letters", "lettres"), "fp"),
            Event(("draws", "dessine"), ("map", "carte"), "f"),
            Event(("sings", "chante"), ("song", "chanson"), "f"),
            Event(("cleans", "nettoie"), ("board", "tableau"), "m"),
        ),
    ),
    Place(
        ("works in the kitchen", "travaille dans la cuisine"),
        (
            Event(("peels", "pèle"), ("carrots", "carottes"), "fp"),
            Event(("cuts", "coupe"), ("bread", "pain"), "m"),
            Event(("cooks", "cuit"), ("soup", "soupe"), "f"),
            Event(("bakes", "prépare"), ("cake", "gâteau"), "m"),
            Event(("sets", "met"), ("table", "table"), "f"),
            Event(("dries", "essuie"), ("plates", "plats"), "mp"),
        ),
    ),
    Place(
        ("walks into the forest", "marche dans la forêt"),
        (
            Event(("smells", "sent"), ("flowers", "fleurs"), "fp"),
            Event(("picks", "cueille"), ("mushrooms", "champignons"), "mp"),
            Event(("climbs", "grimpe sur"), ("tree", "sapin"), "m"),
            Event(("hears", "entend"), ("birds", "moineaux"), "mp"),
            Event(("crosses", "traverse"), ("river", "rivière"), "f"),
            Event(("lights", "allume"), ("fire", "feu"), "m"),
        ),
    ),
    Place(
        ("plays at the castle", "joue au château"),
        (
            Event(("knocks at", "frappe à"), ("door", "porte"), "f"),
            Event(("greets", "salue"), ("queen", "reine"), "f"),
            Event(("wears", "porte"), ("crown", "couronne"), "f"),
            Event(("rings", "sonne"), ("bell", "cloche"), "f"),
            Event(("fights", "combat"), ("dragon", "dragon"), "m"),
            Event(("hides", "cache"), ("gold coins", "pièces"), "fp"),
        ),
    ),
)


def tell(event: Event, opener: int, adjective: int, language: str) -> str:
    """Return the sentence of an event, such as "Puis il nourrit les petites vaches."."""
    number = LANGUAGES.index(language)
    english, french = ADJECTIVES[adjective]
    if language == "en":
        thing = f"the {english} {event.noun[number]}"
    else:
        thing = f"{ARTICLES[event.form]} {french[event.form]} {event.noun[number]}"
    return f"{OPENERS[opener][number]} {event.verb[number]} {thing}."
