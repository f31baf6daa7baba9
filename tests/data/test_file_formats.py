"""Formats that files already have: JSON lists, delimiters, encodings, folders and archives."""

import bz2
import gzip
import json
import lzma
import zipfile

import datasets
import pyarrow as pa
import pytest

from adapterhub.data import store
from adapterhub.data.dataset import FileSource
from adapterhub.data.readers import read_examples
from adapterhub.errors import DataError, RecipeError

EXAMPLES = [{"text": "a lamp", "label": "yes"}, {"text": "zwei Äpfel", "label": "no"}]
CSV = "text;label\nHello, you;a\nBye;b\n"


def read(folder, name, content=None, **source):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return read_examples(FileSource(name, **source), folder)


def failure(folder, name, content=None, **source):
    with pytest.raises(DataError) as caught:
        read(folder, name, content, **source)
    return str(caught.value)


def lines_of(examples):
    return "".join(json.dumps(each) + "\n" for each in examples)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_of_objects_is_read_like_json_lines(tmp_path, name, indent):
    found = read(tmp_path, name, "\n" + json.dumps(EXAMPLES, indent=indent))
    assert list(found.examples) == EXAMPLES
    # with an indent of 1 each key has a line of its own
    expected = f"{name} example 2" if indent is None else f"{name} example 2 (line 7)"
    assert found.place(1).startswith(expected)


def test_a_json_file_may_hold_json_lines_or_an_object_around_the_list(tmp_path):
    assert list(read(tmp_path, "a.json", lines_of(EXAMPLES)).examples) == EXAMPLES
    wrapped = json.dumps({"version": "1", "data": EXAMPLES})
    assert list(read(tmp_path, "b.json", wrapped).examples) == EXAMPLES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"a": 1},\n{"a": }]', "a.json line 3: is not valid JSON: Expecting value at column 7"),
        ('[{"a": 1}\n{"a": 2}]', "a.json line 2: is not valid JSON: expecting ',' or ']'"),
        ('[{"a": 1},\n{"a": 2}', "found the end of the file. Was the file written to its end?"),
        ('[{"a": 1},\n2]', "a.json line 2: must be a JSON object, not int"),
        ('[{"a": 1}]\n{"b": 2}', "a.json line 1: text follows the end of the list"),
        ('[{"a": 1, "a": 2}]', "a.json line 1: is not valid JSON: the key 'a' is repeated"),
        ("[]", "a.json: holds no examples"),
        ('{"a": [1,\n}', "a.json line 2: is not valid JSON"),
    ],
)
def test_a_broken_list_names_the_line(tmp_path, content, message):
    assert message in failure(tmp_path, "a.json", content)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (CSV, "semicolons"),
        ('"text";"label"\n"Hello; you";"a"\n', "semicolons"),
        ("text|label\nHello, you|a\n", "vertical bars"),
        ("text\tlabel\nHello, you\ta\n", "tabs"),
        ("sep=;\ntext;label\nHello, you;a\n", "semicolons"),
    ],
)
def test_the_delimiter_of_a_table_is_found_and_shown(tmp_path, content, name):
    found = read(tmp_path, "a.csv", content)
    assert found.examples[0]["label"] == "a"
    assert found.examples[0]["text"].startswith("Hello")
    assert found.notes == (f"a.csv: the values are separated by {name}",)


def test_commas_need_no_note_and_any_delimiter_can_be_given(tmp_path):
    assert read(tmp_path, "a.csv", "text,label\na;b;c,x\n").notes == ()
    given = read(tmp_path, "b.csv", "text:label\na,b:x\n", delimiter=":")
    assert list(given.examples) == [{"text": "a,b", "label": "x"}]
    with pytest.raises(RecipeError, match=r"data\.delimiter: must be one character"):
        read(tmp_path, "a.csv", delimiter="::")


def test_text_is_read_in_its_encoding(tmp_path):
    content = "text;label\nGrüße;ä\n"
    latin = read(tmp_path, "a.csv", content.encode("cp1252"), encoding="cp1252")
    assert list(latin.examples) == [{"text": "Grüße", "label": "ä"}]
    marked = read(tmp_path, "b.csv", content.encode("utf-16"))
    assert marked.examples == latin.examples
    chinese = read(tmp_path, "c.jsonl", '{"text": "你好"}'.encode("gb18030"), encoding="gb18030")
    assert chinese.examples[0]["text"] == "你好"
    problem = failure(tmp_path, "d.csv", ("text,label\n" + "ein Gruß,ä\n" * 50).encode("cp1252"))
    assert problem.startswith("d.csv line 2: is not UTF-8 text. Set data.encoding to the encoding")
    with pytest.raises(RecipeError, match=r"data\.encoding: there is no encoding 'latn'"):
        read(tmp_path, "a.csv", encoding="latn")


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
        ("zst", lambda content: pa.compress(content, codec="zstd", asbytes=True)),
    ],
)
def test_compressed_files_are_unpacked_while_they_are_read(tmp_path, suffix, pack):
    found = read(tmp_path, f"a.jsonl.{suffix}", pack(lines_of(EXAMPLES).encode()))
    assert list(found.examples) == EXAMPLES
    assert f"b.csv.{suffix}: can't be read" in failure(tmp_path, f"b.csv.{suffix}", b"none of it")


