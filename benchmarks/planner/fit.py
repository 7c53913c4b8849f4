"""Fits the planner's correction to measured serving points and says how good it is on points it has not
seen.

`python -m benchmarks.planner.fit POINTS.csv [--keep] [--write]`: cross-validates by whole configuration
(engine, model, system, precision, layout: all its lengths and concurrencies are held out together), more
coarsely (ranks for the layout), by pair of lengths, by model and by system, measures the bands on folds that
neither forest has seen, and prints the tables (`report.py`). `--write` also fits on everything and writes
`spec/data/calibration.toml`. What aiconfigurator answered stands beside it where it was asked the same file
(`--peer`). Our own points of small models (`own_points.py`) are learnt from too, and scored apart. Exit
code 1 where a goal is missed. Needs numpy and lightgbm, which the product does not: the trees are walked in
plain Python.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import lightgbm  # type: ignore[import-not-found]
import numpy as np

from benchmarks.goals import exit_code, last_line
from benchmarks.planner import report
from benchmarks.planner.own_points import FIRST_ROW, own_points
from benchmarks.planner.points import Measured, read
from benchmarks.planner.report import score
from sextant.planner.calibration import baseline, features
from sextant.spec.architecture import ModelArchitecture
from sextant.spec.facts import load_catalog

ROOT = Path(__file__).parents[2]
CALIBRATION = ROOT / "src/sextant/spec/data/calibration.toml"
PEER = Path(__file__).parent / "data/aiconfigurator_points.json"
FOLDS = 10
SEED = 0
SMALLEST_DISTANCE = 0.02
"""Points closer than this count as this close, so that a logarithm can be taken."""
CORRECTION = {
    "n_estimators": 160,
    "num_leaves": 31,
    "learning_rate": 0.25,
    "objective": "huber",
    "alpha": 0.3,
    "min_child_samples": 2,
    "colsample_bytree": 0.8,
    "reg_lambda": 3.0,
}
"""Thresholds are drawn at random (`extra_trees`), which lets trees be this deep. Held out, TTFT of aggregated
points went from 1.46 (160 trees of 10 leaves, without age and room) to 1.37; a Gaussian process reached 1.37,
1,500 such trees 1.36."""
SPREAD = {
    "n_estimators": 60,
    "num_leaves": 8,
    "learning_rate": 0.1,
    "min_child_samples": 30,
    "colsample_bytree": 0.5,
    "subsample": 0.8,
    "subsample_freq": 1,
    "reg_lambda": 1.0,
}
SHARED = {"extra_trees": True, "n_jobs": 1, "verbose": -1, "random_state": SEED}


class Data:
    """The points as arrays: `x` features, `y` for each target the logarithm of measured over baseline."""

    def __init__(self, points: list[Measured]) -> None:
        bases = [baseline(one.point) for one in points]
        self.points = points
        self.x = np.array([features(one.point, base) for one, base in zip(points, bases, strict=True)])
        self.y = {
            "tpot": np.log([p.tpot_ms / 1000 / b.tpot_s for p, b in zip(points, bases, strict=True)]),
            "ttft": np.log([p.ttft_ms / 1000 / b.ttft_s for p, b in zip(points, bases, strict=True)]),
        }
        self.own = np.array([one.row >= FIRST_ROW for one in points])
        self.agg = np.array([one.point.prefill is None for one in points])
        self.complete = np.array([one.complete for one in points])


def groups(points: list[Measured], key: Any) -> Any:
    """Fold numbers such that all points of one key share one; one fold for each key without a bound."""
    keys = sorted({key(one) for one in points}, key=repr)
    order = np.random.default_rng(SEED).permutation(len(keys))
    fold = {one: int(place) % FOLDS for one, place in zip(keys, order, strict=True)}
    return np.array([fold[key(one)] for one in points])


def model(extra: dict[str, Any]) -> Any:
    """An untrained forest."""
    return lightgbm.LGBMRegressor(**{**SHARED, **extra})


def held_out(x: Any, y: Any, fold: Any, settings: dict[str, Any]) -> Any:
    """What a forest that has not seen a point's fold says of it."""
    said = np.zeros(len(y))
    for one in sorted(set(fold)):
        rest = fold != one
        said[~rest] = model(settings).fit(x[rest], y[rest]).predict(x[~rest])
    return said


