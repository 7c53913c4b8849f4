"""Fits the planner's correction to measured serving points and says how good it is on points it has not
seen.

`python -m benchmarks.planner.fit POINTS.csv [--keep] [--write]`: cross-validates by whole configuration
(engine, model, system, precision, layout: all its lengths and concurrencies are held out together),
leaves out each model and each system in turn, measures the bands on folds that neither forest has seen,
and prints the table. `--write` also fits on everything and writes `spec/data/calibration.toml`. Needs
numpy and lightgbm, which the product does not: the trees are walked in plain Python.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
from pathlib import Path
from typing import Any

import lightgbm  # type: ignore[import-not-found]
import numpy as np

from benchmarks.planner.points import Measured, read
from sextant.planner.calibration import baseline, features
from sextant.spec.architecture import ModelArchitecture
from sextant.spec.facts import load_catalog

ROOT = Path(__file__).parents[2]
CALIBRATION = ROOT / "src/sextant/spec/data/calibration.toml"
RESULTS = ROOT / "benchmarks/results/planner.json"
TABLE = ROOT / "benchmarks/results/planner.md"
FOLDS = 10
SEED = 0
SMALLEST_DISTANCE = 0.02
"""Points closer than this count as this close, so that a logarithm can be taken."""
CORRECTION = {
    "n_estimators": 160,
    "num_leaves": 10,
    "learning_rate": 0.1,
    "objective": "huber",
    "alpha": 0.3,
}
SPREAD = {"n_estimators": 40, "num_leaves": 6, "learning_rate": 0.1, "min_child_samples": 40}
SHARED = {
    "min_child_samples": 8,
    "colsample_bytree": 0.5,
    "subsample": 0.8,
    "subsample_freq": 1,
    "reg_lambda": 1.0,
    "n_jobs": 1,
    "verbose": -1,
    "random_state": SEED,
}


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


def score(error: Any) -> dict[str, float]:
    """Geometric error `exp(mean |log ratio|)`, share within 25 % of the measurement, number of points."""
    return {
        "geometric": round(float(np.exp(np.abs(error).mean())), 3),
        "within_25": round(float(np.mean(np.abs(np.exp(error) - 1) <= 0.25)), 3),
        "points": len(error),
    }


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
    parts = {"aggregated": data.agg, "disaggregated": ~data.agg}
    return {
        "covered": round(float(inside.mean()), 3),
        "median_width": round(float(np.median(width)), 3),
        **{f"covered_{name}": round(float(inside[part].mean()), 3) for name, part in parts.items()},
        **{f"median_width_{name}": round(float(np.median(width[part])), 3) for name, part in parts.items()},
        "low": float(np.quantile(scaled, 0.1)),
        "high": float(np.quantile(scaled, 0.9)),
        "usual": usual,
    }


def evaluate(data: Data) -> dict[str, Any]:
    """Everything that the table shows, and the held-out errors for `write`."""
    fold = groups(data.points, lambda one: one.configuration)
    by_model = np.unique([one.point.architecture.id for one in data.points], return_inverse=True)[1]
    by_system = np.unique([one.point.accelerator.id for one in data.points], return_inverse=True)[1]
    found: dict[str, Any] = {}
    for name, y in data.y.items():
        error = held_out(data.x, y, fold, CORRECTION) - y
        parts = {
            "all": data.agg | True,
            "aggregated": data.agg,
            "disaggregated": ~data.agg,
            "disaggregated, workers known": ~data.agg & data.complete,
        }
        found[name] = {
            "baseline alone": score(-y + np.median(y)),
            **{part: score(error[mask]) for part, mask in parts.items()},
            "bands": bands(data, error, fold),
            "error": error,
        }
        for left, ids in (("model left out", by_model), ("system left out", by_system)):
            found[name][left] = score(held_out(data.x, y, ids, CORRECTION) - y)
    return found


def tree_line(node: dict[str, Any]) -> str:
    """A tree in preorder: `FEATURE<THRESHOLD` or a leaf's value."""
    if "leaf_value" in node:
        return f"{node['leaf_value']:.4g}"
    left, right = tree_line(node["left_child"]), tree_line(node["right_child"])
    return f"{node['split_feature']}<{node['threshold']:.6g} {left} {right}"


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
        "models": twins({one.architecture.id for one in points}),
        "accelerators": {one.accelerator.id for one in points},
        "precisions": {one.precision for one in points},
    }
    lines = [
        "# Written by `python -m benchmarks.planner.fit POINTS.csv --write`; do not edit by hand.",
        "# Trees add up to the logarithm of (measured / baseline); one a line, nodes in preorder.",
        'source = "NVIDIA aiconfigurator-core 0.12.0, silicon_sample.csv (Apache-2.0), one '
        "vendor's collection\"",
        f"date = {today}",
        f'fitted_with = "lightgbm {lightgbm.__version__}, {CORRECTION["n_estimators"]} trees of '
        f'{CORRECTION["num_leaves"]} leaves, Huber loss; bands from {FOLDS} folds of whole configurations"',
        f"points = {len(points)}",
        f"configurations = {len({one.configuration for one in data.points})}",
        f"derived_model = {wider(found, 'model left out')}",
        f"derived_hardware = {wider(found, 'system left out')}",
        "[seen]",
        *(f"{name} = {json.dumps(sorted(values))}" for name, values in seen.items()),
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
            f'correction = """\n{correction}\n"""',
            f'spread = """\n{spread}\n"""',
        ]
    CALIBRATION.write_text("\n".join(lines) + "\n", encoding="utf-8")


