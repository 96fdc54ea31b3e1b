"""What img2dataset writes, in its three forms, becomes the records that went in."""

import gc
import io
import json
import sys
import tarfile
import tracemalloc

import pytest
from reading import checked, photo

from ivt_jax import prepare
from ivt_jax.data import records
from ivt_jax.data.builders.archives import tar_split
from ivt_jax.data.builders.caption_pairs import caption_splits
from ivt_jax.data.records import DataError

try:
    import pyarrow
    from pyarrow import parquet
except ImportError:  # an extra, which only the parquet form needs
    pyarrow = parquet = None

needs_pyarrow = pytest.mark.skipif(pyarrow is None, reason="pyarrow is not installed")


def about(number):
    """The metadata that img2dataset stores with image `number`."""
    return {
        "caption": f"a red bus, number {number} é",
        "url": f"http://example.org/{number}.jpg",
        "key": f"{number:09}",
        "status": "success",
        "error_message": None,
        "width": 8,
        "height": 16,
        "exif": "{}",
    }


def members(number):
    meta = about(number)
    return {
        f"{meta['key']}.jpg": photo(number),
        f"{meta['key']}.txt": meta["caption"].encode(),
        f"{meta['key']}.json": json.dumps(meta, indent=4).encode(),
    }


def write_tar(path, files, *special):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in special:
            tar.addfile(member)


def write_parquet(path, rows, *, group=100):
    assert pyarrow is not None and parquet is not None
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)


def write_metadata(folder, shard, rows):
    """The NNNNN.parquet and NNNNN_stats.json that lie beside every form."""
    if pyarrow is None:
        (folder / f"{shard:05}.parquet").write_bytes(b"PAR1")
    else:
        write_parquet(folder / f"{shard:05}.parquet", rows)
    (folder / f"{shard:05}_stats.json").write_text(json.dumps({"count": len(rows)}))


def expect(found, keys, source="cc3m"):
    """Every record equals what was written for the number in its key."""
    assert len(found) == len(keys)
    for key, number in keys.items():
        assert found[key]["image"] == photo(number)
        assert found[key]["captions"] == [about(number)["caption"]]
        assert found[key]["source"] == source
    assert len({record["identity"] for record in found.values()}) == len(keys)


def three_tars(folder):
    folder.mkdir()
    for shard in range(3):
        numbers = [shard * 10_000 + n for n in range(4)]
        write_tar(
            folder / f"{shard:05}.tar", {k: v for n in numbers for k, v in members(n).items()}
        )
        write_metadata(folder, shard, [about(n) for n in numbers])
    return {f"{s:05}.tar/{s * 10_000 + n:09}": s * 10_000 + n for s in range(3) for n in range(4)}


def test_tars(tmp_path, capsys):
    keys = three_tars(tmp_path / "cc3m")
    splits = caption_splits("cc3m", tmp_path / "cc3m")
    found, faults = checked(splits["train"])
    expect(found, keys)
    assert not faults
    assert "12 records in tars" in capsys.readouterr().out


def test_tars_through_prepare_in_processes(tmp_path):
    keys = three_tars(tmp_path / "sbu")
    assert (
        prepare.main(
            ["sbu", f"--source={tmp_path / 'sbu'}", f"--out={tmp_path}/out", "--workers=2"]
        )
        == 0
    )
    source = records.open_dataset(tmp_path / "out", "sbu", "train")
    expect({r["key"]: r for r in (source[i] for i in range(len(source)))}, keys, "sbu")