def bands(data: Data, error: Any, fold: Any) -> dict[str, Any]:
    """Bands measured on held-out folds: the spread's forest and the quantiles come from the others."""
    distance = np.log(np.maximum(np.abs(error), SMALLEST_DISTANCE))
    usual = np.exp(held_out(data.x, distance, fold, SPREAD))
    low, high = np.zeros(len(error)), np.zeros(len(error))
    for one in sorted(set(fold)):
        rest = fold != one
        scaled = -error[rest] / usual[rest]
        low[~rest], high[~rest] = np.quantile(scaled, 0.1), np.quantile(scaled, 0.9)
    inside = (-error >= low * usual) & (-error <= high * usual)
    width = np.exp((high - low) * usual)
    scaled = -error / usual
    parts = {"aggregated": data.agg & ~data.own, "disaggregated": ~data.agg, "own": data.own}
    return {
        "covered": round(float(inside[~data.own].mean()), 3),
        "median_width": round(float(np.median(width[~data.own])), 3),
        **{f"covered_{name}": round(float(inside[part].mean()), 3) for name, part in parts.items()},
        **{f"median_width_{name}": round(float(np.median(width[part])), 3) for name, part in parts.items()},
        "low": float(np.quantile(scaled, 0.1)),
        "high": float(np.quantile(scaled, 0.9)),
        "usual": usual,
    }


def evaluate(data: Data) -> dict[str, Any]:
    """Everything that the table shows, and the held-out errors for `write`."""
    fold = groups(data.points, lambda one: one.configuration)
    apart = {
        "engine, model, system, precision, ranks held out": groups(data.points, lambda one: one.ranks),
        "only a pair of lengths held out": groups(data.points, lambda one: (one.configuration, one.lengths)),
        "model left out": _numbered(one.point.architecture.id for one in data.points),
        "system left out": _numbered(one.point.accelerator.id for one in data.points),
    }
    alike = _numbered(repr(one.configuration) for one in data.points)
    theirs, agg = ~data.own, data.agg & ~data.own
    parts = {
        "all": theirs,
        "aggregated": agg,
        "disaggregated": ~data.agg,
        "disaggregated, workers known": ~data.agg & data.complete,
    }
    found: dict[str, Any] = {}
    for name, y in data.y.items():
        error = held_out(data.x, y, fold, CORRECTION) - y
        others = {left: held_out(data.x, y, ids, CORRECTION) - y for left, ids in apart.items()}
        own = error - np.array([np.median(error[alike == one]) for one in alike])
        unaided = model(CORRECTION).fit(data.x[theirs], y[theirs]).predict(data.x) - y
        found[name] = {
            "baseline alone": score((np.median(y[theirs]) - y)[theirs]),
            **{part: score(error[mask]) for part, mask in parts.items()},
            "all, were each configuration's median known": score(own[theirs]),
            **{left: score(other[theirs]) for left, other in others.items()},
            **{f"aggregated, {left}": score(other[agg]) for left, other in others.items()},
            "measured by us": score(error[data.own]),
            "measured by us, model left out": score(others["model left out"][data.own]),
            "measured by us, all of ours left out": score(unaided[data.own]),
            "bands": bands(data, error, fold),
            "error": error,
        }
    return found


def _numbered(names: Any) -> Any:
    return np.unique(list(names), return_inverse=True)[1]


def tree_line(node: dict[str, Any]) -> str:
    """A tree as JSON: a leaf's value, or [feature, threshold, at most, above]."""
    if "leaf_value" in node:
        return f"{node['leaf_value']:.3g}"
    left, right = tree_line(node["left_child"]), tree_line(node["right_child"])
    return f"[{node['split_feature']},{node['threshold']:.6g},{left},{right}]"


def forest(x: Any, y: Any, settings: dict[str, Any]) -> tuple[float, str]:
    """A forest fitted on everything, as lines; its start is in its first tree."""
    trees = model(settings).fit(x, y).booster_.dump_model()["tree_info"]
    return 0.0, "\n".join(tree_line(tree["tree_structure"]) for tree in trees)


def wider(found: dict[str, Any], left: str) -> float:
    """How much further off (logarithm) predictions are without that kind of knowledge, at least 1."""
    ratios = [math.log(one[left]["geometric"]) / math.log(one["all"]["geometric"]) for one in found.values()]
    return round(max(1.0, *ratios), 2)


def twins(seen: set[str]) -> set[str]:
    """Those models and all of the catalogue with their very shape, whose speed is the same."""
    models = load_catalog().models

    def shape(one: ModelArchitecture) -> tuple[object, ...]:
        return (one.layers, one.hidden, one.attention, one.heads, one.kv_heads, one.experts_routed)

    shapes = {shape(models[id_]) for id_ in seen}
    return {one.id for one in models.values() if shape(one) in shapes}


