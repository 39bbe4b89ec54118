#!/usr/bin/env python3
"""Makes token shards for Dither from text, with a byte-level BPE vocabulary of the Hugging Face `tokenizers` library.

Needs Python 3.9 or newer and one package:
  python3 -m venv .venv && .venv/bin/pip install tokenizers

Train a vocabulary of 8,192 tokens on the text itself and hold out the last 2 % of each file:
  .venv/bin/python scripts/prepare_data.py --output data/x --train-tokenizer 8192 x.txt.xz --validation-fraction 0.02
Use GPT-2's vocabulary and a validation file of its own:
  .venv/bin/python scripts/prepare_data.py --output data/x --gpt2 encoder.json vocab.bpe train.txt --validation val.txt
Use any byte-level tokenizer.json (Llama 3, Qwen 2.5, ...):
  .venv/bin/python scripts/prepare_data.py --output data/x --tokenizer llama3.json --end-of-text '<|end_of_text|>' *.txt

Writes train_000000.bin, ..., val_000000.bin, ..., tokenizer.bin and tokenizer.json (docs/data-format.md). Shards are
16-bit for up to 65,536 tokens, else 32-bit. A line `<|endoftext|>` in a text separates documents; the text itself never
produces a special token. Each document is followed by the end-of-text token.
Compressed files are known by their first bytes; what is no text (archives, Parquet, PDF, UTF-16, JSON Lines, zero
bytes) is refused with the command that makes text of it.
"""

import argparse
import array
import bz2
import contextlib
import gzip
import json
import lzma
import os
import re
import shlex
import struct
import sys
import time
import zlib
from pathlib import Path

SEPARATOR = b"<|endoftext|>"  # alone on its line: the end of a document
CHUNK_BYTES = 1 << 18  # text encoded at once: bounds the memory that a file without separators takes
BATCH_CHUNKS = 64  # chunks that the library spreads over the cores: 16 MiB of text
SHARD_16 = (20240520, 1, "H")  # magic, version, array type of uint16
SHARD_32 = (20240801, 7, "I")  # ... of uint32
TOKENIZER_MAGIC = 20240328
HEADER_BYTES = 1024
LEAST_SHARD = (1 << 20) + 1  # tokens: the longest window that a config allows; a shorter shard may hold no sample
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OPENERS = {b"\xfd7zXZ\0": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}  # by the first bytes, not the name
SUFFIXES = (".xz", ".gz", ".bz2")
# What is no text: magic bytes, where they are, what it is, the command that helps. src/data/text_kind.cpp has the same.
OTHER_KINDS = (
    (b"\x28\xb5\x2f\xfd", 0, "compressed by zstd", "zstdcat {0} > {0}.txt"),
    (b"\x04\x22\x4d\x18", 0, "compressed by lz4", "lz4cat {0} > {0}.txt"),
    (b"\x1f\x9d", 0, "compressed by compress", "zcat {0} > {0}.txt"),
    (b"PK\x03\x04", 0, "a zip archive (or .docx, .epub, .xlsx)", "unzip -p {0} > {0}.txt"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "7z x -so {0} > {0}.txt"),
    (b"ustar", 257, "a tar archive", "tar -xOf {0} > {0}.txt"),
    (b"PAR1", 0, "a Parquet table",
     "python3 -c 'import pandas, sys; print(*pandas.read_parquet(sys.argv[1]).text, sep=\"\\n<|endoftext|>\\n\")' {0} > {0}.txt"),
    (b"ARROW1", 0, "an Arrow table",
     "python3 -c 'import pandas, sys; print(*pandas.read_feather(sys.argv[1]).text, sep=\"\\n<|endoftext|>\\n\")' {0} > {0}.txt"),
    (b"%PDF-", 0, "a PDF document", "pdftotext {0} {0}.txt"),
    (b"{\\rtf", 0, "an RTF document", "unrtf --text {0} > {0}.txt"),
    (b"\x88\xd8\x34\x01", 0, "a shard of tokens already (16 bits)", "name it in data.train"),
    (b"\xa1\xd9\x34\x01", 0, "a shard of tokens already (32 bits)", "name it in data.train"),
    (b"\xff\xfe\0\0", 0, "text in UTF-32", "iconv -f UTF-32 -t UTF-8 {0} > {0}.txt"),
    (b"\0\0\xfe\xff", 0, "text in UTF-32", "iconv -f UTF-32 -t UTF-8 {0} > {0}.txt"),
    (b"\xff\xfe", 0, "text in UTF-16", "iconv -f UTF-16 -t UTF-8 {0} > {0}.txt"),
    (b"\xfe\xff", 0, "text in UTF-16", "iconv -f UTF-16 -t UTF-8 {0} > {0}.txt"),
)
JSON_TEXT = re.compile(rb'\{.*"(text|content|raw_content)" *: *"')


