"""Token files, preparation, packing and mixtures."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mimo_native import CheckpointError, ShapeError, UnsupportedError
from mimo_native.training import Mixture, PackedRows, TokenFile, TokenWriter, prepare
from mimo_native.training.data.order import order


def write(path: Path, documents: list[list[int]], vocab_size: int = 1000) -> TokenFile:
    with TokenWriter(path, vocab_size=vocab_size) as writer:
        for document in documents:
            writer.add(document, text_bytes=2 * len(document))
    return TokenFile(path)


def encode(text: str) -> list[int]:
    return list(text.encode())


class TestOrder:
    def test_is_a_permutation_that_depends_on_every_part_of_the_key(self) -> None:
        keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (-1, 5), (2**40, 3)]
        orders = [order(50, *key) for key in keys]
        for one in orders:
            assert sorted(one) == list(range(50))
        assert len({tuple(one) for one in orders}) == len(keys)

    def test_values_are_fixed_for_ever(self) -> None:
        """Resuming under another numpy must find the same rows."""
        assert order(8, 7, 1).tolist() == [7, 4, 3, 1, 5, 6, 2, 0]


class TestTokenFile:
    @pytest.mark.parametrize(("vocab", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
    def test_round_trip(self, tmp_path: Path, vocab: int, dtype: type) -> None:
        documents = [[1, 2, 3], [vocab - 1], [], [0, 0]]
        file = write(tmp_path / "c", documents, vocab)
        assert file.tokens.dtype == dtype
        assert [file.document(i).tolist() for i in range(file.documents)] == [
            d for d in documents if d
        ]
        assert (len(file), file.bytes, file.vocab_size) == (6, 12, vocab)

    @pytest.mark.parametrize("bad", [-1, 1000])
    def test_ids_outside_the_vocabulary(self, tmp_path: Path, bad: int) -> None:
        write(tmp_path / "c", [[5]])
        with pytest.raises(ShapeError, match=r"document 1: expected token ids in \[0, 1000\)"):
            write(tmp_path / "c", [[1], [2, bad]])
        assert TokenFile(tmp_path / "c").document(0).tolist() == [5]
        assert [p.name for p in tmp_path.iterdir()] == ["c"]

    @pytest.mark.parametrize("documents", [[], [[]]])
    def test_empty_corpus(self, tmp_path: Path, documents: list[list[int]]) -> None:
        with pytest.raises(CheckpointError, match="at least one document"):
            write(tmp_path / "c", documents)
        assert list(tmp_path.iterdir()) == []

    def test_replaces_the_earlier_file_whole(self, tmp_path: Path) -> None:
        write(tmp_path / "c", [[1], [2]])
        assert len(write(tmp_path / "c", [[3]])) == 1
        assert [p.name for p in tmp_path.iterdir()] == ["c"]

    def test_cut_file(self, tmp_path: Path) -> None:
        write(tmp_path / "c", [[1, 2, 3]])
        with (tmp_path / "c" / "tokens.bin").open("rb+") as stream:
            stream.truncate(4)
        with pytest.raises(CheckpointError, match=r"expected 3 tokens .* got 4 bytes"):
            TokenFile(tmp_path / "c")

    def test_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError):
            TokenFile(tmp_path / "nothing")

    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "c", [[5]])

        def no_space(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", no_space)
        with pytest.raises(CheckpointError, match="No space left"):
            write(tmp_path / "c", [[6]])
        assert TokenFile(tmp_path / "c").document(0).tolist() == [5]
        assert [p.name for p in tmp_path.iterdir()] == ["c"]


class TestPrepare:
    def test_text_jsonl_and_directories(self, tmp_path: Path) -> None:
        folder = tmp_path / "texts"
        folder.mkdir()
        (folder / "b.txt").write_text("bb")
        (folder / "a.py").write_text("a")
        (tmp_path / "c.jsonl").write_text('{"body": "é"}\n\n{"body": "d"}\n')
        prepare(
            [folder, tmp_path / "c.jsonl"],
            tmp_path / "out",
            encode=encode,
            vocab_size=256,
            end_id=0,
            field="body",
        )
        file = TokenFile(tmp_path / "out" / "train")
        documents = [bytes(file.document(i).tolist()) for i in range(file.documents)]
        assert documents == [b"a\0", b"bb\0", "é\0".encode(), b"d\0"]
        assert file.bytes == 6

    def test_heldout_share(self, tmp_path: Path) -> None:
        source = tmp_path / "c.jsonl"
        source.write_text(
            "".join(json.dumps({"text": chr(97 + i % 26)}) + "\n" for i in range(2000))
        )
        prepare([source], tmp_path, encode=encode, vocab_size=256, end_id=None, heldout=0.1)
        assert TokenFile(tmp_path / "heldout").documents == 200
        assert TokenFile(tmp_path / "train").documents == 1800

    @pytest.mark.parametrize(
        ("line", "message"),
        [("{broken", "line 2"), ('{"other": 1}', "KeyError: 'text'"), ("[1]", "TypeError")],
    )
    def test_damaged_line(self, tmp_path: Path, line: str, message: str) -> None:
        (tmp_path / "c.jsonl").write_text('{"text": "a"}\n' + line + "\n")
        with pytest.raises(CheckpointError, match=message):
            prepare([tmp_path / "c.jsonl"], tmp_path, encode=encode, vocab_size=256, end_id=None)
        assert [p.name for p in tmp_path.iterdir()] == ["c.jsonl"]

    def test_binary_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(CheckpointError, match="UTF-8"):
            prepare([tmp_path / "x.txt"], tmp_path / "o", encode=encode, vocab_size=256, end_id=0)

    def test_parquet_without_its_reader(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "datasets", None)
        (tmp_path / "x.parquet").write_bytes(b"")
        with pytest.raises(UnsupportedError, match="pip install datasets"):
            prepare(
                [tmp_path / "x.parquet"], tmp_path / "o", encode=encode, vocab_size=256, end_id=0
            )

    def test_parquet(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_dict({"text": ["ab", "c"]}).to_parquet(tmp_path / "x.parquet")
        file = prepare(
            [tmp_path / "x.parquet"], tmp_path / "o", encode=encode, vocab_size=256, end_id=None
        )
        assert [file.document(i).tolist() for i in range(2)] == [[97, 98], [99]]


DOCUMENTS = [[10 * d + i for i in range(n)] for d, n in enumerate([3, 7, 1, 5, 2, 9], 1)]


class TestRows:
    def test_an_epoch_is_every_token_once(self, tmp_path: Path) -> None:
        file = write(tmp_path / "c", DOCUMENTS)
        rows = PackedRows(file, seq_len=9, key=(3,))
        epochs = [
            list(itertools.chain(*(rows.row(n)[0].tolist() for n in range(e, e + 3))))
            for e in (0, 3)
        ]
        want = sorted(itertools.chain(*DOCUMENTS))
        assert [sorted(epoch) for epoch in epochs] == [want, want]
        assert epochs[0] != epochs[1]

    def test_documents_stay_whole_but_at_a_row_edge(self, tmp_path: Path) -> None:
        file = write(tmp_path / "c", DOCUMENTS)
        rows = PackedRows(file, seq_len=9, key=(3,))
        for n in range(6):
            ids, lengths = rows.row(n)
            assert sum(lengths) == len(ids) == 9
            pieces = np.split(ids, np.cumsum(lengths)[:-1])
            for i, piece in enumerate(pieces):
                owner = DOCUMENTS[piece[0] // 10 - 1]
                start = owner.index(piece[0])
                assert piece.tolist() == owner[start : start + len(piece)]
                assert start == 0 or i == 0
                assert start + len(piece) == len(owner) or i == len(pieces) - 1

    def test_any_row_alone_is_the_same(self, tmp_path: Path) -> None:
        file = write(tmp_path / "c", DOCUMENTS)
        in_order = PackedRows(file, seq_len=4, key=(1,))
        rows = [in_order.row(n)[0].tolist() for n in range(30)]
        for n in (29, 0, 13, 7):
            assert PackedRows(file, seq_len=4, key=(1,)).row(n)[0].tolist() == rows[n]


class TestMixture:
    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, TokenFile]:
        return {
            name: write(tmp_path / name, [[base + i] * 3 for i in range(10)])
            for name, base in (("a", 0), ("b", 100), ("c", 200))
        }

    def test_shares_are_exact_in_every_block(self, files: dict[str, TokenFile]) -> None:
        weights = {"a": 5.0, "b": 3.0, "c": 2.0}
        mixture = Mixture(files, weights, seq_len=4, seed=1)
        for block in range(2):
            names = Counter(mixture.row(1024 * block + n).domain for n in range(1024))
            assert names == {"a": 512, "b": 307, "c": 205}

    def test_state_is_one_integer(self, files: dict[str, TokenFile]) -> None:
        weights = {"a": 0.5, "b": 0.25, "c": 0.25}
        mixture = Mixture(files, weights, seq_len=4, seed=1)
        rows = [mixture.row(n) for n in range(1100)]
        for n in (1099, 3, 1030):
            fresh = Mixture(files, weights, seq_len=4, seed=1).row(n)
            assert fresh.ids.tolist() == rows[n].ids.tolist()
            assert (fresh.domain, fresh.lengths) == (rows[n].domain, rows[n].lengths)

    def test_each_corpus_goes_through_its_rows_in_turn(self, files: dict[str, TokenFile]) -> None:
        mixture = Mixture(files, {"a": 1.0, "b": 1.0}, seq_len=3, seed=4)
        rows = [mixture.row(n) for n in range(1024)]
        own = [row.ids.tolist() for row in rows if row.domain == "b"][:10]
        assert sorted(own) == [[100 + i] * 3 for i in range(10)]

    def test_seed_and_stage_change_the_order(self, files: dict[str, TokenFile]) -> None:
        def first(**key: int) -> list[str]:
            mixture = Mixture(files, {"a": 1.0, "b": 1.0}, seq_len=4, **key)
            return [mixture.row(n).domain for n in range(40)]

        assert first(seed=1) == first(seed=1)
        assert first(seed=1) != first(seed=2)
        assert first(seed=1, stage=0) != first(seed=1, stage=1)

    @pytest.mark.parametrize(
        "weights", [{}, {"x": 1.0}, {"a": 0.0}, {"a": 1.0, "b": -1.0}, {"a": 1.0, "b": 1e-6}]
    )
    def test_bad_weights(self, files: dict[str, TokenFile], weights: dict[str, float]) -> None:
        with pytest.raises(ShapeError):
            Mixture(files, weights, seq_len=4, seed=0)
