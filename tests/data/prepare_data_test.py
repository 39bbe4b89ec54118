#!/usr/bin/env python3
"""scripts/prepare_data.py: what it refuses before it needs its package, and, where the package is there, what it writes."""

import gzip
import importlib.util
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"
HAS_PACKAGE = importlib.util.find_spec("tokenizers") is not None


def run(*words):
    result = subprocess.run([sys.executable, "-B", SCRIPT, *map(str, words)], capture_output=True, text=True)
    return result.returncode, result.stderr


def prepare(folder, content, *words):
    text = folder / "text.txt"
    text.write_bytes(content)
    output = folder / "out"
    for old in output.glob("*") if output.exists() else ():
        old.unlink()
    return run("--output", output, *(words or ("--train-tokenizer", "300")), text)


def tokens_of(shard):
    content = shard.read_bytes()
    magic, version, count = struct.unpack("<IIQ", content[:16])
    assert (magic, version, len(content)) == (20240520, 1, 1024 + 2 * count), (magic, version, count)
    return struct.unpack(f"<{count}H", content[1024:])


def check_refusals(folder):
    """Catches: archives, other encodings and records that are tokenized as prose; prose that is refused."""
    rest = b"and so on\nand on\n"
    for start, command in (
        (b"\x28\xb5\x2f\xfd", "zstdcat"), (b"PAR1", "read_parquet"), (b"%PDF-1.4\n", "pdftotext"), (b"PK\x03\x04", "unzip"),
        (b"\xff\xfeh\0i\0", "iconv -f UTF-16 -t UTF-8"), (b"\xff\xfe\0\0h\0\0\0", "iconv -f UTF-32"),
        (b"h\0e\0l\0l\0o\0 \0a\0l\0l\0", "iconv -f UTF-16LE"), (b"a text\0with a zero, and more", "tr -d"),
        (b'{"text": "one"}\n{"id": 3, "text": "two"}\n', "jq -r"), (b"x" * 257 + b"ustar", "tar"),
    ):
        content = start if command == "jq -r" else start + rest
        for packed in (content, gzip.compress(content)):
            status, error = prepare(folder, packed)
            assert status == 1 and "needs plain text in UTF-8\n       cure: " in error and command in error, (start, error)
    status, error = run("--output", folder / "out", "--train-tokenizer", "300", "--shard-tokens", "1000", folder / "text.txt")
    assert status == 2 and "--shard-tokens is 1000, needs 1048577 or more" in error, error
    for prose in (b'{"text": "x"}\nprose\n', b"{\n", b"PAR 1\n"):
        status, error = prepare(folder, prose * 20)
        assert "needs plain text" not in error, error


def check_shards(folder):
    """Catches: a byte order mark taken for text or hiding a separator, a name that decides how a file is unpacked, a
    remainder that is lost, bytes counted that decoding does not give back."""
    body = b"".join(b"line %d of some text\n" % i for i in range(2000))
    assert prepare(folder, b"<|endoftext|>\n" + body)[0] == 0
    plain = tokens_of(folder / "out/train_000000.bin")
    for content in (b"\xef\xbb\xbf<|endoftext|>\n" + body, b"\xef\xbb\xbf" + body, gzip.compress(body)):
        assert prepare(folder, content)[0] == 0
        assert tokens_of(folder / "out/train_000000.bin") == plain

    numbers = b"".join(b"%d\n" % (i * 7919 % 1000003) for i in range(300_000))
    assert prepare(folder, numbers, "--train-tokenizer", "257", "--shard-tokens", str(1 << 20 | 1))[0] == 0
    shards = sorted((folder / "out").glob("train_*.bin"))
    assert len(shards) == 1, shards
    assert bytes(t for t in tokens_of(shards[0])[:-1]).__len__() == len(numbers)

    from tokenizers import normalizers
    made = json.loads((folder / "out/tokenizer.json").read_text())
    made["normalizer"] = {"type": "NFC"}
    (folder / "nfc.json").write_text(json.dumps(made))
    text = "cafe\u0301 " * 100
    status, error = prepare(folder, text.encode(), "--tokenizer", folder / "nfc.json")
    assert status == 0, error
    after = len(normalizers.NFC().normalize_str(text).encode())
    assert f"(NFC): the tokens stand for {after} bytes, the text has {len(text.encode())}" in error, error


with tempfile.TemporaryDirectory() as name:
    check_refusals(Path(name))
    if HAS_PACKAGE:
        check_shards(Path(name))
print("all hold" if HAS_PACKAGE else "all that needs no package `tokenizers` holds")