class Failure(Exception):
    """What the user or the world caused; main() prints it without a stack trace."""


def main():
    options = parse_arguments()
    try:
        check_inputs(options.text + options.validation, options.output)
        tokenizers = import_tokenizers()
        tokenizer = make_tokenizer(tokenizers, options)
        write_corpus(tokenizer, options)
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except OSError as failure:  # a full disk, a folder that cannot be made
        sys.exit(f"error: {failure}")


def parse_arguments():
    summary, _, details = __doc__.partition("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details, formatter_class=form)
    add = parser.add_argument
    add("text", nargs="+", type=Path, help="UTF-8 text files: plain, .xz, .gz or .bz2")
    add("--output", required=True, type=Path, metavar="FOLDER", help="where the shards go")
    add("--end-of-text", default="<|endoftext|>", metavar="TOKEN", help="ends each document; default %(default)s")
    add("--shard-tokens", type=int, default=100_000_000, metavar="N", help="tokens in a shard; default %(default)s")
    add("--train-bytes", type=int, default=200_000_000, metavar="N",
        help="train the tokenizer on the first N bytes of the training text; default %(default)s")

    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--train-tokenizer", type=int, metavar="SIZE", help="train a byte-level BPE of SIZE tokens on the text")
    add("--tokenizer", type=Path, metavar="FILE", help="use this tokenizer.json (byte-level BPE)")
    add("--gpt2", nargs=2, type=Path, metavar=("ENCODER", "MERGES"), help="use GPT-2's encoder.json and vocab.bpe")

    add = parser.add_mutually_exclusive_group().add_argument
    add("--validation", nargs="+", type=Path, default=[], metavar="TEXT", help="files held out whole")
    add("--validation-fraction", type=float, default=0.0, metavar="F",
        help="hold out the last F of each file, from the first document (else line) that starts there; default 0")

    options = parser.parse_args()
    if not 0 <= options.validation_fraction < 1:
        parser.error(f"--validation-fraction is {options.validation_fraction}, needs 0 or more and less than 1")
    if options.train_tokenizer is not None and options.train_tokenizer < 257:
        parser.error(f"--train-tokenizer is {options.train_tokenizer}, needs 257 or more: 256 bytes and end of text")
    if options.train_bytes < 1:
        parser.error(f"--train-bytes is {options.train_bytes}, needs 1 or more")
    if options.shard_tokens < LEAST_SHARD:
        parser.error(f"--shard-tokens is {options.shard_tokens}, needs {LEAST_SHARD} or more: a shard that is shorter "
                     "than model.sequence_length + 1 holds no sample")
    return options


def import_tokenizers():
    try:
        import tokenizers
    except ImportError:
        raise Failure(
            "the Python package `tokenizers` is missing; install it into a virtual environment:\n"
            "       python3 -m venv .venv && .venv/bin/pip install tokenizers\n"
            "       and run this script with .venv/bin/python (`dither tokenize` needs no Python: one token a byte)"
        ) from None
    return tokenizers


def check_inputs(texts, output):
    for path in texts:
        if not path.is_file():
            raise Failure(f"{path}: {'not a file' if path.exists() else 'no such text file'}")
        check_is_text(path)
    old = [path for pattern in ("train_*.bin", "val_*.bin", "tokenizer.*") for path in sorted(output.glob(pattern))]
    if old:
        raise Failure(
            f"{old[0]}: is there already, and shards of two corpora must not mix; "
            "remove train_*.bin, val_*.bin and tokenizer.* from this folder or name another one"
        )


def check_is_text(path):
    """Looks at the first MiB of the text. NUL bytes further on are found when the text is read (chunks())."""
    with open_text(path) as file:
        start = file.read(1 << 20)
    for magic, offset, what, command in OTHER_KINDS:
        if start.startswith(magic, offset):
            raise Failure(f"{path}: {what}, needs plain text in UTF-8\n       cure: {command.format(shlex.quote(str(path)))}")
    lines = [line for line in start.removeprefix(BYTE_ORDER_MARK).split(b"\n", 2)[:2] if line.strip()]
    fields = [JSON_TEXT.match(line) for line in lines]
    if fields and all(fields) and (len(lines) < 2 or lines[0].rstrip().endswith(b"}")):
        field = fields[0][1].decode()
        word = shlex.quote(str(path))
        raise Failure(
            f'{path}: JSON Lines (objects with a field "{field}"), needs plain text in UTF-8\n'
            f"       cure: jq -r '.{field}, \"<|endoftext|>\"' {word} > {word}.txt"
        )
    check_has_no_zero(path, start, 0)


def check_has_no_zero(path, piece, offset):
    zero = piece.find(b"\0")
    if zero < 0:
        return
    word = shlex.quote(str(path))
    if piece.count(b"\0") * 4 > len(piece):
        what, cure = " (UTF-16 without a mark?)", f"iconv -f UTF-16{'LE' if zero % 2 else 'BE'} -t UTF-8 {word}"
    else:
        what, cure = "", f"look at it (file {word}); where it is text but for zeros: tr -d '\\000' < {word}"
    raise Failure(f"{path}: byte {offset + zero} is 0, which no text has{what}, needs plain text in UTF-8\n"
                  f"       cure: {cure} > {word}.txt")


@contextlib.contextmanager
def open_text(path):
    try:
        with open(path, "rb") as file:
            start = file.read(8)
        packed = [opener for magic, opener in OPENERS.items() if start.startswith(magic)]
        if not packed and path.suffix in SUFFIXES:
            raise Failure(f"{path}: is not what its name says: it does not begin as a {path.suffix} file does")
        with (packed[0] if packed else open)(path, "rb") as file:
            yield file
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as failure:  # the decompressors' messages do not name the file
        raise Failure(f"{path}: could not read the text: {failure}") from None


def is_separator(line):
    return line.removeprefix(BYTE_ORDER_MARK).strip() == SEPARATOR  # the mark of a file, or of one that was appended


# ---- text to chunks -------------------------------------------------------------------------------------------------


def validation_start(path, fraction):
    """The byte of the unpacked file at which validation begins: the first document that starts in the last `fraction`,
    or, where none does, the first line. Reads the file once; None if nothing is held out."""
    if fraction == 0:
        return None
    size, document_starts = 0, []
    with open_text(path) as file:
        for line in file:
            size += len(line)
            if is_separator(line):
                document_starts.append(size)
    cut = size - int(fraction * size)
    for start in document_starts:
        if cut <= start < size:
            return start
    return cut  # chunks() waits for the end of the line


def chunks(path, begin, end):
    """Yields (text, ends_document) for the lines that start in bytes [begin, end) of the unpacked file.

    A document longer than CHUNK_BYTES is cut between a letter or digit with its newline and a line that starts with
    one: the splits of GPT-2, Llama 3 and Qwen put no piece across such a place, so the ids do not change."""
    parts, held, at, line_number = [], 0, 0, 0

    def text():
        try:
            return b"".join(parts).decode("utf-8")
        except UnicodeDecodeError as failure:
            what = f"not UTF-8 in the text that ends at line {line_number} ({failure.reason})"
            raise Failure(f"{path}: {what}; convert it first, for example with iconv") from None

    with open_text(path) as file:
        for line in file:
            start, at, line_number = at, at + len(line), line_number + 1
            if start < begin:
                continue
            if end is not None and start >= end:
                break
            if is_separator(line):
                if held:
                    yield text(), True
                parts, held = [], 0
                continue
            if b"\0" in line:
                check_has_no_zero(path, line, start)
            if start == 0:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if held >= CHUNK_BYTES and line[:1].isalnum() and parts[-1][-2:-1].isalnum() and parts[-1].endswith(b"\n"):
                yield text(), False
                parts, held = [], 0
            parts.append(line)
            held += len(line)
    if held:
        yield text(), True


# ---- vocabularies ---------------------------------------------------------------------------------------------------


def make_tokenizer(tokenizers, options):
    if options.train_tokenizer is not None:
        tokenizer = train_tokenizer(tokenizers, options)
    elif options.gpt2 is not None:
        encoder, merges = (readable(path) for path in options.gpt2)
        model = attempt(encoder, lambda: tokenizers.models.BPE.from_file(encoder, merges))
        tokenizer = byte_level(tokenizers, model)
        tokenizer.add_special_tokens([options.end_of_text])
    else:
        path = readable(options.tokenizer)
        tokenizer = attempt(path, lambda: tokenizers.Tokenizer.from_file(path))
    if tokenizer.token_to_id(options.end_of_text) is None:
        special = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values())
        raise Failure(
            f"the tokenizer has no token {options.end_of_text}; name the one that ends a document with --end-of-text"
            + (f"; its special tokens: {' '.join(special[:20])}" if special else "")
        )
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" within a text is text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def readable(path):
    if not path.is_file():
        raise Failure(f"{path}: no such tokenizer file")
    return str(path)


