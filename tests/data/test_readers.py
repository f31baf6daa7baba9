"""File formats and the errors of invalid files."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapterhub.data import files
from adapterhub.data.dataset import FileSource
from adapterhub.data.readers import read_examples
from adapterhub.errors import DataError, RecipeError

EXAMPLES = [{"text": "a lamp", "label": 1}, {"text": "zwei Äpfel", "label": 0}]
CONLL = (
    "-DOCSTART- -X- O O\n\nMara NNP B-NP B-PER\nleft VBD B-VP O\n\n\nLindos NNP B-NP B-LOC\n. . O O"
)


def read(folder, name, content, **source):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return read_examples(FileSource(name, **source), folder)


def failure(folder, name, content, **source):
    with pytest.raises(DataError) as caught:
        read(folder, name, content, **source)
    return str(caught.value)


def json_lines(examples):
    return "".join(json.dumps(example) + "\n" for example in examples)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL"])
def test_json_lines(tmp_path, name):
    examples = read(tmp_path, name, json_lines(EXAMPLES))
    assert (examples.origin, list(examples.examples)) == (name, EXAMPLES)
    assert list(examples.numbers) == [1, 2]
    assert examples.place(1) == f"{name} example 2"


def test_places_give_the_line_where_it_is_not_the_example(tmp_path):
    examples = read(tmp_path, "a.jsonl", '{"x": 1}\n\n{"x": 2}\r\n')
    assert examples.place(1) == "a.jsonl example 2 (line 3)"
    assert examples.select([1]).place(0) == "a.jsonl example 2 (line 3)"


def test_gzip_and_byte_order_mark(tmp_path):
    packed = gzip.compress(b"\xef\xbb\xbf" + json_lines(EXAMPLES).encode())
    assert list(read(tmp_path, "a.jsonl.gz", packed).examples) == EXAMPLES


def test_line_separators_inside_values_end_no_line(tmp_path):
    text = "one\u2028two\x85three"
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert read(tmp_path, "a.jsonl", line).examples[0]["text"] == text
    sentence = read(
        tmp_path, "a.conll", "10\u00a0000 B\x85C\n", columns=("tokens", "tags")
    ).examples[0]
    assert sentence == {"tokens": ["10\u00a0000"], "tags": ["B\x85C"]}


def test_csv_values_in_quotes_and_empty_cells(tmp_path):
    examples = read(tmp_path, "a.csv", 'text,label\r\n"one, ""two""\nthree",a\r\n\r\nfour,\r\n')
    assert list(examples.examples) == [
        {"text": 'one, "two"\nthree', "label": "a"},
        {"text": "four", "label": None},
    ]
    assert examples.place(0) == "a.csv example 1 (line 2)"
    assert examples.place(1) == "a.csv example 2 (line 5)"


def test_tsv_takes_quotes_as_they_are(tmp_path):
    examples = read(tmp_path, "a.tsv", 'text\tlabel\n"half a quote\t1\nend" it\t0\n').examples
    assert [example["text"] for example in examples] == ['"half a quote', 'end" it']


def test_parquet(tmp_path):
    examples = [{"tokens": ["a", "b"], "n": 1.5}, {"tokens": None, "n": None}]
    pq.write_table(pa.Table.from_pylist(examples), tmp_path / "a.parquet")
    found = read_examples(FileSource("a.parquet"), tmp_path)
    assert (list(found.examples), found.place(1)) == (examples, "a.parquet example 2")


@pytest.mark.parametrize("name", ["a.conll", "a.txt"])
def test_conll(tmp_path, name):
    examples = read(tmp_path, name, CONLL)
    assert [example["tokens"] for example in examples.examples] == [
        ["Mara", "left"],
        ["Lindos", "."],
    ]
    assert examples.examples[1]["tags"] == ["B-LOC", "O"]
    assert examples.place(1) == f"{name} example 2 (line 7)"


def test_conll_without_blank_lines_around_a_document_start(tmp_path):
    examples = read(tmp_path, "a.conll", "a A\n-DOCSTART- x x\r\nb B\n", columns=("tokens", "tags"))
    assert [example["tokens"] for example in examples.examples] == [["a"], ["b"]]


def test_the_format_can_be_told(tmp_path):
    assert (
        list(read(tmp_path, "examples.dat", json_lines(EXAMPLES), format="jsonl").examples)
        == EXAMPLES
    )


def test_an_absolute_path_needs_no_folder(tmp_path):
    (tmp_path / "a.jsonl").write_text(json_lines(EXAMPLES))
    examples = read_examples(FileSource(str(tmp_path / "a.jsonl")))
    assert (examples.origin, len(examples)) == ("a.jsonl", 2)


def test_missing_file_names_a_near_one(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError, match=r"^trian.jsonl: .*Did you mean 'train.jsonl'\?"):
        read_examples(FileSource("trian.jsonl"), tmp_path)
    with pytest.raises(DataError, match=r"^nowhere/a.jsonl: there is no folder"):
        read_examples(FileSource("nowhere/a.jsonl"), tmp_path)
    with pytest.raises(DataError, match=r"is a folder, not a file.*train\.jsonl"):
        read_examples(FileSource("."), tmp_path)
    with pytest.raises(DataError, match="can't be read"):
        read_examples(FileSource("x" * 5000), tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 1}", "bad.jsonl line 3: is not valid JSON: Expecting property name"),
        ("[", "this looks like one JSON document"),
        ('["a"]', "must be a JSON object, not list"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1, "a": 2}', "the key 'a' is repeated"),
        ('{"a": ' + "[" * 100_000, "is not valid JSON"),
        ('{"a": "\\ud83d"}', "one half of a character"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
    ],
)
def test_broken_json_names_its_line(tmp_path, line, message):
    text = failure(tmp_path, "bad.jsonl", '{"a": 1}\n\n' + line + "\n")
    assert text.startswith("bad.jsonl line 3: ")
    assert message in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "x,y\n1,2\n\n1,2,3\n", "a.csv line 4: has 3 values, the header has 2. Put"),
        ("a.csv", "x,y\n1\n", "a.csv line 2: has 1 values, the header has 2"),
        ("a.csv", 'x,y\n1,2\n1,"2\n3,4\n', "a.csv line 3: unexpected end of data. Is a quote"),
        ("a.csv", "x,x\n1,2\n", "a.csv line 1: two columns are named 'x'"),
        ("a.csv", "x,,y\n1,2,3\n", "a.csv line 1: column 2 has no name"),
        ("a.tsv", "x,y\n1,2\n", "has no tabs but commas. Set data.format to csv"),
        ("a.csv", "x\n" + "a" * 140_000, "a.csv line 2: field larger than field limit"),
        ("a.csv", "x,y\n", "a.csv: holds no examples"),
        ("a.conll", "a b c d\na b\n", "a.conll line 2: has 2 columns instead of 4 (tokens, pos"),
        ("a.conll", "-DOCSTART- -X- O O\n", "a.conll: holds no examples"),
        ("a.jsonl", "", "a.jsonl: holds no examples"),
        ("a.jsonl", " \n\n", "a.jsonl: holds no examples"),
        ("a.jsonl", '{"a": "ä"}\n{"a": "ü"}'.encode("latin-1"), "a.jsonl line 1: is not UTF-8"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": "\xfc"}',
            "a.jsonl line 2: is not UTF-8 text. Set data.encoding to",
        ),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz: can't be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "a.jsonl.gz: can't be read"),
        ("a.parquet", b"no parquet", "a.parquet: can't be read as Parquet"),
        ("a.pkl", b"\x80\x04N.", "a.pkl: the format can't be derived from the suffix. Set"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, name, content, message):
    text = failure(tmp_path, name, content)
    assert message in text
    assert "\n" not in text


def test_unknown_format_names_a_near_one(tmp_path):
    text = failure(tmp_path, "a.jsonl", "{}", format="jsnl")
    assert text == "a.jsonl: there is no format 'jsnl'. Did you mean 'jsonl'?"


@pytest.mark.parametrize("columns", [(), ("tokens", "tokens")])
def test_columns_need_names_of_their_own(tmp_path, columns):
    with pytest.raises(RecipeError, match=r"^data\.columns: "):
        read(tmp_path, "a.conll", "a b\n", columns=columns)


@pytest.mark.parametrize(("name", "limit"), [("a.jsonl.gz", "MAX_UNPACKED"), ("a.json", "MAX")])
def test_a_file_that_is_too_large_once_unpacked_is_rejected(tmp_path, monkeypatch, name, limit):
    monkeypatch.setattr(files, f"{limit}_BYTES", 1000)
    content = json_lines(EXAMPLES) * 100
    packed = gzip.compress(content.encode())
    assert len(packed) < 1000
    found = failure(tmp_path, name, packed if name.endswith("gz") else content)
    assert "holds more than" in found


def test_a_line_too_long_for_an_example_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    text = failure(tmp_path, "a.jsonl", '{"a": 1}\n{"a": "' + "x" * 2000)
    assert text.startswith("a.jsonl line 2: is longer than 1,000 characters")


def test_class_names_in_the_schema_of_a_parquet_file_are_used(tmp_path):
    feature = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    features = {
        "label": feature,
        "tags": {"feature": feature, "_type": "List"},
        "number": {"dtype": "int64", "_type": "Value"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.Table.from_pylist(
        [
            {"label": 1, "tags": [0, 1], "number": 1},
            {"label": -1, "tags": [], "number": 0},
        ]
    ).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_examples(FileSource("a.parquet"), tmp_path).examples
    assert found[0] == {"label": "pos", "tags": ["neg", "pos"], "number": 1}
    assert found[1]["label"] is None


def test_comments_before_a_sentence_are_no_words(tmp_path):
    text = "# sent_id = 1\n# text\n# a b c\nMara B-PER\n# O\n\n#tag O\nrains O\n"
    found = read(tmp_path, "a.conll", text, columns=("tokens", "tags")).examples
    assert [example["tokens"] for example in found] == [["Mara", "#"], ["#tag", "rains"]]


def test_an_index_column_without_a_name_is_named(tmp_path):
    assert "without its index" in failure(tmp_path, "i.csv", ",text,label\n0,Hello,a\n")


def test_utf_16_without_a_mark_is_named(tmp_path):
    problem = failure(tmp_path, "b.csv", "text,label\na,b\n".encode("utf-16-le"))
    assert "UTF-16 without a byte-order mark" in problem
    assert "line 1" in problem
