"""A corpus that can be learned and needs no download: token shards of a random text of words.

Words are drawn from a vocabulary of a few thousand by Zipf's law, each a fixed sequence of one to four tokens; after a word
one of twenty others follows more often. The generator is a plain linear congruential one, so the bits are the same everywhere.
"""

import array
import pathlib
import struct

WORDS = 4000
FOLLOWERS = 20
MAGIC, VERSION, HEADER_INTEGERS = 20240520, 1, 256


def write_shards(folder, vocabulary, train_tokens, validation_tokens):
    """train_000.bin and val_000.bin in `folder`, in the format of docs/data-format.md."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = _tokens(vocabulary, train_tokens + validation_tokens)
    _write(folder / "train_000.bin", text[:train_tokens])
    _write(folder / "val_000.bin", text[train_tokens:])


def _write(path, tokens):
    header = [MAGIC, VERSION, len(tokens)] + [0] * (HEADER_INTEGERS - 3)
    path.write_bytes(struct.pack(f"<{HEADER_INTEGERS}i", *header) + array.array("H", tokens).tobytes())


def _tokens(vocabulary, count):
    state = 12345

    def draw(bound):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (state >> 33) % bound

    words = [[draw(vocabulary) for _ in range(1 + draw(4))] for _ in range(WORDS)]
    # Zipf: word k is drawn as often as 1/(k+1); squares of a uniform draw come close enough and stay integers.
    followers = [[(draw(WORDS) * draw(WORDS)) // WORDS for _ in range(FOLLOWERS)] for _ in range(WORDS)]
    tokens, word = [], 0
    while len(tokens) < count:
        tokens += words[word]
        word = followers[word][draw(FOLLOWERS)] if draw(10) < 7 else draw(WORDS) * draw(WORDS) // WORDS
    return tokens[:count]
