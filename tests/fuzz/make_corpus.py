#!/usr/bin/env python3
"""Writes the seeds and dictionaries of the fuzzers: tests/fuzz/corpus/<target>/{valid,bad}-* and tests/fuzz/*.dict.

    tests/fuzz/make_corpus.py           writes them
    tests/fuzz/make_corpus.py --check   fails where what is committed differs

valid-* must be accepted and bad-* refused: the replay in CTest holds the readers to it. Each bad one has a single
fault, next to the line that the reader draws. finding-* are what fuzzers once found: kept by hand, not looked at.
The names of configuration keys come from docs/config.schema.json.
"""
import json
import re
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCHEMA = json.loads((HERE / "../../docs/config.schema.json").read_text())
MAX = 2**63 - 1


def safetensors(header, data=b"", length=None):
    """A file; `header` is an object or the very text, `length` what it says of the header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    types = [("F64", 8), ("I64", 8), ("U64", 8), ("F32", 4), ("I32", 4), ("U32", 4), ("F16", 2), ("BF16", 2), ("I16", 2),
             ("U16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("I8", 1), ("U8", 1), ("BOOL", 1)]
    every, end = {"__metadata__": {"format": "pt", "step": "12", "": ""}}, 0
    for name, size in types:
        every["x." + name] = tensor(name, [3], end, end + 3 * size)
        end += 3 * size
    two = {"b": tensor("U8", [2], 4, 6), "a": tensor("F32", [], 0, 4)}
    data = bytes(range(6))
    yield "valid-every-type", safetensors(every, bytes(range(end)))
    yield "valid-out-of-order", safetensors(two, data)
    yield "valid-empty", safetensors({})
    yield "valid-spaces", safetensors(json.dumps(two).encode() + b" " * 13, data)
    yield "valid-empty-tensors", safetensors({"a": tensor("F32", [0, MAX], 0, 0), "b": tensor("U8", [1], 0, 1)}, b"x")
    yield "valid-odd-names", safetensors({"\u00e9\u4e2d\U0001f600": tensor("U8", [], 0, 1), "": tensor("U8", [], 1, 2),
                                          "\u0000\n\"": tensor("U8", [], 2, 3)}, b"xyz")
    yield "valid-utf8", safetensors(json.dumps({"\u00e9": tensor("U8", [], 0, 1)}, ensure_ascii=False).encode(), b"x")
    yield "valid-unaligned", safetensors({"a": tensor("U8", [1], 0, 1), "b": tensor("F64", [1], 1, 9)}, bytes(9))

    yield "bad-no-bytes", b""
    yield "bad-seven-bytes", bytes(7)
    yield "bad-length-beyond-file", safetensors(two, data, 2**63)
    yield "bad-length-by-one", safetensors({}, b"", 3)
    yield "bad-data-short", safetensors(two, data[:-1])
    yield "bad-data-long", safetensors(two, data + b"x")
    yield "bad-gap", safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 3, 5)}, data)
    yield "bad-overlap", safetensors({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, data)
    yield "bad-size", safetensors({"a": tensor("F32", [2], 0, 6)}, data)
    yield "bad-product-overflows", safetensors({"a": tensor("U8", [2**32, 2**32], 0, 0)})
    yield "bad-product-overflows-before-0", safetensors({"a": tensor("F64", [MAX, 0], 0, 0)})
    yield "bad-offsets-fall", safetensors({"a": tensor("U8", [0], 6, 0)}, data)
    yield "bad-three-offsets", safetensors({"a": {"dtype": "U8", "shape": [6], "data_offsets": [0, 6, 6]}}, data)
    yield "bad-negative", safetensors({"a": tensor("U8", [-1], 0, 6)}, data)
    yield "bad-beyond-63-bits", safetensors({"a": tensor("U8", [2**63], 0, 2**63)}, data)
    yield "bad-fraction", safetensors({"a": tensor("U8", [6.0], 0, 6)}, data)
    yield "bad-type", safetensors({"a": tensor("F31", [6], 0, 6)}, data)
    yield "bad-no-dtype", safetensors({"a": {"shape": [6], "data_offsets": [0, 6]}}, data)
    yield "bad-key", safetensors({"a": {**tensor("U8", [6], 0, 6), "stride": [1]}}, data)
    yield "bad-name-twice", safetensors(b'{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},'
                                        b'"a":{"dtype":"U8","shape":[3],"data_offsets":[3,6]}}', data)
    yield "bad-shape-twice", safetensors(b'{"a":{"dtype":"U8","shape":[3],"shape":[6],"data_offsets":[0,6]}}', data)
    yield "bad-metadata-number", safetensors({"__metadata__": {"step": 12}})
    yield "bad-metadata-list", safetensors({"__metadata__": []})
    yield "bad-metadata-twice", safetensors(b'{"__metadata__":{},"__metadata__":{}}')
    yield "bad-list", safetensors([])
    yield "bad-nested", safetensors(b'{"a":' * 200 + b"1" + b"}" * 200)
    yield "bad-nested-shape", safetensors({"a": {"dtype": "U8", "shape": [[6]], "data_offsets": [0, 6]}}, data)
    yield "bad-null", safetensors({"a": None})
    yield "bad-utf8", safetensors(b'{"\xff":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x")
    yield "bad-byte-order-mark", safetensors(b"\xef\xbb\xbf{}")
    yield "bad-zero-byte", safetensors(b"{}\0junk")
    yield "bad-json", safetensors(b'{"a":')


def shard(magic, version, tokens, body, claimed=0, fingerprint=0):
    header = struct.pack("<4I", magic, version, tokens & 0xFFFFFFFF, tokens >> 32)
    return header.ljust(1015, b"\0") + struct.pack("<BQ", fingerprint, claimed) + body


def token_shard_seeds():
    narrow, wide = struct.pack("<5H", 1, 50256, 0, 65535, 1), struct.pack("<4I", 7, 128255, 0, 2**30 - 1)
    yield "valid-narrow", shard(20240520, 1, 5, narrow)
    yield "valid-wide", shard(20240801, 7, 4, wide)
    yield "valid-no-tokens", shard(20240520, 1, 0, b"")
    # As a file; read() refuses the token.
    yield "valid-token-beyond-vocabulary", shard(20240801, 7, 1, b"\xff" * 4)
    yield "valid-first-token-beyond-vocabulary", shard(20240801, 7, 1, struct.pack("<I", 2**30))
    yield "valid-fingerprint", shard(20240520, 1, 5, narrow, fingerprint=1)
    yield "valid-fingerprint-of-two-blocks", shard(20240520, 1, 2048, bytes(range(256)) * 16, fingerprint=1)
    yield "valid-claims-exabytes", shard(20240801, 7, 4, wide, claimed=2**62)
    yield "bad-claims-all-it-can", shard(20240520, 1, MAX, narrow, claimed=MAX)
    yield "bad-no-bytes", b""
    yield "bad-one-byte-short-of-a-header", shard(20240520, 1, 0, b"")[:-1]
    yield "bad-magic", shard(20240521, 1, 5, narrow)
    yield "bad-version", shard(20240520, 7, 5, narrow)
    yield "bad-version-wide", shard(20240801, 1, 4, wide)
    yield "bad-truncated", shard(20240520, 1, 5, narrow[:-2])
    yield "bad-half-a-token", shard(20240520, 1, 5, narrow[:-1])
    yield "bad-longer", shard(20240520, 1, 5, narrow + b"\0\0")
    yield "bad-half-a-token-more", shard(20240801, 7, 4, wide + b"\0")
    yield "bad-high-word", shard(20240520, 1, 5 + 2**32, narrow)
    yield "bad-count-of-all-ones", shard(20240520, 1, 2**64 - 1, narrow)


def manifest_text(checksum="0" * 16, cut=(), **changes):
    """As to_text() writes it. The checksum is never right here: the target puts the right one in its place."""
    shards = [{"file": f"rank-{r:05}.safetensors", "bytes": 4096 + r, "xxh3": "00c0ffee00c0ffee",
               "ranges": {"weight/embedding.weight": [512 * r, 512 * (r + 1)],
                          "weight_extra/embedding.weight": [512 * r, 512 * (r + 1)],
                          "first_moment/embedding.weight": [512 * r, 512 * (r + 1)],
                          "second_moment/embedding.weight": [512 * r, 512 * (r + 1)],
                          "second_moment_extra/blocks.0.norm.weight": [0, 8]}} for r in range(2)]
    keys = {"format": "dither checkpoint", "version": 1, "step": 1000, "samples": 32000,
            "guards": {"losses": [10.875, 3.1415926535897931, -0.0, 5e-324], "norms": [1, 0.30000000000000004],
                       "skipped_steps": 3, "skipped_in_a_row": 1},
            "ranks": 2, "commit": "0123456789ab+changes", "arithmetic": "cpu plain", "data": "0123456789abcdef",
            "config": {"steps": 2000, "optimizer": {"betas": [0.9, 0.95], "learning_rate": 0.0006}},
            "algorithms": {"device": "x", "products": []}, "shards": shards, **changes}
    lines = [f'"{key}": {json.dumps(value)},\n' for key, value in keys.items() if key not in cut]
    return "{\n" + "".join(lines) + f'"xxh3": "{checksum}"\n}}\n'


def manifest_seeds():
    def one_shard(**changes):
        record = {"file": "a", "bytes": 0, "xxh3": "0" * 16, "ranges": {"weight/a": [0, 1]}, **changes}
        return [{key: value for key, value in record.items() if value is not None}]

    guards = {"losses": [], "norms": [], "skipped_steps": 0, "skipped_in_a_row": 0}
    valid = {
        "full": {}, "no-algorithms": {"algorithms": None}, "first-step": {"step": 0, "samples": 0, "guards": guards},
        "one-shard": {"shards": one_shard()}, "no-ranges": {"shards": one_shard(ranges={})},
        "odd-texts": {"commit": "", "arithmetic": "\u00e9\u0000\"\\\n\U0001f600", "shards": one_shard(file="\u00e9 \\")},
        "largest": {"step": 2**32 - 1, "samples": 2**62, "ranks": 2**20,
                    "shards": one_shard(bytes=2**62, ranges={"weight/a": [2**62 - 1, 2**62]})},
        "version-2": {"version": 2, "tokens": 2**62}, "odd-config": {"config": {"a": [1e300, -0.0, 1e-300, 2**64 - 1, -2**63, True, None, {"": {}}]}},
    }
    for name, changes in valid.items():
        yield "valid-" + name, manifest_text(**changes).encode()
    yield "valid-without-a-last-line", manifest_text().encode()[:-len('"xxh3": "0000000000000000"\n}\n')]
    bad = {
        "format": {"format": "something else"}, "version-0": {"version": 0}, "version-3": {"version": 3, "tokens": 0},
        "version-1-tokens": {"tokens": 0}, "version-2": {"version": 2}, "tokens-negative": {"version": 2, "tokens": -1},
        "version-text": {"version": "1"}, "version-real": {"version": 1.0}, "step-negative": {"step": -1},
        "step-beyond-32-bits": {"step": 2**32}, "samples-beyond-63-bits": {"samples": 2**63}, "ranks-0": {"ranks": 0},
        "guards-text": {"guards": {**guards, "losses": ["nan"]}}, "guards-list": {"guards": []},
        "guards-key": {"guards": {**guards, "more": 0}},
        "row-longer-than-run": {"guards": {**guards, "skipped_in_a_row": 1}},
        "config-text": {"config": "{}"}, "algorithms-list": {"algorithms": []}, "unknown-key": {"more": 1},
        "no-shards": {"shards": []}, "shards-object": {"shards": {}}, "shard-number": {"shards": [1]},
        "file-twice": {"shards": one_shard() * 2}, "file-empty": {"shards": one_shard(file="")},
        "file-dots": {"shards": one_shard(file="..")}, "file-above": {"shards": one_shard(file="../a")},
        "file-absolute": {"shards": one_shard(file="/a")}, "file-zero-byte": {"shards": one_shard(file="a\0b")},
        "bytes-negative": {"shards": one_shard(bytes=-1)}, "no-bytes": {"shards": one_shard(bytes=None)},
        "shard-checksum": {"shards": one_shard(xxh3="0" * 15)},
        "shard-checksum-digits": {"shards": one_shard(xxh3="G" * 16)},
        "shard-key": {"shards": one_shard(more=1)}, "range-empty": {"shards": one_shard(ranges={"weight/a": [1, 1]})},
        "range-falls": {"shards": one_shard(ranges={"weight/a": [2, 1]})},
        "range-three": {"shards": one_shard(ranges={"weight/a": [0, 1, 2]})},
        "range-state": {"shards": one_shard(ranges={"weights/a": [0, 1]})},
        "range-no-parameter": {"shards": one_shard(ranges={"weight/": [0, 1]})},
        "range-no-slash": {"shards": one_shard(ranges={"weight": [0, 1]})},
        "range-beyond-62-bits": {"shards": one_shard(ranges={"weight/a": [0, 2**62 + 1]})},
    }
    for name, changes in bad.items():
        yield "bad-" + name, manifest_text(**changes).encode()
    for key in ("format", "step", "guards", "config", "algorithms", "shards"):
        yield "bad-no-" + key, manifest_text(cut=(key,)).encode()
    yield "bad-number-beyond-double", manifest_text().replace("10.875", "1e999").encode()
    yield "bad-utf8", manifest_text().encode().replace(b"cpu plain", b"cpu \xff")
    yield "bad-nested", manifest_text().replace('"config": {', '"config": {"a": ' + "[" * 40 + "]" * 40 + ",").encode()
    whole = manifest_text(checksum="f" * 16).encode()
    yield "bad-zero-byte", whole.rstrip(b"\n") + b"\0" + whole
    yield "bad-byte-order-mark", b"\xef\xbb\xbf" + whole
    yield "bad-key-twice", whole.replace(b'"ranks"', b'"ranks": 2,\n"ranks"')
    yield "bad-range-twice", whole.replace(b'"ranges": {', b'"ranges": {"weight/embedding.weight": [7, 8], ')
    yield "bad-not-json", manifest_text().replace('"step": ', '"step" ').encode()
    yield "bad-no-bytes", b""


def properties(schema=SCHEMA, path=""):
    """(dotted path, schema) of every key that holds a value."""
    for name, below in schema["properties"].items():
        if "properties" in below:
            yield from properties(below, f"{path}{name}.")
        else:
            yield path + name, below


def nested(values):
    root = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        place = root
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return root


def every_key():
    """A config that says each key whose default the schema tells, and a whole model."""
    values = {"name": "every-key", "steps": 10, "data.train": "train_*.bin", "data.validation": "val.bin",
              "model.architecture": "llama", "model.layers": 2, "model.hidden": 64, "model.heads": 2, "model.kv_heads": 1,
              "model.head_size": 32, "model.ffn": 128, "model.vocabulary": 257, "model.sequence_length": 16,
              "model.normalization": "rms_norm", "model.positions": "rotary", "model.rotary_scaling": "llama3",
              "model.activation": "swiglu", "model.norm_epsilon": 1e-5, "batch.tokens_per_step": 256}
    for path, schema in properties():
        default = re.search(r"\(default: (.*)\)$", schema["description"])
        try:
            values.setdefault(path, json.loads(default.group(1)))
        except (AttributeError, json.JSONDecodeError):
            pass  # none, or told in words
    return values


def config_seeds():
    def config(*assignments, cut=(), **changes):
        whole = {"steps": 10, "model.preset": "llama-tiny", "data.train": "a.bin",
                 **{path.replace("__", "."): value for path, value in changes.items()}}
        text = json.dumps(nested({path: value for path, value in whole.items() if path not in cut}))
        return b"\0".join([text.encode(), *(assignment.encode() for assignment in assignments)])

    yield "valid-least", config()
    yield "valid-every-key", (json.dumps(nested(every_key()), indent=1)).encode()
    yield "valid-base", b'{"extends": "base.json", "steps": 1e4}'
    yield "valid-assigned", config("steps=20", "optimizer.betas=[0.5, 0.75]", "name=a name", "sampling.prompt={not JSON",
                                   "model.tied_embeddings=true")
    yield "valid-smallest-model", config(**{"model__preset": "", "model__layers": 1, "model__hidden": 64,
                                            "model__heads": 2, "model__ffn": 8, "model__vocabulary": 2,
                                            "model__sequence_length": 1, "model__architecture": "gpt2"})
    yield "valid-edges", config(seed=2**64 - 1, steps=2**32 - 1, optimizer__weight_decay=-0.0, optimizer__epsilon=1e-30,
                                optimizer__betas=[5e-324, 0.9999999999999999], parallel__device_index=-1)
    yield "valid-split32", config(precision__strategy="split32", precision__first_moment="fp32",
                                  precision__fp32_parameters=["norm", "bias"])
    yield "valid-ordered", config(parallel__reduction="ordered", parallel__wire="bf16", parallel__zero_stage=3,
                                  parallel__shard_group_size=2)
    yield "valid-schedule", config(optimizer__schedule__kind="wsd", optimizer__schedule__warmup_steps=100,
                                   optimizer__schedule__decay_shape="1-sqrt")
    yield "valid-prompt", config(sampling__prompt="\u0000\u00e9\ud83d\ude00\"\\\n")
    yield "bad-no-bytes", b""
    yield "bad-list", b"[]"
    yield "bad-json", b'{"steps": 10,}'
    yield "bad-key-twice", b'{"steps": 10, "steps": 10}'
    yield "bad-null", config(steps=None)
    yield "bad-typo", config(optimizer__beta2=0.9)
    yield "bad-section", config(optimizer=1)
    yield "bad-dotted-name", b'{"optimizer.betas": [0.5, 0.5]}'
    yield "bad-fraction", config(steps=12.5)
    yield "bad-beyond-range", config(steps=2**32)
    yield "bad-beyond-64-bits", config(seed=2**64)
    yield "bad-beyond-double", config().replace(b"10", b"1e999")
    yield "bad-negative", config(steps=-1)
    yield "bad-step-of-range", config(model__hidden=12)
    yield "bad-word", config(precision__strategy="bf16-sr")
    yield "bad-words-twice", config(precision__fp32_parameters=["norm", "norm"])
    yield "bad-three-betas", config(optimizer__betas=[0.5, 0.5, 0.5])
    yield "bad-no-train", config(cut=("data.train",))
    yield "bad-no-model", config(cut=("model.preset",))
    yield "bad-kv-heads", config(model__kv_heads=1023)
    yield "bad-tokens-per-step", config(batch__tokens_per_step=12345)
    yield "bad-moment", config(precision__first_moment="fp32")
    yield "bad-wire", config(parallel__wire="bf16")
    yield "bad-name", config(name="../run")
    yield "bad-circle", b'{"extends": "loop.json"}'
    yield "bad-base-missing", b'{"extends": "none.json"}'
    yield "bad-base-folder", b'{"extends": "."}'
    yield "bad-nested", config(vary=json.loads("[" * 20 + "]" * 20))
    yield "bad-vary", config(vary={"seed": [1, 2], "precision.strategy": ["bf16", "mixed"]})
    yield "bad-vary-list", config(vary=[{"steps": [1, 1e0]}])
    yield "bad-vary-name", config(vary={"name": ["a"]})
    yield "bad-assignment", config("steps")
    yield "bad-assigned-type", config("steps=many")
    yield "bad-assigned-twice-in-value", config('optimizer={"epsilon": 1e-6, "epsilon": 1e-6}')
    yield "bad-utf8", config().replace(b"a.bin", b"\xff.bin")


def dictionary(words):
    """libFuzzer's format: a quoted string a line."""
    quoted = sorted({word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\x0a") for word in words})
    return "# Made by make_corpus.py.\n" + "".join(f'"{word}"\n' for word in quoted)


JSON_WORDS = ['"', '":', '",', "{", "}", "[", "]", ",", ":", "null", "true", "false", "-1", "0", "1", "1e9", "1e-9", "0.5",
              "-0.0", "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551615", "1e999",
              "\\u0000", "\\ud83d\\ude00", "\\uffff"]


def dictionaries():
    keys, words = set(), {"base.json", "loop.json"}
    for path, schema in properties():
        keys |= {path, *(f'"{part}": ' for part in path.split("."))}
        words |= {f'"{word}"' for word in schema.get("enum", schema.get("items", {}).get("enum", []))}
    yield "config", [*JSON_WORDS, *keys, *words]
    names = re.findall(r'"([a-z_0-9]+)": ', manifest_text())
    states = ["weight/", "weight_extra/", "first_moment/", "second_moment/", "second_moment_extra/"]
    yield "manifest", [*JSON_WORDS, *(f'"{name}": ' for name in names), *states, "dither checkpoint", "..", "/",
                       '"xxh3": "0000000000000000"\n}\n', '[0, 1]']
    types = re.findall(rb'"dtype":"(\w+)"', dict(safetensors_seeds())["valid-every-type"])
    yield "safetensors", [*JSON_WORDS, "__metadata__", '"dtype":', '"shape":[', '"data_offsets":[0,',
                          *(name.decode() for name in types)]


def all_files():
    seeds = {"safetensors": safetensors_seeds, "token_shard": token_shard_seeds, "manifest": manifest_seeds,
             "config": config_seeds}
    for target, make in seeds.items():
        for name, data in make():
            yield HERE / "corpus" / target / name, data
    for target, words in dictionaries():
        yield HERE / f"{target}.dict", dictionary(words).encode()


def main():
    made = dict(all_files())
    there = [path for path in (HERE / "corpus").glob("*/*") if not path.name.startswith("finding-")]
    if sys.argv[1:] == ["--check"]:
        wrong = [path for path, data in made.items() if not path.exists() or path.read_bytes() != data]
        wrong += [path for path in there if path not in made]
        for path in wrong:
            print(f"{path.relative_to(HERE)} is not what make_corpus.py makes: run tests/fuzz/make_corpus.py")
        return 1 if wrong else 0
    for path in there:
        path.unlink()
    for path, data in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(made)} files, {sum(map(len, made.values()))} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
