"""Saved models changed at random, as a damaged disk or somebody who means harm would change them.

The one-off run on many files, with bounds of memory, in a process of its own:
``python -m faults.mutations 10000`` in the folder ``tests``.
"""

import copy
import hashlib
import json
import struct

import numpy as np

LENGTH = struct.Struct("<Q")
"""A file begins with the length of its header, which is JSON; the bytes of the arrays follow."""

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
DTYPES |= {"I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1"}
"""What safetensors and NumPy call the same type."""

STRANGE = [None, True, -1, 0, 1, 7, 2**31, 2**63, 2**70, 0.5, 1e308, float("nan"), "", "cuda"]
STRANGE += [
    "F32",
    "BOOL",
    "sha256",
    "float32",
    [],
    [[]],
    {},
    {"a": 1},
    {"dict": [[[], 1]]},
    {"tuple": [4, 3]},
]
STRANGE += [{"array": "classes_"}, {"array": 3}, {"text": "net_"}, {"objects": [1, None]}]
STRANGE += [{"scalar": "none"}, {"tuple": 5}, {"dict": 5}, {"array": "a", "text": "b"}, "9" * 99]


def parts(content):
    """Header and the bytes of the arrays."""
    (length,) = LENGTH.unpack(content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data):
    """File of a header, which is padded as safetensors does, and of bytes."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return LENGTH.pack(len(text)) + text + data


def places(value, path=()):
    """Paths of all places in a JSON value."""
    yield path
    entries = value.items() if isinstance(value, dict) else ()
    for key, entry in enumerate(value) if isinstance(value, list) else entries:
        yield from places(entry, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def put(value, path, other):
    """Copy of a JSON value with another value in one place."""
    if not path:
        return other
    value = copy.copy(value)
    value[path[0]] = put(value[path[0]], path[1:], other)
    return value


def without(value, path):
    """Copy of a JSON value without one of its entries."""
    value = copy.deepcopy(value)
    if path:
        del at(value, path[:-1])[path[-1]]
    return value


def changed_json(value, rng):
    """JSON value with one to three places changed, dropped or copied from elsewhere.

    Mostly single values: containers that change their shape are seldom read any further.
    """
    for _ in range(rng.integers(1, 4)):
        everywhere = list(places(value))
        single = [p for p in everywhere if not isinstance(at(value, p), (dict, list))]
        if single and rng.random() < 0.8:
            everywhere = single
        where = everywhere[rng.integers(len(everywhere))]
        way = rng.integers(4)
        if way == 0 and where not in single:
            value = without(value, where)
        elif way == 1:  # something from elsewhere
            source = everywhere[rng.integers(len(everywhere))]
            value = put(value, where, copy.deepcopy(at(value, source)))
        elif way in (0, 2) and isinstance(at(value, where), int):
            value = put(value, where, int(at(value, where)) + int(rng.integers(-3, 4)))
        else:
            value = put(value, where, STRANGE[rng.integers(len(STRANGE))])
    return value


def with_right_digest(header, data):
    """File whose digest is right; as it is where the arrays cannot be read from it."""
    arrays = {name: entry for name, entry in header.items() if name != "__metadata__"}
    try:
        digest = hashlib.sha256(header["__metadata__"]["sklearn_clidmu"].encode())
        for name in sorted(arrays.keys() - {"sha256"}):
            start, end = arrays[name]["data_offsets"]
            kind, shape = DTYPES[arrays[name]["dtype"]], tuple(arrays[name]["shape"])
            digest.update(f"{name} {kind} {shape}".encode() + data[start:end])
        start, end = arrays["sha256"]["data_offsets"]
        if end - start == 32:
            data = data[:start] + digest.digest() + data[end:]
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return joined(header, data)


# Ways to change a file


def flip_bits(content, rng):
    changed = bytearray(content)
    for where in rng.integers(len(content), size=rng.integers(1, 9)):
        changed[where] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def truncate(content, rng):
    return content[: rng.integers(len(content))]


def splice(content, rng):
    """Bytes from one place put over, or into, another."""
    start, where = rng.integers(len(content), size=2)
    piece = content[start : start + rng.integers(1, 200)]
    end = where + len(piece) * int(rng.integers(2))
    return content[:where] + piece + content[end:]


def lie_about_the_header(content, rng):
    (length,) = LENGTH.unpack(content[:8])
    lies = [0, 1, 2**31, 2**63, 2**64 - 1, 10**8, len(content), len(content) - 8]
    lies += [max(length + int(rng.integers(-9, 10)), 0), int(rng.integers(2**40))]
    return LENGTH.pack(lies[rng.integers(len(lies))]) + content[8:]


def change_the_header(content, rng):
    """Names, types, shapes and offsets of the arrays; the digest is made right if it can be."""
    header, data = parts(content)
    metadata = header.pop("__metadata__")
    changed = changed_json(header, rng)
    if not isinstance(changed, dict):
        return joined(changed, data)
    return with_right_digest({"__metadata__": metadata, **changed}, data)


def change_the_text(content, rng):
    """Parameters and attributes, with the right digest."""
    header, data = parts(content)
    document = json.loads(header["__metadata__"]["sklearn_clidmu"])
    header["__metadata__"] = {"sklearn_clidmu": json.dumps(changed_json(document, rng))}
    return with_right_digest(header, data)


def change_the_arrays(content, rng):
    """Numbers of the arrays, with the right digest."""
    header, data = parts(content)
    data = bytearray(data)
    for where in rng.integers(len(data) // 8, size=rng.integers(1, 9)) * 8:
        number = rng.bytes(8) if rng.random() < 0.1 else struct.pack("<d", rng.normal())
        data[where : where + 8] = number
    return with_right_digest(header, bytes(data))


WAYS = [
    flip_bits,
    truncate,
    splice,
    lie_about_the_header,
    change_the_header,
    change_the_text,
    change_the_text,
    change_the_arrays,
]


def mutated(content, seed):
    """One of endlessly many changed files, by its number."""
    rng = np.random.default_rng(seed)
    return WAYS[seed % len(WAYS)](content, rng)


BY_ACCIDENT = WAYS[:4]
"""Those that leave the digest as it was: the model is the saved one, or it is refused."""


def outcome(clf_class, path, rows):
    """What comes of a file: "refused", or the probabilities of a model, which must be sound.

    A refusal must be a ValueError that names the file; of a loaded model every attribute may be
    another, but its predictions must be of its classes, or be refused by a ValueError.
    """
    try:
        clf = clf_class.load(path)
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"{path} cannot be loaded"), message
        return "refused"
    assert type(clf) is clf_class
    try:
        probabilities = clf.predict_proba(rows)
    except ValueError:
        return "refused to predict"
    assert probabilities.shape == (len(rows), len(clf.classes_))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-9)
    assert len(clf.predict(rows)) == len(rows)
    return probabilities


def main(n_files):
    """Load as many changed files; print outcomes, times and the most memory that one took."""
    import collections
    import resource
    import signal
    import sys
    import tempfile
    import time
    from pathlib import Path

    import torch
    from estimator.data import make_rows

    from sklearn_clidmu import CLIDMUClassifier

    def memory(field):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split(f"{field}:")[1].split()[0])  # KiB

    torch.set_num_threads(1)
    rows, labels, _ = make_rows()
    outcomes, times, peaks, failures = collections.Counter(), [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        for sizes in ((4, 3), (1024, 512)):
            params = {"hidden_layer_sizes": sizes, "max_epochs": 1, "n_snapshots": 2}
            clf = CLIDMUClassifier(**params, random_state=0).fit(rows, labels)
            clf.save(path)
            content, expected = path.read_bytes(), clf.predict_proba(rows)
            assert (outcome(CLIDMUClassifier, path, rows) == expected).all()
            spare = memory("VmSize") * 1024 + 2 * len(content) + 2**28
            resource.setrlimit(resource.RLIMIT_AS, (spare, resource.RLIM_INFINITY))
            for seed in range(n_files // 2):
                way = WAYS[seed % len(WAYS)]
                changed = mutated(content, seed)
                path.write_bytes(changed)
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
                before, start = memory("VmRSS"), time.perf_counter()
                signal.alarm(30)  # ends the run, and says so
                try:
                    found = outcome(CLIDMUClassifier, path, rows)
                    if not isinstance(found, str):
                        same = np.array_equal(found, expected)
                        assert same or way not in BY_ACCIDENT, "another model by accident"
                        found = "the same predictions" if same else "other predictions"
                except BaseException as error:
                    found = "FAILURE"
                    failures.append((sizes, seed, way.__name__, repr(error)[:300]))
                signal.alarm(0)
                times.append(time.perf_counter() - start)
                peaks.append((memory("VmHWM") - before) * 1024 / len(content))
                outcomes[way.__name__, found] += 1
            print(f"file of {len(content):,} bytes: most memory of one file, by the size of the")
            print(f"sound one: {max(peaks[-(n_files // 2) :]):.2f}; in all {memory('VmRSS')} KiB")
    for (way, found), count in sorted(outcomes.items()):
        print(f"{count:6d}  {way}: {found}")
    print(
        "seconds per file: mean, 99 %, most:", np.mean(times), np.quantile(times, 0.99), max(times)
    )
    print(*failures, sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    import sys

    main(int(sys.argv[1]))