def attempt(path, load):
    try:
        return load()
    except Exception as failure:  # the library raises plain Exception for whatever is wrong in a file
        raise Failure(f"{path}: not a tokenizer that the `tokenizers` library can read: {failure}") from None


def byte_level(tokenizers, model):
    """GPT-2's way: its split of the text, no space put in front, bytes as letters."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def train_tokenizer(tokenizers, options):
    def texts():
        left = options.train_bytes
        for path in options.text:
            for text, _ in chunks(path, 0, validation_start(path, options.validation_fraction)):
                yield text
                left -= len(text.encode("utf-8"))
                if left <= 0:
                    return

    say(f"training a vocabulary of {options.train_tokenizer:,} tokens")
    tokenizer = byte_level(tokenizers, tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=options.train_tokenizer - 1,  # end of text comes last, as in GPT-2
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_special_tokens([options.end_of_text])
    if tokenizer.get_vocab_size() < options.train_tokenizer:
        say(f"the text gives only {tokenizer.get_vocab_size():,} tokens: no pair is left to merge")
    return tokenizer


def byte_strings(tokenizer):
    """The bytes of every token by id. Byte-level vocabularies write each byte as one letter: printable ones as
    themselves, the others as U+0100, U+0101, ... in their order. Special tokens are plain text."""
    pipeline = json.loads(tokenizer.to_str())
    if '"ByteLevel"' not in json.dumps([pipeline["pre_tokenizer"], pipeline["decoder"]]):
        raise Failure("the tokenizer is not a byte-level BPE (GPT-2, Llama 3, Qwen, ...); others are not supported")
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of.update({chr(0x100 + rank): byte for rank, byte in enumerate(others)})

    plain = tokenizer.get_added_tokens_decoder()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    strings = [b""] * (max(vocabulary.values()) + 1)  # ids that no token has stay empty
    for token, number in vocabulary.items():
        if number in plain:
            strings[number] = plain[number].content.encode("utf-8")
            continue
        unknown = [letter for letter in token if letter not in byte_of]
        if unknown:
            raise Failure(f"token {number} has {unknown[0]!r}, which stands for no byte: not a byte-level BPE")
        strings[number] = bytes(byte_of[letter] for letter in token)
    return strings


# ---- chunks to shards -----------------------------------------------------------------------------------------------


class Outputs:
    """Files that appear together: written as *.partial, renamed at the end, removed after an error."""

    def __init__(self, folder):
        self.folder, self.names = folder, []
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name):
        self.names.append(name)
        return self.folder / f"{name}.partial"

    def discard(self, name):
        """Takes a file back; its bytes."""
        self.names.remove(name)
        partial = self.folder / f"{name}.partial"
        content = partial.read_bytes()
        partial.unlink()
        return content

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for name in self.names:
            partial = self.folder / f"{name}.partial"
            if kind is None:
                os.replace(partial, self.folder / name)
            else:
                with contextlib.suppress(OSError):
                    partial.unlink()


class ShardWriter:
    def __init__(self, outputs, split, vocabulary, shard_tokens):
        self.outputs, self.split, self.shard_tokens = outputs, split, shard_tokens
        self.magic, self.version, self.type = SHARD_16 if vocabulary <= 1 << 16 else SHARD_32
        self.file, self.in_shard, self.tokens, self.shards = None, 0, 0, 0

    def append(self, ids):
        while ids:
            if self.file is None:
                self.file = open(self.outputs.path(self.name(self.shards)), "wb")
                self.file.write(bytes(HEADER_BYTES))
                self.in_shard, self.shards = 0, self.shards + 1
            part, ids = ids[: self.shard_tokens - self.in_shard], ids[self.shard_tokens - self.in_shard :]
            words = array.array(self.type, part)
            if sys.byteorder == "big":
                words.byteswap()
            words.tofile(self.file)
            self.in_shard += len(part)
            self.tokens += len(part)
            if self.in_shard == self.shard_tokens:
                self.close()

    def name(self, shard):
        return f"{self.split}_{shard:06d}.bin"

    def end(self):
        """Completes the last shard. One that is shorter than LEAST_SHARD goes to the end of the shard before it."""
        if self.file is not None and self.shards > 1 and self.in_shard < LEAST_SHARD:
            self.file.close()
            last = self.outputs.discard(self.name(self.shards - 1))
            self.shards -= 1
            self.file = open(self.outputs.folder / f"{self.name(self.shards - 1)}.partial", "r+b")
            self.file.seek(0, os.SEEK_END)
            self.file.write(last[HEADER_BYTES:])
            self.in_shard += self.shard_tokens
        self.close()

    def close(self):
        if self.file is None:
            return
        self.file.seek(0)
        self.file.write(struct.pack("<IIQ", self.magic, self.version, self.in_shard))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.file = None


def write_corpus(tokenizer, options):
    strings = byte_strings(tokenizer)
    end_of_text = tokenizer.token_to_id(options.end_of_text)
    cuts = [(path, validation_start(path, options.validation_fraction)) for path in options.text]
    train = [(path, 0, cut) for path, cut in cuts]
    validation = [(path, cut, None) for path, cut in cuts if cut is not None]
    validation += [(path, 0, None) for path in options.validation]
    with Outputs(options.output) as outputs:
        for split, ranges in (("train", train), ("val", validation)):
            writer = ShardWriter(outputs, split, len(strings), options.shard_tokens)
            write_split(tokenizer, end_of_text, strings, ranges, writer)
            if ranges and writer.tokens == 0:
                raise Failure(
                    f"no text for {split} in {ranges[0][0]}"
                    + ("; raise --validation-fraction or add text" if split == "val" else "")
                )
        longest = max(len(string) for string in strings)
        with open(outputs.path("tokenizer.bin"), "wb") as file:
            version, length = (2, "<B") if longest < 256 else (3, "<H")
            words = struct.pack("<IIII", TOKENIZER_MAGIC, version, len(strings), end_of_text)
            file.write(words.ljust(HEADER_BYTES, b"\0"))
            for string in strings:
                file.write(struct.pack(length, len(string)) + string)
        tokenizer.save(str(outputs.path("tokenizer.json")))
    say(f"{options.output}: vocabulary {len(strings):,}; set model.vocabulary to it")


def write_split(tokenizer, end_of_text, strings, ranges, writer):
    started, text_bytes, given_back, batch = time.monotonic(), 0, 0, []
    lengths = [len(string) for string in strings]

    def flush():
        nonlocal text_bytes, given_back
        encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)  # without offsets, where it exists
        for encoding, (text, ends) in zip(encode([text for text, _ in batch], add_special_tokens=False), batch):
            writer.append(encoding.ids + [end_of_text] * ends)
            text_bytes += len(text.encode("utf-8"))
            given_back += sum(map(lengths.__getitem__, encoding.ids))
        batch.clear()

    for path, begin, end in ranges:
        for chunk in chunks(path, begin, end):
            batch.append(chunk)
            if len(batch) == BATCH_CHUNKS:
                flush()
    flush()
    writer.end()
    if not writer.tokens:
        return
    say(
        f"{writer.split}: {counted(writer.tokens, 'token')} in {counted(writer.shards, 'shard')}, {given_back:,} bytes "
        f"of text, {given_back / writer.tokens:.2f} bytes a token, {time.monotonic() - started:.0f} s"
    )
    normalizer = json.loads(tokenizer.to_str())["normalizer"]
    if normalizer is not None or given_back != text_bytes:
        how = f"normalizes text ({normalizer['type']})" if normalizer is not None else "changes text"
        say(
            f"note: the tokenizer {how}: the tokens stand for {given_back:,} bytes, the text has {text_bytes:,}; bits per "
            "byte are of the text as the tokens give it back, and compare with no other tokenizer's"
        )


def counted(n, noun):
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