def test_the_data_files_of_an_archive_are_read_in_order(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b/two.csv", CSV)
        archive.writestr("b/one.jsonl", lines_of(EXAMPLES))
        archive.writestr("__MACOSX/b/._one.jsonl", b"\0")
        archive.writestr("notes.md", "read me")
    found = read(tmp_path, "a.zip")
    assert [each["label"] for each in found.examples] == ["yes", "no", "a", "b"]
    assert found.place(3) == "a.zip: b/two.csv example 2 (line 3)"
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as archive:
        archive.writestr("0.jpg", b"")
    assert "no file of a known format; members: 0.jpg" in failure(tmp_path, "i.zip")
    assert "b.zip: can't be read: File is not a zip file" in failure(tmp_path, "b.zip", b"no")


def test_a_pattern_reads_all_its_files_and_errors_name_theirs(tmp_path):
    read(tmp_path, "parts/2.jsonl", lines_of(EXAMPLES[1:]))
    read(tmp_path, "parts/1.jsonl", lines_of(EXAMPLES[:1]))
    found = read(tmp_path, "parts/*.jsonl")
    assert list(found.examples) == EXAMPLES
    assert found.place(1) == "2.jsonl example 1"
    assert found.select([1]).place(0) == "2.jsonl example 1"
    (tmp_path / "parts/3.jsonl").write_text("{")
    assert failure(tmp_path, "parts/*.jsonl").startswith("3.jsonl line 1: is not valid JSON")
    assert "no file matches the pattern" in failure(tmp_path, "parts/*.csv")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    assert len(read(tmp_path, "a[1].jsonl", lines_of(EXAMPLES))) == 2


def test_folders_of_texts_are_labelled_by_their_names(tmp_path):
    for label, name, text in (("neg", "1", "no\n"), ("pos", "1", "yes"), ("pos", "2", "sure")):
        (tmp_path / "texts" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / label / f"{name}.txt").write_text(text)
    found = read(tmp_path, "texts").examples
    expected = [("no", "neg"), ("yes", "pos"), ("sure", "pos")]
    assert [(each["text"], each["label"]) for each in found] == expected
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("all/pos/1.txt", "yes")
    assert list(read(tmp_path, "texts.zip", format="text").examples) == [
        {"text": "yes", "label": "pos"}
    ]
    (tmp_path / "texts/pos/2.txt").write_bytes(b"\xff\xfe\xfd")
    assert "texts/pos/2.txt" in failure(tmp_path, "texts")
    (tmp_path / "texts/more.jsonl").write_text("{}")
    assert "is a folder, not a file. Name its files" in failure(tmp_path, "texts")


def test_a_saved_data_set_keeps_the_names_of_its_classes(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    table = {"text": ["a", "b", "c"], "label": [1, 0, -1]}
    saved = datasets.Dataset.from_dict(table, features=features)
    saved.save_to_disk(tmp_path / "saved", num_shards=2)
    found = read(tmp_path, "saved")
    assert [each["label"] for each in found.examples] == ["pos", "neg", None]
    assert found.place(2) == "saved example 3"
    datasets.DatasetDict(train=saved, test=saved).save_to_disk(tmp_path / "splits")
    assert "with the splits test, train. Name the folder" in failure(tmp_path, "splits")
    assert len(read(tmp_path, "splits/train")) == 3
    state = tmp_path / "saved/state.json"
    state.write_text(state.read_text().replace("data-00001", "../data-00001"))
    assert "is not the name of a file in the folder" in failure(tmp_path, "saved")


def test_parquet_in_an_archive(tmp_path):
    pa.parquet.write_table(pa.Table.from_pylist(EXAMPLES), tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "a.parquet")
    assert list(read(tmp_path, "a.zip").examples) == EXAMPLES


CONLLU = """# text = Mara left del sol
1\tMara\tMara\tPROPN\tNNP\t_\t2\tnsubj\t_\tNER=B-PER
2\tleft\tleave\tVERB\tVBD\t_\t0\troot\t_\tSpaceAfter=No|ner=O
3-4\tdel\t_\t_\t_\t_\t_\t_\t_\t_
3\tde\tde\tADP\tIN\t_\t5\tcase\t_\t_
4\tel\tel\tDET\tDT\t_\t5\tdet\t_\t_
4.1\tgone\tgo\tVERB\tVBN\t_\t_\t_\t0:root\t_
5\tsol\tsol\tNOUN\tNN\t_\t2\tobl\t_\t_

1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_
"""


def test_conllu(tmp_path):
    first, second = read(tmp_path, "a.conllu", CONLLU).examples
    assert first["tokens"] == ["Mara", "left", "de", "el", "sol"]
    assert first["tags"] == ["B-PER", "O", "O", "O", "O"]
    assert (second["tokens"], "tags" in second) == (["Yes"], False)
    problem = failure(tmp_path, "b.conllu", CONLLU + "1\tYes\n")
    assert "b.conllu line 11: has 2 columns separated by tabs instead of 10" in problem


def test_many_examples_wait_in_a_file_and_are_the_same(tmp_path, monkeypatch):
    content = lines_of(
        {"text": f"text {at}", "label": at % 3, "tags": ["a", None]} for at in range(200)
    )
    in_memory = read(tmp_path, "a.jsonl", content)
    monkeypatch.setattr(store, "MEMORY_BYTES", 1000)
    in_file = read(tmp_path, "a.jsonl", content)
    assert isinstance(in_memory.examples, tuple)
    assert isinstance(in_file.examples, store.StoredExamples)
    assert tuple(in_file.examples) == in_memory.examples
    assert in_file.examples[-1] == in_memory.examples[-1]
    assert list(in_file.examples[3:5]) == list(in_memory.examples[3:5])
    assert in_file.examples == read(tmp_path, "a.jsonl").examples
    assert in_file.examples != in_file.select(range(199)).examples
    some = in_file.select([7, 3])
    assert [each["text"] for each in some.examples] == ["text 7", "text 3"]
    assert some.place(0) == "a.jsonl example 8"
