"""Damaged, foreign and contradictory GGUF files: the right error, never a crash or half a model."""

import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimo_native.errors import CheckpointError, UnsupportedError
from mimo_native.weights.gguf import GGUFCheckpoint
from mimo_native.weights.gguf_file import GGUFFile

from .gguf_files import QUANTS, Llama, hub_weights, write

TINY = Llama(layers=1, hidden=32, heads=2, kv_heads=1, head_dim=32, inner=32, vocab=8)

COUNTS = st.integers(0, 3) | st.integers(0, 2**64 - 1)
NORM = "output_norm.weight"
# One file name under tmp_path serves all examples: each overwrites it.
MANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TINY, encoding=QUANTS.Q8_0)


def read_all(path):
    return {name: t.clone() for name, t in GGUFCheckpoint.open(path).items(dtype=torch.float32)}


def outcome(read, path):
    """What ``read`` makes of ``path``; None after an error of ours that names the file."""
    try:
        return read(path)
    except (CheckpointError, UnsupportedError) as error:
        if path.name in str(error):
            return None
        raise


def test_every_truncation_is_refused(tiny, tmp_path):
    data = tiny.read_bytes()
    header = min(t.offset for t in GGUFFile.read(tiny).tensors.values())
    cut = tmp_path / "cut.gguf"
    last = max(t.offset + t.nbytes for t in GGUFFile.read(tiny).tensors.values())
    for size in [*range(0, header, 7), header, (header + last) // 2, last - 1]:
        cut.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"cut\.gguf.*expected.*got") as caught:
            GGUFFile.read(cut)
        assert caught.value.remedy
    cut.write_bytes(data[:last])
    assert read_all(cut).keys() == hub_weights(TINY).keys()


@settings(MANY, max_examples=400)
@given(data=st.data())
def test_flipped_header_bytes_never_crash(tiny, tmp_path, data):
    """Any header bytes changed: either an error of ours naming the file, or a sound read."""
    raw = bytearray(tiny.read_bytes())
    header = min(t.offset for t in GGUFFile.read(tiny).tensors.values())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header - 1))
        raw[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "hit.gguf"
    path.write_bytes(raw)
    tensors = outcome(read_all, path)
    assert tensors is None or tensors.keys() >= {"model.norm.weight", "model.embed_tokens.weight"}


@settings(MANY, max_examples=200)
@given(body=st.binary(max_size=400), count=COUNTS, pairs=COUNTS)
def test_random_bytes_after_the_magic(tmp_path, body, count, pairs):
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, count, pairs) + body)
    file = outcome(GGUFFile.read, path)
    assert file is None or (len(file.tensors), len(file.metadata)) == (count, pairs)


def patch_header(tiny, path, old: bytes, new: bytes):
    data = tiny.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


def key(name: str) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode()


def row(name: str, dims: tuple[int, ...], code: int) -> bytes:
    return key(name) + struct.pack(f"<I{len(dims)}QI", len(dims), *dims, code)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"GGUF\x03", b"GGML\x03", "magic: expected b'GGUF', got b'GGML'"),
        (key("llama.vocab_size"), struct.pack("<Q", 2**63) + b"llama.vocab_size", "bytes left"),
        (key("llama.vocab_size"), key("llama.vocab_siz\xff")[:-2] + b"\xff", "UTF-8"),
        (row(NORM, (32,), 0), row(NORM, (32,), 99), "number 99"),
        (row(NORM, (32,), 0), row(NORM, (0,), 0), "positive sizes"),
        (row(NORM, (32,), 0), row(NORM, (2**62,), 0), "data up to"),
        (row(NORM, (32,), 0), row(NORM, (33,), 8), "multiple of 32"),
        (row(NORM, (32,), 0), row("token_embd.weight\0", (32,), 0), "no place"),
        (row("token_embd.weight", (32, 8), 8), row("token_embd.weight", (32, 9), 8), "behind"),
        (
            key("llama.block_count") + struct.pack("<II", 4, 1),
            key("llama.block_count") + struct.pack("<II", 4, 2**32 - 1),
            "4294967295 layers, got tensors of 1",
        ),
    ],
)  # fmt: skip
def test_a_named_defect_is_named(tiny, tmp_path, old, new, message):
    path = patch_header(tiny, tmp_path / "bad.gguf", old, new)
    with pytest.raises((CheckpointError, UnsupportedError), match=message) as caught:
        GGUFCheckpoint.open(path)
    assert "bad.gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"llama.expert_count": 8}, r"expert_count = 8, only 0"),
        ({"llama.rope.scaling.type": "yarn"}, r"'yarn', only 'none'"),
        ({"llama.attention.sliding_window": 4096}, "sliding_window = 4096"),
        ({"llama.logit_scale": 2.0}, "logit_scale = 2.0 is not understood"),
        ({"llama.rope.dimension_count": 16}, "dimension_count is 16"),
    ],
)
def test_mathematics_we_lack_is_refused(tmp_path, extra, message):
    path = write(tmp_path / "m.gguf", TINY, extra=extra)
    with pytest.raises(UnsupportedError, match=message):
        GGUFCheckpoint.open(path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"llama.attention.head_count": 3}, "q_proj.weight: expected shape"),
        ({"llama.attention.head_count": 0}, "head_count: expected a positive int, got 0"),
        ({"llama.attention.head_count": "two"}, "expected a positive int, got 'two'"),
        ({"llama.attention.head_count_kv": 4}, "multiple of head_count_kv"),
        ({"llama.feed_forward_length": 48}, r"gate_proj.weight: expected shape \[48, 32\]"),
        ({"llama.block_count": 2}, "2 layers, got tensors of 1"),
        ({"llama.rope.freq_base": float("nan")}, "positive float, got nan"),
        ({"llama.rope.freq_base": float("inf")}, "positive float, got inf"),
    ],
)
def test_contradictions_are_refused(tmp_path, extra, message):
    path = write(tmp_path / "m.gguf", TINY, extra=extra)
    with pytest.raises(CheckpointError, match=message):
        GGUFCheckpoint.open(path)


