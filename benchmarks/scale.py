"""Time and peak memory of fit and predict by number of rows, classes and features.

    python benchmarks/scale.py [--rows 10000,100000,1000000] [--classes 2,10,100,1000]
        [--features 16,128,1024] [--epochs 2] [--folder DIR] [--threads 1]

Each size runs in its own process, on a memory-mapped float32 table. Memory is the increase of the
peak resident size over that of the interpreter with this package imported, and includes the pages
of the table; it is read from /proc, so on Linux only. The exponent of the fit time is estimated by
least squares on the logarithms: 1 means that time is proportional to size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

BASE = {"rows": 20_000, "classes": 10, "features": 128}
CHUNK = 100_000


def peak_mib() -> float:
    """Peak resident size of this process; getrusage would include that of its parent."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def write_table(path: Path, rows: int, classes: int, features: int) -> np.ndarray:
    """Write a table of overlapping classes to disk, in chunks; return the labels."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(classes, features)).astype(np.float32)
    X = np.lib.format.open_memmap(path, "w+", np.float32, (rows, features))
    y = rng.permutation(np.arange(rows) % classes)
    for start in range(0, rows, CHUNK):
        part = slice(start, start + CHUNK)
        X[part] = centers[y[part]] + rng.normal(size=X[part].shape, scale=2)
    X.flush()
    return y


def measure(table: Path, labels: Path, epochs: int, threads: int) -> dict[str, float]:
    """Fit and predict in this process; return seconds and MiB."""
    import torch
    from threadpoolctl import threadpool_limits

    from sklearn_clidmu import CLIDMUClassifier

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    X, y = np.load(table, mmap_mode="r"), np.load(labels)
    model = CLIDMUClassifier(max_epochs=epochs, batch_size=512, random_state=0)
    with threadpool_limits(threads):
        before, start = peak_mib(), time.perf_counter()
        model.fit(X, y)
        fitted, fit_peak = time.perf_counter(), peak_mib()
        model.predict(X)
    seconds = {"fit": fitted - start, "predict": time.perf_counter() - fitted}
    return {**seconds, "fit MiB": fit_peak - before, "MiB": peak_mib() - before}


def measure_apart(size: dict[str, int], args: argparse.Namespace) -> dict[str, float]:
    """Make a table of that size and measure in a new process."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        table, labels = Path(folder, "X.npy"), Path(folder, "y.npy")
        np.save(labels, write_table(table, **size))
        command = [sys.executable, __file__, "--measure", str(table), str(labels)]
        command += ["--epochs", str(args.epochs), "--threads", str(args.threads)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def run(name: str, values: list[int], args: argparse.Namespace) -> None:
    """Print a table over the values of one size."""
    print(f"\n| {name} | fit, s | µs a row and epoch | predict, s | fit, MiB | both, MiB |")
    print("|---:|---:|---:|---:|---:|---:|")
    seconds = []
    for value in values:
        size = {**BASE, name: value}
        found = measure_apart(size, args)
        seconds.append(found["fit"])
        per_row = 1e6 * found["fit"] / size["rows"] / args.epochs
        figures = f"{found['fit']:.1f} | {per_row:.1f} | {found['predict']:.2f}"
        print(f"| {value} | {figures} | {found['fit MiB']:.0f} | {found['MiB']:.0f} |", flush=True)
    if len(values) > 1:
        print(f"\nExponent: {np.polyfit(np.log(values), np.log(seconds), 1)[0]:.2f}")


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",") if number]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=numbers, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--classes", type=numbers, default=[2, 10, 100, 1000])
    parser.add_argument("--features", type=numbers, default=[16, 128, 1024])
    parser.add_argument("--epochs", type=int, default=2, help="of the stage")
    parser.add_argument("--folder", help="folder for the tables, default: temporary")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.epochs, args.threads)))
        return
    for name in BASE:
        if getattr(args, name):
            run(name, getattr(args, name), args)


if __name__ == "__main__":
    main()