def special(name, kind, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


UNSAFE = [
    special("../evil.jpg", tarfile.REGTYPE),
    special("a/../../evil.jpg", tarfile.REGTYPE),
    special("b.jpg", tarfile.SYMTYPE, "/etc/passwd"),
    special("c.jpg", tarfile.SYMTYPE, "../../outside"),
    special("d.jpg", tarfile.LNKTYPE, "/etc/passwd"),
    special("e.jpg", tarfile.CHRTYPE),
    special("f.jpg", tarfile.BLKTYPE),
    special("g.jpg", tarfile.FIFOTYPE),
]


@pytest.mark.parametrize("member", UNSAFE, ids=lambda m: f"{m.name}:{m.linkname}")
def test_what_tarfile_refuses_is_a_fault_of_that_record(tmp_path, member):
    with pytest.raises(tarfile.FilterError):
        tarfile.data_filter(member, str(tmp_path))
    write_tar(tmp_path / "0.tar", members(1), member)
    found, faults = checked(tar_split([tmp_path / "0.tar"], source="cc3m"))
    expect(found, {"0.tar/000000001": 1})
    assert faults == [(f"0.tar/{member.name}", "unsafe-member")]


def test_absolute_paths_and_inner_links_are_refused_and_folders_are_not(tmp_path):
    write_tar(
        tmp_path / "0.tar",
        {f"./sub/{name}": data for name, data in members(1).items()},
        special("sub", tarfile.DIRTYPE),
        special("/etc/a.jpg", tarfile.REGTYPE),
        special("sub/b.jpg", tarfile.SYMTYPE, "000000001.jpg"),
    )
    found, faults = checked(tar_split([tmp_path / "0.tar"], source="cc3m"))
    expect(found, {"0.tar/sub/000000001": 1})
    assert [reason for _, reason in faults] == ["unsafe-member"] * 2


def test_faults_of_tar_records(tmp_path):
    files = members(1)
    meta = json.dumps({"caption": "from json"}).encode()
    files |= {"a.png": photo(2, "PNG"), "a.json": meta}  # no .txt: the caption of the .json
    files |= {"b.jpg": photo(3), "b.txt": b"caf\xe9"}
    files |= {"c.jpg": photo(4)}
    files |= {"d.txt": b"no image"}
    files |= {"e.jpg": photo(5), "e.json": b"{"}
    files |= {"f.jpg": b"", "f.txt": b"empty"}
    write_tar(tmp_path / "0.tar", files)
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        member = tarfile.TarInfo("000000001.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"twice"))
    found, faults = checked(tar_split([tmp_path / "0.tar"], source="cc3m"))
    assert found.keys() == {"0.tar/000000001", "0.tar/a"}
    assert found["0.tar/a"]["captions"] == ["from json"]
    assert found["0.tar/000000001"]["captions"] == [about(1)["caption"]]
    assert {(key.removeprefix("0.tar/"), reason) for key, reason in faults} == {
        ("b", "invalid-caption"),
        ("b", "no-caption"),
        ("c", "no-caption"),
        ("d", "missing-image"),
        ("e", "bad-json"),
        ("f", "empty"),
        ("000000001.txt", "duplicate-member"),
    }


def test_a_cut_tar_gives_what_is_whole(tmp_path):
    write_tar(tmp_path / "0.tar", members(1) | {"x.txt": b"text", "x.jpg": photo(2) * 20})
    whole = (tmp_path / "0.tar").read_bytes()
    start = whole.index(b"x.jpg") + 512
    (tmp_path / "0.tar").write_bytes(whole[: start + 100])
    (tmp_path / "1.tar").write_bytes(b"this is no tar" * 100)
    write_tar(tmp_path / "2.tar", members(3))
    tars = sorted(tmp_path.glob("*.tar"))
    found, faults = checked(tar_split(tars, source="cc3m"))
    expect(found, {"0.tar/000000001": 1, "2.tar/000000003": 3})
    assert faults == [
        ("0.tar/x", "truncated"),
        ("0.tar", "damaged-tar"),
        ("1.tar", "damaged-tar"),
    ]


def test_a_tar_cut_between_members_is_told(tmp_path):
    write_tar(tmp_path / "0.tar", members(1) | members(2))
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: whole.index(b"000000002.jpg")])
    found, faults = checked(tar_split([tmp_path / "0.tar"], source="cc3m"))
    expect(found, {"0.tar/000000001": 1})
    assert faults == [("0.tar", "damaged-tar")]


SIZES = {
    "negative": b"\xff" * 12,
    "beyond 64 bits": b"\x80" + b"\x7f" * 11,
    "8 GB": b"77777777777\0",
    "no number": b"?" * 12,
}


