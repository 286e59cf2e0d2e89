"""Instructions in SmolLM2's chat format with answers that can be checked, and ordinary requests.

Two tasks that SmolLM2-135M cannot do: sums, differences and products answered as a bare number, and
four words put in alphabetical order. No sum and no set of words is asked twice, held-out ones
included; wordings and words are shared. The third domain, requests as one makes them of an
assistant, has no answers: what the model itself says is the measure.
"""

import json
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from ..speedrun.tasks import write_text

__all__ = ["SELF", "TASKS", "chat", "write_tasks"]

SELF = "chat"
TASKS = ("sums", "words")

_SUMS = ("What is {}?", "Compute {}.", "{} =", "How much is {}? Only the number.")
_ORDERS = (
    "Sort these words alphabetically: {}",
    "Put in alphabetical order: {}",
    "Alphabetical order, please: {}",
)


def _parts(text: str, between: str | None = None) -> list[str]:
    return [" ".join(part.split()) for part in text.split(between)]


_WORDS = _parts("""
    air apple arm art baby bag ball bank bed bell bird boat book box boy bread bridge bus cake camp
    car card cat chair child church city class clock cloud coat corn cow cup day desk doctor dog
    door dream dress ear earth egg eye face farm father field fire fish floor flower food foot
    forest friend fruit game garden girl glass gold grass hair hand hat heart hill home horse
    hospital hotel house ice island job juice key king kitchen lake lamp leaf leg letter light lion
    lunch map market milk mind money moon morning mother mountain mouse mouth music name neck night
    nose ocean office oil orange page paint paper park party pen picture plane plant plate queen
    rain ring river road rock roof room salt sand school sea seat shirt shoe shop sister sky sleep
    snow soap song soup spoon star stone street sugar summer sun table tea teacher town train tree
    uncle valley village voice wall watch water wave week wheel wind window winter wood year
""")
_COUNT = 4  # words to sort

_ASKS = (
    "Tell me about {}.",
    "What do you know about {}?",
    "Explain {} to a child.",
    "Write a short paragraph about {}.",
    "Give me some advice about {}.",
    "Why are people interested in {}?",
    "Write two sentences about {}.",
    "What should a beginner learn about {}?",
    "What is the best thing about {}?",
    "Write a friendly e-mail to a colleague about {}.",
)
_TOPICS = _parts(
    """
    the weather; healthy food; learning a language; the history of Rome; growing tomatoes; the
    solar system; good manners; saving money; classical music; computer programming; riding a
    bicycle; the ocean; climate change; cooking rice; the human heart; job interviews; public
    speaking; old castles; wild birds; the internet; planning a holiday; reading books; chess;
    electric cars; the Olympic Games; moving to another city; a job at a hospital; volcanoes;
    photography; the theatre; making friends; a new puppy; writing stories; small businesses;
    museums; running a marathon; the French Revolution; bees and honey; keeping a diary; renting a
    flat; folk dances; trains; the Sahara; mathematics at school; winter sports; good sleep; house
    plants; fairy tales; artificial intelligence; baking bread; camping in the mountains; the human
    brain; knitting; recycling; the stock market; Japanese food; dinosaurs; time management; the
    moon; learning the piano; sharks; a birthday party; doing the laundry; modern art; the police;
    ancient Egypt; swimming; teaching children; earthquakes; coffee; democracy; jazz; working from
    home; fishing; the rain forest; first aid; shopping for clothes; yoga; bridges; farm animals
    """,
    ";",
)
_UNSEEN = 16  # topics at the end that only held-out requests have


def chat(request: str) -> str:
    """A user's turn and the beginning of the answer, without a system message."""
    return f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n"


def write_tasks(directory: str | Path, *, train: int, heldout: int, seed: int = 0) -> Path:
    """Write DOMAIN.jsonl and DOMAIN.heldout.jsonl; of the chat only requests, DOMAIN.asked.jsonl in
    place of the latter. A pure function of the arguments; there are 640 and 160 requests at most.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, source in (("sums", _sums), ("words", _sorted_words)):
        pairs = source(random.Random(f"{name} {seed}"))
        # Held-out ones first: there are only 720 products, so that the later ones are fewer.
        for part, count in ((".heldout", heldout), ("", train)):
            rows = [next(pairs) for _ in range(count)]
            content = [{"prompt": chat(ask), "answer": answer} for ask, answer in rows]
            _write(directory / f"{name}{part}.jsonl", content)
    draw = random.Random(f"{SELF} {seed}")
    for part, topics in (("", _TOPICS[:-_UNSEEN]), (".asked", _TOPICS[-_UNSEEN:])):
        asked = [ask.format(topic) for ask, topic in product(_ASKS, topics)]
        draw.shuffle(asked)
        _write(directory / f"{SELF}{part}.jsonl", [{"prompt": chat(text)} for text in asked])
    return directory


def _sums(draw: random.Random) -> Iterator[tuple[str, str]]:
    seen = set()
    while True:
        sign, a = draw.choice("+-*"), draw.randint(10, 99)
        b = draw.randint(2, 9) if sign == "*" else draw.randint(10, 99)
        if (sign, a, b) not in seen:
            seen.add((sign, a, b))
            value = {"+": a + b, "-": a - b, "*": a * b}[sign]
            yield draw.choice(_SUMS).format(f"{a} {sign} {b}"), str(value)


def _sorted_words(draw: random.Random) -> Iterator[tuple[str, str]]:
    seen = set()
    while True:
        words = draw.sample(_WORDS, _COUNT)
        answer = " ".join(sorted(words))
        if answer not in seen:
            seen.add(answer)
            yield draw.choice(_ORDERS).format(" ".join(words)), answer


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
