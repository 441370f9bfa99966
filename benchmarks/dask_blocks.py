"""Time and memory of Dask workers that score the labels of a table block by block.

    python benchmarks/dask_blocks.py [--rows 4000000] [--workers 2] [--limit 800MiB] [--folder DIR]

The float32 table of 128 features lies on disk in blocks of 50,000 rows; it has 10 overlapping
classes, and 30 % of the labels are wrong. A classifier is fitted on 20,000 of the rows. Then every
block is predicted and scored, by workers that are processes with one thread and a limit of memory
at which Dask ends them. Memory is the peak resident size of a worker, the interpreter included; it
is read from /proc, so on Linux only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
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


def write_table(folder: str, rows: int) -> np.ndarray:
    """Write the blocks of a table; return the true labels."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
    y = rng.integers(CLASSES, size=rows)

    def block(labels: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(labels[:64].tolist()).standard_normal(
            (len(labels), FEATURES), dtype=np.float32
        )
        return centres[labels] + 4 * noise

    labels = da.from_array(y, chunks=BLOCK)
    table = labels.map_blocks(
        block, new_axis=1, chunks=(labels.chunks[0], FEATURES), meta=np.empty((0, 0), np.float32)
    )
    with dask.config.set(scheduler="single-threaded"):
        da.to_npy_stack(folder, table)
    return y


def predict_proba(block: np.ndarray, clf: Any) -> np.ndarray:
    return clf.predict_proba(block)


def noise_scores(block: np.ndarray, given: np.ndarray, clf: Any) -> np.ndarray:
    return clf.noise_scores(block, given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", default="800MiB", help="memory of a worker")
    parser.add_argument("--folder", help="folder for the table, default: temporary")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        y, wrong = make_label_noise(write_table(folder, args.rows), rate=0.3, random_state=0)
        table = da.from_npy_stack(folder)
        sample = np.sort(np.random.default_rng(0).choice(args.rows, SAMPLE, replace=False))
        clf = CLIDMUClassifier(random_state=0)
        clf.fit(table[sample].compute(scheduler="single-threaded"), y[sample])
        shared = {"clf": dask.delayed(clf), "meta": np.empty(0)}
        proba = table.map_blocks(predict_proba, chunks=(table.chunks[0], CLASSES), **shared)
        labels = da.from_array(y, chunks=BLOCK)
        scores = da.blockwise(
            noise_scores, "i", table, "ij", labels, "i", concatenate=True, **shared
        )
        cluster = LocalCluster(
            n_workers=args.workers,
            threads_per_worker=1,
            memory_limit=args.limit,
            dashboard_address=":0",
        )
        with cluster, Client(cluster) as client:
            start = time.perf_counter()
            scores, codes = dask.compute(scores, proba.argmax(axis=1))
            seconds = time.perf_counter() - start
            peaks = client.run(peak_mib).values()
    issues = find_label_issues(scores, y, suggested=clf.classes_[codes])
    print(f"table: {args.rows * FEATURES * 4 / 2**20:.0f} MiB, {args.rows} rows")
    print(f"scored in {seconds:.1f} s; peak of the workers: {max(peaks):.0f} MiB of {args.limit}")
    precision, recall = wrong[issues.index].mean(), issues.mask[wrong].mean()
    print(
        f"AUROC {roc_auc_score(wrong, scores):.3f}; issues: {len(issues)}, of which wrong", end=" "
    )
    print(f"{precision:.1%}, and which are {recall:.1%} of the wrong labels")


if __name__ == "__main__":
    main()