@pytest.mark.parametrize("size", SIZES)
def test_senseless_sizes_cost_one_tar(tmp_path, size):
    """The third header lies about its size; its checksum is right."""
    write_tar(tmp_path / "0.tar", members(1) | {"x.jpg": photo(2), "x.txt": b"text"})
    write_tar(tmp_path / "1.tar", members(3))
    data = bytearray((tmp_path / "0.tar").read_bytes())
    start = data.index(b"x.jpg")
    data[start + 124 : start + 136] = SIZES[size]
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    (tmp_path / "0.tar").write_bytes(data)
    tars = sorted(tmp_path.glob("*.tar"))
    found, faults = checked(tar_split(tars, source="cc3m"))
    expect(found, {"0.tar/000000001": 1, "1.tar/000000003": 3})
    assert faults


def test_rows_of_tars_are_small(tmp_path):
    files = {f"{n:09}.{end}": b"x" for n in range(1000) for end in ("jpg", "txt")}
    write_tar(tmp_path / "0.tar", files)
    tracemalloc.start()
    split = tar_split([tmp_path / "0.tar"], source="cc3m")
    gc.collect()
    ours = tracemalloc.Filter(True, "*ivt_jax*")  # tables of the interpreter may grow meanwhile
    held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)
    tracemalloc.stop()
    assert len(split.items) == 1000
    assert 20 < held / 1000 < 200  # bytes a record; 3 M records fit into 600 MB


def two_file_shards(folder):
    keys = {}
    for shard in range(2):
        inner = folder / f"{shard:05}"
        inner.mkdir(parents=True)
        numbers = [shard * 10_000 + n for n in range(3)]
        for number in numbers:
            for name, data in members(number).items():
                (inner / name).write_bytes(data)
            keys[f"{shard:05}/{number:09}.jpg"] = number
        write_metadata(folder, shard, [about(n) for n in numbers])
    return keys


def test_files(tmp_path):
    keys = two_file_shards(tmp_path)
    (tmp_path / "00000" / "000000001.txt").unlink()  # its .json has the caption as well
    (tmp_path / "00001" / "lost.txt").write_text("no image")
    found, faults = checked(caption_splits("cc3m", tmp_path)["train"])
    expect(found, keys)
    assert faults == [("00001/lost.txt", "missing-image")]


def parquet_rows(numbers, failed):
    rows = [
        {"key": f"{n:09}", "jpg": photo(n), "txt": about(n)["caption"]} | about(n) for n in numbers
    ]
    lost = {"jpg": None, "txt": None, "status": "failed_to_download"}
    return rows + [about(n) | {"key": f"{n:09}"} | lost for n in failed]


def two_parquet_files(folder):
    folder.mkdir(exist_ok=True)
    for shard, numbers in enumerate([range(5), range(10, 14)]):
        rows = parquet_rows(numbers, [90 + shard])
        write_parquet(folder / f"{shard:05}.parquet", rows, group=2)


@needs_pyarrow
def test_parquet_with_images(tmp_path, capsys):
    two_parquet_files(tmp_path)
    (tmp_path / "00002.parquet").write_bytes(b"PAR1 and nothing else")
    found, faults = checked(caption_splits("cc3m", tmp_path)["train"])
    keys = {f"00000.parquet/{n:09}": n for n in range(5)}
    expect(found, keys | {f"00001.parquet/{n:09}": n for n in range(10, 14)})
    assert faults == [("00002.parquet", "damaged-parquet")]
    assert "without 2 rows that were never downloaded" in capsys.readouterr().out


def test_parquet_needs_its_extra(tmp_path, monkeypatch):
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install '\.\[parquet\]'"):
        caption_splits("cc3m", tmp_path)


@needs_pyarrow
def test_metadata_alone_is_not_recognised(tmp_path):
    write_metadata(tmp_path, 0, [about(1)])
    with pytest.raises(DataError, match="not recognised as cc3m; it is read from .*img2dataset"):
        caption_splits("cc3m", tmp_path)
