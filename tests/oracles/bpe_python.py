"""Byte-level BPE in plain Python and `regex`: the independent opinion on GGUF vocabularies."""

from itertools import pairwise
from pathlib import Path

import gguf
import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_chars() -> list[str]:
    """The character for each byte, as in OpenAI's GPT-2 encoder."""
    keep = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    keep += range(ord("®"), ord("ÿ") + 1)
    spare = iter(range(256, 512))
    return [chr(byte if byte in keep else next(spare)) for byte in range(256)]


class PythonBPE:
    """Cuts text as SmolLM does: at control tokens, at each digit, then by GPT-2's pattern."""

    def __init__(self, tokens: list[str], merges: list[str], control: list[str]) -> None:
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.rank = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.control = "|".join(regex.escape(t) for t in sorted(control, key=len, reverse=True))
        self.chars = byte_chars()

    @classmethod
    def from_gguf(cls, path: Path) -> "PythonBPE":
        fields = gguf.GGUFReader(path).fields
        tokens, merges, types = (
            fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges", "token_type")
        )
        control = [t for t, kind in zip(tokens, types, strict=True) if kind == 3]
        return cls(tokens, merges, control)

    def encode(self, text: str) -> list[int]:
        ids = []
        for part in regex.split(f"({self.control})", text) if self.control else [text]:
            if part in self.ids and regex.fullmatch(self.control, part):
                ids.append(self.ids[part])
                continue
            for run in regex.findall(r"\p{N}|\P{N}+", part):
                for word in regex.findall(GPT2, run):
                    ids += [self.ids[piece] for piece in self._merge(word)]
        return ids

    def _merge(self, word: str) -> list[str]:
        pieces = [self.chars[byte] for byte in word.encode()]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            best = min(pairs, key=lambda pair: self.rank.get(pair, len(self.rank)))
            if best not in self.rank:
                break
            merged, at = [], 0
            while at < len(pieces):
                whole = at + 1 < len(pieces) and (pieces[at], pieces[at + 1]) == best
                merged.append("".join(best) if whole else pieces[at])
                at += 2 if whole else 1
            pieces = merged
        return pieces
