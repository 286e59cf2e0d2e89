"""Text in, text out: tokenizers, streaming decode, chat templates, parsing of answers."""

from .chat import ChatTemplate
from .mimo_template import MIMO_TEMPLATE
from .stream import TextStream
from .tokenizer import Tokenizer
from .tools import Answer, ToolCall, parse_answer

__all__ = [
    "MIMO_TEMPLATE",
    "Answer",
    "ChatTemplate",
    "TextStream",
    "Tokenizer",
    "ToolCall",
    "parse_answer",
]
