"""Time and memory of Dask workers that score and learn the labels of a table block by block.

    python benchmarks/dask_blocks.py [--rows 4000000] [--workers 2] [--limit 800MiB]
        [--folder DIR | --lazy] [--train 0]

The float32 table of 128 features lies on disk in blocks of 50,000 rows, or is made by the workers
when they need it (--lazy); it has 10 overlapping classes, and 30 % of the labels are wrong. A
classifier is fitted on 20,000 of the rows. Then every block is predicted and scored, by workers
that are processes with one thread and a limit of memory at which Dask ends them. After that, new
workers train a second classifier by partial_fit on one block after the other (--train blocks).
Memory is the peak resident size of a worker, the interpreter included; it is read from /proc, so
on Linux only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.distributed import Client, LocalCluster
from sklearn.metrics import roc_auc_score

from sklearn_clidmu import CLIDMUClassifier, find_label_issues
from sklearn_clidmu.datasets import make_label_noise

FEATURES, CLASSES, BLOCK, SAMPLE = 128, 10, 50_000, 20_000


def peak_mib() -> float:
    """Peak resident size of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def make_table(rows: int) -> tuple[da.Array, np.ndarray]:
    """Table whose blocks are computed when they are needed, and its true labels."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
    y = rng.integers(CLASSES, size=rows)

    def block(labels: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(labels[:64].tolist()).standard_normal(
            (len(labels), FEATURES), dtype=np.float32
        )
        return centers[labels] + 4 * noise

    labels = da.from_array(y, chunks=BLOCK)
    table = labels.map_blocks(
        block, new_axis=1, chunks=(labels.chunks[0], FEATURES), meta=np.empty((0, 0), np.float32)
    )
    return table, y


def predict_proba(block: np.ndarray, clf: Any) -> np.ndarray:
    return clf.predict_proba(block)


def noise_scores(block: np.ndarray, given: np.ndarray, clf: Any) -> np.ndarray:
    return clf.noise_scores(block, given)


def partial_fit(clf: Any, block: np.ndarray, given: np.ndarray) -> Any:
    return clf.partial_fit(block, given, classes=range(CLASSES))


def score(clf: Any, table: da.Array, labels: da.Array) -> tuple[np.ndarray, np.ndarray]:
    """Noise scores of all rows, and codes of the classes that are predicted."""
    shared = {"clf": dask.delayed(clf), "meta": np.empty(0)}
    proba = table.map_blocks(predict_proba, chunks=(table.chunks[0], CLASSES), **shared)
    scores = da.blockwise(noise_scores, "i", table, "ij", labels, "i", concatenate=True, **shared)
    return dask.compute(scores, proba.argmax(axis=1))


def train(table: da.Array, labels: da.Array, n_blocks: int) -> Any:
    """Classifier that a worker has trained on one block after the other."""
    clf = dask.delayed(CLIDMUClassifier(random_state=0))
    for i in range(n_blocks):
        clf = dask.delayed(partial_fit)(clf, table.blocks[i], labels.blocks[i])
    return clf.compute()


def on_workers(args: argparse.Namespace, call: Callable[..., Any], *inputs: Any) -> Any:
    """Call with new workers; say how long it took and how much memory a worker had."""
    cluster = LocalCluster(
        n_workers=args.workers,
        threads_per_worker=1,
        memory_limit=args.limit,
        dashboard_address=":0",
    )
    with cluster, Client(cluster) as client:
        start = time.perf_counter()
        result = call(*inputs)
        seconds, peaks = time.perf_counter() - start, client.run(peak_mib).values()
    print(f"{call.__name__}: {seconds:.1f} s; peak of the workers: {max(peaks):.0f} MiB", end=" ")
    print(f"of {args.limit}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", default="800MiB", help="memory of a worker")
    parser.add_argument("--folder", help="folder for the table, default: temporary")
    parser.add_argument("--lazy", action="store_true", help="make the blocks, write no table")
    parser.add_argument("--train", type=int, default=0, help="number of blocks for partial_fit")
    args = parser.parse_args()
    table, true = make_table(args.rows)
    y, wrong = make_label_noise(true, rate=0.3, random_state=0)
    labels = da.from_array(y, chunks=BLOCK)
    print(f"table: {table.nbytes / 2**20:.0f} MiB, {args.rows} rows, {table.numblocks[0]} blocks")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if not args.lazy:
            with dask.config.set(scheduler="single-threaded"):
                da.to_npy_stack(folder, table)
            table = da.from_npy_stack(folder)
        sample = np.sort(np.random.default_rng(0).choice(args.rows, SAMPLE, replace=False))
        clf = CLIDMUClassifier(random_state=0)
        clf.fit(table[sample].compute(scheduler="single-threaded"), y[sample])
        scores, codes = on_workers(args, score, clf, table, labels)
        issues = find_label_issues(scores, y, suggested=clf.classes_[codes])
        precision, recall = wrong[issues.index].mean(), issues.mask[wrong].mean()
        print(f"AUROC {roc_auc_score(wrong, scores):.3f}; issues: {len(issues)}, of which", end=" ")
        print(f"wrong {precision:.1%}, and which are {recall:.1%} of the wrong labels")
        print(f"accuracy: {(codes == true).mean():.1%}")
        if args.train:
            stream = on_workers(args, train, table, labels, args.train)
            last = stream.predict(table[-BLOCK:].compute(scheduler="single-threaded"))
            print(f"accuracy on the last {BLOCK} rows: {(last == true[-BLOCK:]).mean():.1%}")


if __name__ == "__main__":
    main()