@pytest.mark.parametrize("drop", ["model.norm.weight", "model.layers.0.mlp.up_proj.weight"])
def test_a_missing_tensor_is_named(tmp_path, drop):
    weights = {name: w for name, w in hub_weights(TINY).items() if name != drop}
    path = write(tmp_path / "m.gguf", TINY, weights=weights)
    with pytest.raises(CheckpointError, match=f"{drop}: expected shape .*, got no such tensor"):
        GGUFCheckpoint.open(path)


def minimal(*, pairs: list[bytes], rows: list[bytes], data: int = 0) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(rows), len(pairs)) + b"".join(pairs + rows)
    return head + bytes(-len(head) % 32 + data)


def tensor_row(name: str, values: int, offset: int) -> bytes:
    return row(name, (values,), 0) + struct.pack("<Q", offset)


FLAG = key("flag") + struct.pack("<IB", 7, 1)
ALIGN_8 = key("general.alignment") + struct.pack("<II", 4, 8)


@pytest.mark.parametrize(
    ("pairs", "rows", "message"),
    [
        ([FLAG, FLAG], [], "'flag' twice"),
        ([FLAG[:-1] + b"\2"], [], "boolean, 0 or 1, got 2"),
        ([FLAG[:-5] + struct.pack("<IB", 13, 1)], [], "value type from 0 to 12, got 13"),
        ([key("x") + struct.pack("<IIQ", 9, 9, 1)], [], "an array of numbers.*got type 9"),
        ([key("x") + struct.pack("<IIQ", 9, 10, 2**60)], [], "9223372036854775808 bytes"),
        ([ALIGN_8[:-4] + struct.pack("<I", 24)], [], "power of two, got 24"),
        ([], [tensor_row("a", 8, 0), tensor_row("a", 8, 32)], "'a' twice"),
        ([], [tensor_row("a", 8, 0), tensor_row("b", 8, 16)], "multiple of 32"),
        ([], [tensor_row("a", 8, 0), tensor_row("b", 8, 40)], "multiple of 32"),
        ([], [tensor_row("a", 16, 0), tensor_row("b", 8, 32)], "behind the tensor before it"),
        ([], [tensor_row("a", 8, 2**64 - 32)], "data up to"),
    ],
)
def test_inconsistent_headers(tmp_path, pairs, rows, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(minimal(pairs=pairs, rows=rows, data=128))
    with pytest.raises(CheckpointError, match=message):
        GGUFFile.read(path)


def test_other_alignments_and_any_table_order(tmp_path):
    path = tmp_path / "m.gguf"
    rows = [tensor_row("b", 8, 40), tensor_row("a", 8, 0)]
    path.write_bytes(minimal(pairs=[FLAG, ALIGN_8], rows=rows, data=72))
    file = GGUFFile.read(path)
    assert file.tensors["b"].offset - file.tensors["a"].offset == 40
    assert file.tensors["a"].offset % 8 == 0


def test_foreign_architectures_versions_and_encodings(tmp_path, tiny):
    with pytest.raises(UnsupportedError, match="'mimo2'; only 'llama'"):
        GGUFCheckpoint.open(write(tmp_path / "a.gguf", TINY, arch="mimo2"))
    old = patch_header(tiny, tmp_path / "v1.gguf", b"GGUF\x03\0\0\0", b"GGUF\x01\0\0\0")
    with pytest.raises(UnsupportedError, match="version 1"):
        GGUFCheckpoint.open(old)
    big = patch_header(tiny, tmp_path / "be.gguf", b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03")
    with pytest.raises(UnsupportedError, match="big-endian"):
        GGUFCheckpoint.open(big)
    # A row of 256 values as Q6_K takes 210 bytes, fewer than the Q8_0 it claims to replace.
    wide = write(tmp_path / "w.gguf", Llama(hidden=256, layers=1), encoding=QUANTS.Q8_0)
    name = "blk.0.ffn_up.weight"
    rows = [row(name, (256, 64), code) for code in (8, 14)]
    k_quant = patch_header(wide, tmp_path / "k.gguf", *rows)
    with pytest.raises(UnsupportedError, match=r"ffn_up\.weight is stored as Q6_K.*Q4_1"):
        GGUFCheckpoint.open(k_quant)
    assert GGUFFile.read(k_quant).tensors[name].nbytes == 64 * 210


def test_paths_that_are_not_files(tmp_path):
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(CheckpointError, match="readable file"):
            GGUFCheckpoint.open(path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(CheckpointError, match="an empty file"):
        GGUFCheckpoint.open(tmp_path / "empty.gguf")


def test_a_file_that_changes_after_opening(tmp_path, tiny):
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny.read_bytes())
    checkpoint = GGUFCheckpoint.open(path)
    path.write_bytes(tiny.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="has shrunk"):
        list(checkpoint.items())
    path.unlink()
    with pytest.raises(CheckpointError, match="opened before"):
        checkpoint.load("model.norm.weight")
    with pytest.raises(CheckpointError, match="tensor of this checkpoint, got 'nope'"):
        checkpoint.load("nope")


def test_dtypes_that_would_lose_or_invent_bits(tiny):
    with pytest.raises(UnsupportedError, match=r"float16; torch\.float32 and torch\.bfloat16"):
        GGUFCheckpoint.open(tiny).load("model.norm.weight", dtype=torch.float16)