def shown(found: dict[str, Any], peer: dict[str, Any] | None) -> str:
    """The tables."""
    lines = ["| target | points | geometric error | within 25 % | number |", "|---|---|---|---|---|"]
    for name, parts in {**found, **(peer or {})}.items():
        for part, one in parts.items():
            if isinstance(one, dict) and "geometric" in one:
                lines.append(
                    f"| {name} | {part} | {one['geometric']} | {one['within_25']:.1%} | {one['points']} |"
                )
    lines += ["", "| target | 80 % band holds | median width (high / low) |", "|---|---|---|"]
    for name, parts in found.items():
        band = parts["bands"]
        for suffix in ("", "_aggregated", "_disaggregated"):
            title = f"{name}{suffix.replace('_', ', ')}"
            lines.append(f"| {title} | {band['covered' + suffix]:.1%} | {band['median_width' + suffix]} |")
    return "\n".join(lines)


def beside(data: Data, found: dict[str, Any], path: Path) -> dict[str, Any]:
    """The peer and this planner (held out) on the rows that the peer answers."""
    answers = json.loads(path.read_text(encoding="utf-8"))["answers"]
    rows = [
        (place, answers[str(one.row)])
        for place, one in enumerate(data.points)
        if "tpot_ms" in answers.get(str(one.row), {}) and answers[str(one.row)]["tpot_ms"] > 0
    ]
    asked = sum(str(one.row) in answers for one in data.points)
    table: dict[str, Any] = {}
    for name in data.y:
        measured = np.array([getattr(data.points[place], f"{name}_ms") for place, _ in rows])
        peer = np.log(np.array([answer[f"{name}_ms"] for _, answer in rows]) / measured)
        ours = found[name]["error"][[place for place, _ in rows]]
        table[f"{name}, rows that aiconfigurator answers ({len(rows)} of {asked} asked)"] = {
            "aiconfigurator 0.12.0": score(peer),
            "Sextant, held out": score(ours),
        }
    return table


def plain(value: Any) -> Any:
    """Without arrays, for JSON."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if not isinstance(one, np.ndarray)}
    return value


def keep(data: Data, found: dict[str, Any], peer: dict[str, Any] | None, text: str) -> None:
    """Writes the results, as a table and as JSON."""
    RESULTS.write_text(
        json.dumps(plain({"held_out": found, "peer": peer}), indent=1) + "\n", encoding="utf-8"
    )
    TABLE.write_text(
        "# The planner against measured serving points\n\n"
        f"{len(data.points)} measurements of "
        f"{len({one.configuration for one in data.points})} configurations, "
        "cross-validated by whole configuration.\nCommand: `make bench-planner POINTS=serving_silicon.csv`.\n"
        f"\n{text}\n",
        encoding="utf-8",
    )


def main() -> None:
    """Reads the points, evaluates, prints, writes the results, and with `--write` the calibration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("points", type=Path)
    parser.add_argument("--write", action="store_true", help="fit on all points and write the calibration")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/planner.{md,json}")
    parser.add_argument("--peer", type=Path, help="what aiconfigurator_rows.py wrote")
    asked = parser.parse_args()
    data = Data(read(asked.points, load_catalog()))
    found = evaluate(data)
    peer = beside(data, found, asked.peer) if asked.peer else None
    text = shown(found, peer)
    print(text)
    if asked.keep:
        keep(data, found, peer, text)
    if asked.write:
        write(data, found, datetime.datetime.now(tz=datetime.UTC).date())


if __name__ == "__main__":
    main()
