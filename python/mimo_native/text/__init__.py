"""Text in, text out: tokenizers, streaming decode, chat templates."""

from .chat import ChatTemplate
from .mimo_template import MIMO_TEMPLATE
from .stream import TextStream
from .tokenizer import Tokenizer

__all__ = ["MIMO_TEMPLATE", "ChatTemplate", "TextStream", "Tokenizer"]
