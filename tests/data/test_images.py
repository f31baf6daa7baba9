"""Image files of examples: formats, limits and rejected paths."""

import io
import struct
import zipfile
import zlib
from dataclasses import replace

import pytest
from PIL import Image
from vision_backbones import save_shapes, shape_image

from adapterhub.data import media
from adapterhub.data.dataset import Dataset, FileSource
from adapterhub.data.images import ImageFile
from adapterhub.data.media import load_media, read_media
from adapterhub.data.readers import read_examples
from adapterhub.data.splits import drop_duplicates, fingerprint
from adapterhub.errors import DataError


def read(path):
    return load_media(read_examples(FileSource(str(path))), "file", path, ImageFile)


def naming(folder, name):
    """Return examples of which one names ``name``, as if they lay in the folder."""
    examples = Dataset.whole("rows.jsonl", [{"file": name}])
    return load_media(examples, "file", folder / "rows.jsonl", ImageFile)


def test_images_are_read_from_a_zip_file_and_from_a_folder_alike(tmp_path):
    zipped = read(save_shapes(tmp_path / "a", count=4))
    folder = read(save_shapes(tmp_path / "b", count=4, zipped=False))
    assert [example["file"] for example in zipped.examples] == [
        example["file"] for example in folder.examples
    ]
    image = zipped.examples[0]["file"].decoded()
    assert (image.mode, image.size) == ("RGB", (40, 32))


def test_examples_are_known_by_the_content_of_images_and_not_by_their_names(tmp_path):
    examples = read(save_shapes(tmp_path, count=3))
    renamed = replace(
        examples,
        examples=tuple(
            {**example, "file": replace(example["file"], name="other")}
            for example in examples.examples
        ),
    )
    assert fingerprint(examples) == fingerprint(renamed)
    changed = replace(
        examples,
        examples=(
            {**examples.examples[0], "file": ImageFile("x", b"other")},
            *examples.examples[1:],
        ),
    )
    assert fingerprint(examples) != fingerprint(changed)
    twice = Dataset.whole("x", [examples.examples[0], renamed.examples[0]])
    assert drop_duplicates(twice)[1] == 1


def test_images_of_the_hub_come_with_their_bytes():
    content = shape_image("red", 1)
    examples = load_media(
        Dataset.whole("hub", [{"img": {"bytes": content, "path": None}}]), "img", None, ImageFile
    )
    assert examples.examples[0]["img"].content == content
    with pytest.raises(DataError, match="must name an image, or hold its bytes"):
        load_media(Dataset.whole("hub", [{"img": 3}]), "img", None, ImageFile)
    with pytest.raises(DataError, match="come from no folder"):
        load_media(Dataset.whole("hub", [{"img": "a.png"}]), "img", None, ImageFile)


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/hostname", "a/../../secret.png", "..\\secret.png", "C:/x.png", "", "."],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_names_that_lead_elsewhere_are_rejected(tmp_path, name, zipped):
    (tmp_path / "secret.png").write_bytes(shape_image("red", 1))
    folder = tmp_path / "examples"
    folder.mkdir()
    if zipped:
        with zipfile.ZipFile(folder / "rows.zip", "w") as archive:
            archive.writestr(name or "x", shape_image("red", 1))
    with pytest.raises(
        DataError, match=r"rows\.jsonl example 1, field 'file': .* is not a path below"
    ):
        naming(folder, name)


def test_a_link_out_of_the_folder_is_rejected(tmp_path):
    (tmp_path / "secret.png").write_bytes(shape_image("red", 1))
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="is a link that leads out of the folder"):
        naming(folder, "link.png")


def test_an_image_that_is_not_there_is_named_with_its_neighbour(tmp_path):
    save_shapes(tmp_path / "a", count=2)
    with pytest.raises(DataError, match=r"no such image\. Did you mean 'shapes/001\.png'"):
        naming(tmp_path / "a", "shapes/0001.png")
    save_shapes(tmp_path / "b", count=2, zipped=False)
    with pytest.raises(DataError, match=r"no such image\. Did you mean '001\.png'"):
        naming(tmp_path / "b", "shapes/0001.png")


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "MAX_FILE_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "rows.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(200 << 20))
    assert (tmp_path / "rows.zip").stat().st_size < 1 << 20
    asked = []
    honest = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: asked.append(n) or honest(self, n)
    )
    with pytest.raises(DataError, match="larger than the limit of 1 MiB per image"):
        naming(tmp_path, "bomb.png")
    assert asked == [(1 << 20) + 1]


def test_all_images_together_have_a_bound(tmp_path, monkeypatch):
    from adapterhub.data import files

    path = save_shapes(tmp_path, count=8)
    monkeypatch.setattr(files, "MAX_BYTES", 600)
    with pytest.raises(DataError, match=r"all images of rows\.jsonl"):
        load_media(
            Dataset.whole("rows.jsonl", [{"file": f"shapes/{n:03}.png"} for n in range(8)]),
            "file",
            path,
            ImageFile,
        )


def test_damaged_archives_are_rejected(tmp_path):
    path = save_shapes(tmp_path, count=2)
    content = bytearray((tmp_path / "rows.zip").read_bytes())
    content[60] ^= 0xFF  # within the first image: its checksum no longer fits
    (tmp_path / "rows.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.zip: shapes/000\.png: can't be read"):
        read(path)
    (tmp_path / "rows.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"rows\.zip: can't be read"):
        read(path)


def claims_to_be(width, height):
    """Return a PNG of a few bytes whose header says any size."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize("size", [(9000, 9000), (12000, 12000), (60000, 60000)])
def test_a_decompression_bomb_is_rejected_by_its_header(size, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="pixels"):
        ImageFile("bomb.png", claims_to_be(*size)).decoded()


@pytest.mark.parametrize(
    "content", [b"", b"no image", shape_image("red", 1)[:-40], b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_whole_image_is_rejected(content):
    with pytest.raises(DataError, match=r"x\.png: can't be read as an image"):
        ImageFile("x.png", content).decoded()


def test_an_image_is_turned_as_its_camera_says():
    image = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    image.save(content, "JPEG", exif=exif)
    assert ImageFile("x.jpg", content.getvalue()).decoded().size == (20, 40)


def test_a_file_that_the_user_names_is_read_within_bounds(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(shape_image("red", 1))
    assert read_media(path, ImageFile).decoded().size == (40, 32)
    with pytest.raises(DataError, match="can't be read: No such file"):
        read_media(tmp_path / "none.png", ImageFile)
    monkeypatch.setattr(media, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="MiB per image"):
        read_media(path, ImageFile)


def _png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return ImageFile("a.png", stream.getvalue()).decoded()


def test_sixteen_bits_a_channel_are_reduced_to_eight():
    grey = Image.new("I;16", (2, 1))
    grey.putpixel((0, 0), 0x4000)
    grey.putpixel((1, 0), 0xFFFF)
    found = _png(grey)
    assert [found.getpixel((at, 0)) for at in (0, 1)] == [(64, 64, 64), (255, 255, 255)]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    found = _png(image.convert(mode))
    assert [found.getpixel((at, 0)) for at in (0, 1)] == [(255, 255, 255), (0, 0, 0)]
