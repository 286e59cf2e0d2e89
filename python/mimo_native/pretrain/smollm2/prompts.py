"""What SmolLM2 is asked for, so that it writes the texts its heads learn from.

A request is a form filled with a subject. Subjects of held-out requests are never trained on, and
no wording or subject is one of ``mimo-native bench speculative``'s.
"""

import random
from collections.abc import Iterator
from itertools import count

__all__ = ["KINDS", "requests"]


def _parts(text: str) -> list[str]:
    return " ".join(text.split()).split("; ")


_LANGUAGES = ("Python", "Python", "Python", "JavaScript", "Java", "C", "C++", "Go", "Bash", "SQL")
_TASKS = _parts("""
    reverses a string; counts the vowels in a text; finds the largest number in an array; checks
    whether a word is a palindrome; merges two sorted lists; removes duplicates from a list;
    computes the factorial of a number; prints the Fibonacci sequence; tests whether a number is
    prime; converts Celsius to Fahrenheit; sorts a list of names; reads a CSV file and prints each
    row; counts how often each word occurs; finds the shortest path in a graph; searches a sorted
    array by bisection; computes the average of some numbers; validates an email address; parses a
    date; writes a dictionary to a JSON file; downloads a web page; finds all files with a given
    extension; rotates a matrix; transposes a matrix; multiplies two matrices; computes the greatest
    common divisor; converts a number to binary; capitalises every word; splits a text into
    sentences; removes punctuation from a string; finds the second largest element; flattens a
    nested list; zips two lists into a dictionary; groups people by age; filters even numbers; sums
    the digits of a number; generates a random password; simulates rolling two dice; draws a
    triangle of stars; prints a multiplication table; measures how long a function takes; retries a
    failing call three times; caches the results of a function; logs errors to a file; checks
    whether two strings are anagrams; computes compound interest; finds missing numbers in a
    sequence; inserts a node into a binary tree; walks a tree in order; detects a cycle in a linked
    list; sorts records by two keys; formats a phone number; counts lines in a file; replaces a word
    in a file; computes the median; normalises a vector; encodes a string with a Caesar cipher;
    checks balanced brackets; finds common elements of two arrays; splits a list into chunks;
    converts Roman numerals; estimates pi by random sampling; sends an HTTP request with headers;
    reads settings from environment variables; draws a bar chart of sales; connects to a database
    and lists all tables
""")
_CLASSES = _parts("""
    bank account with deposit and withdraw; rectangle with area and perimeter; shopping cart with
    add, remove and total; library of books with borrow and give_back; student with grades and an
    average; linked list with append and find; queue of jobs with put and get; timer with start and
    elapsed; matrix with addition and multiplication; graph with nodes and edges; car with speed and
    brakes; employee with salary and raise; playlist with songs and shuffle; phone book with add and
    look up; temperature sensor with read and history; chess board with moves; deck of cards with
    shuffle and deal; parking lot with free places; circle with radius and area; counter with
    increment and reset; logger with levels; cache with a size limit; binary tree with insert and
    depth; polynomial with evaluation; fraction with arithmetic; robot with position and steps;
    hotel with rooms and bookings; inventory with items and prices; address book with contacts;
    to-do list with tasks
""")
_THINGS = _parts("""
    countries in Europe; rivers of the world; farm animals; wild animals; fruits; vegetables;
    kitchen tools; musical instruments; kinds of sports; breakfast dishes; desserts; programming
    languages; planets and moons; famous painters; famous scientists; kinds of trees; flowers;
    birds; fish; insects; colours; board games; hobbies; jobs in a hospital; jobs in a school; tools
    in a workshop; parts of a car; parts of a computer; items to pack for a journey; gifts for a
    friend; ways to save money; ways to save water; ways to learn a language; tips for better sleep;
    tips for a job interview; healthy snacks; rules of good writing; questions for an interview;
    reasons to exercise; benefits of reading; mountains; islands; capital cities in Asia; languages
    of Africa; inventions of the last century; chemical elements; units of measurement; kinds of
    weather; emotions; body parts; kinds of cheese; kinds of bread; spices; drinks; pieces of
    furniture; kinds of clothing; means of transport; buildings in a city; shapes in geometry; steps
    to bake bread; steps to plant a tree; steps to change a tyre; ideas for a birthday party; names
    for a cat; names for a company; features of a good website; safety rules for a laboratory;
    ingredients of a soup; holidays; kinds of music; film genres; qualities of a leader
""")
_FORMS = {
    "scripts": (
        ("Write a {language} function that {task}.", "task"),
        ("Write a {language} program that {task}. Comment every step.", "task"),
        ("Show me code in {language} that {task}, and explain it.", "task"),
        ("I need a short {language} script which {task}.", "task"),
        ("Give two ways to write {language} code that {task}.", "task"),
        ("Write unit tests for a {language} function that {task}.", "task"),
        ("Implement a {language} class for a {class}.", "class"),
        ("Design a class for a {class} in {language}. Add a usage example.", "class"),
        ("Write a small {language} module: a {class}, documented.", "class"),
    ),
    "lists": (
        ("List {n} {thing}.", "thing"),
        ("Give me a numbered list of {n} {thing}.", "thing"),
        ("Name {n} {thing}, one per line.", "thing"),
        ("Make a bullet list of {thing}.", "thing"),
        ("Make a list of {n} {thing} with one sentence about each.", "thing"),
        ("What are some {thing}? Answer with a list.", "thing"),
        ("Write a table of {n} {thing} with two columns.", "thing"),
        ("Rank {n} {thing} and say why.", "thing"),
        ("Give {n} {thing} as a JSON array of objects.", "thing"),
    ),
}
KINDS = tuple(_FORMS)
_SUBJECTS = {"task": _TASKS, "class": _CLASSES, "thing": _THINGS}
_HELDOUT = 10  # one subject in so many


def requests(kind: str, *, seed: int = 0, heldout: bool = False) -> Iterator[str]:
    """Requests of one kind, without end and rarely the same twice: a function of the arguments.

    kind: one of ``KINDS``. heldout: those whose subjects the others never have.
    """
    draw = random.Random(f"{kind} {seed} {heldout}")
    for _ in count():
        form, slot = draw.choice(_FORMS[kind])
        subjects = [s for i, s in enumerate(_SUBJECTS[slot]) if (i % _HELDOUT == 3) == heldout]
        yield form.format(
            language=draw.choice(_LANGUAGES), n=draw.randint(4, 20), **{slot: draw.choice(subjects)}
        )