def write(data: Data, found: dict[str, Any], today: datetime.date) -> None:
    """Fits on all points and writes the calibration."""
    points = [one.point for one in data.points]
    seen = {
        "engines": {one.engine for one in points},
        "kinds": {one.accelerator.kind for one in points},
        "models": twins({one.point.architecture.id for one in data.points if one.row < FIRST_ROW}),
        "accelerators": {one.accelerator.id for one in points},
        "precisions": {one.precision for one in points},
    }
    lines = [
        "# Written by `python -m benchmarks.planner.fit POINTS.csv --write`; do not edit by hand.",
        "# Trees add up to the logarithm of (measured / baseline); one a line, as JSON: a leaf or",
        "# [feature, threshold, at most, above].",
        'source = "NVIDIA aiconfigurator-core 0.12.0, silicon_sample.csv (Apache-2.0), one '
        f"vendor's collection; and {int(data.own.sum())} points of ours on one H200 with vLLM 0.26\"",
        f"date = {today}",
        f'fitted_with = "lightgbm {lightgbm.__version__}, {CORRECTION["n_estimators"]} trees of '
        f"{CORRECTION['num_leaves']} leaves, random thresholds, Huber loss; "
        f'bands from {FOLDS} folds of whole configurations"',
        f"points = {len(points)}",
        f"configurations = {len({one.configuration for one in data.points})}",
        f"derived_model = {wider(found, 'model left out')}",
        f"derived_hardware = {wider(found, 'system left out')}",
        "[seen]",
        *(f"{name} = {json.dumps(sorted(values))}" for name, values in seen.items()),
        "[seen.only]",
        *(f"{id_} = {json.dumps(ways)}" for id_, ways in _ways(data, seen["models"]).items()),
    ]
    for name, y in data.y.items():
        distance = np.log(np.maximum(np.abs(found[name]["error"]), SMALLEST_DISTANCE))
        start, correction = forest(data.x, y, CORRECTION)
        spread_start, spread = forest(data.x, distance, SPREAD)
        lines += [
            f"[targets.{name}]",
            f"band_low = {found[name]['bands']['low']:.4f}",
            f"band_high = {found[name]['bands']['high']:.4f}",
            f"correction_start = {start}",
            f"spread_start = {spread_start}",
            f"correction = '''\n{correction}\n'''",
            f"spread = '''\n{spread}\n'''",
        ]
    CALIBRATION.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _ways(data: Data, known: set[str]) -> dict[str, list[str]]:
    """Of models that only our own points have: engine, precision, kind of hardware and ranks."""
    ways: dict[str, set[str]] = {}
    for point in (one.point for one in data.points if one.row >= FIRST_ROW):
        if point.architecture.id not in known:
            way = f"{point.engine}/{point.precision}/{point.accelerator.kind}/tp{point.layout.tp}"
            ways.setdefault(point.architecture.id, set()).add(way)
    return {id_: sorted(found) for id_, found in sorted(ways.items())}


def answered(peer: Path, points: Path) -> dict[str, Any]:
    """The peer's answers by row, none where it was asked another file: rows go by their number."""
    told = json.loads(peer.read_text(encoding="utf-8"))
    if told["points_sha256"] == hashlib.sha256(points.read_bytes()).hexdigest():
        return dict(told["answers"])
    print(f"{peer.name} answers another file than {points.name}: aiconfigurator is left out\n")
    return {}


def main() -> int:
    """Reads the points, evaluates, prints, writes the results, and with `--write` the calibration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("points", type=Path)
    parser.add_argument("--write", action="store_true", help="fit on all points and write the calibration")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/planner.{md,json}")
    parser.add_argument("--peer", type=Path, default=PEER, help="what aiconfigurator_rows.py wrote")
    asked = parser.parse_args()
    catalog = load_catalog()
    data = Data(read(asked.points, catalog) + own_points(catalog))
    found = evaluate(data)
    tables = report.tables(data, found, answered(asked.peer, asked.points))
    print(tables.text)
    if asked.keep:
        report.keep(tables)
    if asked.write:
        write(data, found, datetime.datetime.now(tz=datetime.UTC).date())
    print(last_line("planner-points", {"points": len(data.points)}, tables.goals))
    return exit_code(tables.goals)


if __name__ == "__main__":
    raise SystemExit(main())
