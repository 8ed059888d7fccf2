"""`python -m benchmarks [name ...]`: run the benchmarks (all by default) and write RESULTS.md."""

from __future__ import annotations

import sys

import pandas as pd

from . import (
    als_defaults,
    als_speed,
    auto_fit,
    cold_items,
    content,
    context,
    diversity,
    evaluate_speed,
    features,
    fold_in,
    gowalla,
    gpu,
    indexes,
    knn_speed,
    lightgcn,
    quality,
    ranking_quality,
    ranking_speed,
    scale_data,
    scale_lists,
    scale_memory,
    scale_order,
    scale_steps,
    sequence_speed,
    sequences,
    service,
    serving,
    several_processes,
    shards,
    speed,
    unit_costs,
    update,
    versions,
)
from .common import RESULTS, environment

BENCHMARKS = {
    "pick": quality.pick,
    "scale_lists": scale_lists.lists_to_parquet,
    "scale_data": scale_data.from_files_to_epoch,
    "scale_order": scale_order.block_order,
    "scale_memory": scale_memory.scale_memory,
    "scale_steps": scale_steps.steps,
    "quality": quality.test,
    "speed_training": speed.training,
    "speed_time_to_quality": speed.time_to_quality,
    "indexes": indexes.indexes,
    "recommend": serving.recommend,
    "imports": serving.imports,
    "light": serving.light,
    "light_export": serving.light_export,
    "service": service.service,
    "unseen_users": serving.unseen_users,
    "ncf_pick": ranking_quality.ncf_pick,
    "ncf_quality": ranking_quality.ncf_quality,
    "gowalla_pick": gowalla.gowalla_pick,
    "gowalla": gowalla.gowalla,
    "lightgcn_pick": lightgcn.lightgcn_pick,
    "lightgcn": lightgcn.lightgcn,
    "als_defaults": als_defaults.als_defaults,
    "gradient_defaults": als_defaults.gradient_defaults,
    "auto_fit": auto_fit.auto_fit_quality,
    "tune": auto_fit.tune_quality,
    "knn_speed": knn_speed.knn_speed,
    "als_sweep": als_speed.als_sweep,
    "ncf_speed": ranking_speed.ncf_speed,
    "bpr_speed": ranking_speed.bpr_speed,
    "sampling_speed": ranking_speed.sampling_speed,
    "time_to_hit_rate": ranking_speed.time_to_hit_rate,
    "evaluate_speed": evaluate_speed.evaluate_speed,
    "metrics_in_fit": evaluate_speed.metrics_in_fit,
    "features_warm": features.features_warm,
    "cold_items": features.cold_items,
    "cold_users": features.cold_users,
    "planted_content": content.planted_content,
    "content_steps": content.content_steps,
    "tags_cost": content.tags_cost,
    "cold_ranking": cold_items.cold_ranking,
    "cold_mix": cold_items.cold_mix,
    "content_warm": cold_items.content_warm,
    "add_items_speed": cold_items.add_items_speed,
    "fold_in": fold_in.fold_in,
    "fold_in_events": fold_in.fold_in_events,
    "fold_in_speed": fold_in.fold_in_speed,
    "update": update.update,
    "next_item": sequences.next_item,
    "next_networks": sequences.next_networks,
    "sequence_steps": sequence_speed.sequence_steps,
    "sequence_peer": sequence_speed.sequence_peer,
    "sequence_serving": sequence_speed.sequence_serving,
    "time_biases": context.time_biases,
    "youtube": context.youtube,
    "diversity": diversity.diversity,
    "diversity_speed": diversity.diversity_speed,
    "shares": diversity.shares,
    "processes_equal": several_processes.processes_equal,
    "processes_speed": several_processes.processes_speed,
    "processes_end": several_processes.processes_end,
    "shards": shards.shards,
    "gpu": gpu.gpu,
    "unit_costs": unit_costs.unit_costs,
    "versions": versions.versions,
}


def main(names: list[str]) -> None:
    names = [name for name in names if name != "--small"]  # which `gpu` looks at
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise SystemExit(f"unknown benchmark(s) {unknown}; there are {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()
    report()


def report() -> None:
    """RESULTS.md from the tables in results/."""
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks`. " + ", ".join(f"{k} {v}" for k, v in environment().items()) + ".",
    ]
    for name, function in BENCHMARKS.items():
        file = RESULTS / f"{name}.csv"
        if file.exists():
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
            lines += ["", f"## {name}", "", function.__doc__, ""]
            lines += [_line(table.columns), _line(["---"] * len(table.columns)), *map(_line, table.to_numpy().tolist())]
    (RESULTS.parent / "RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main(sys.argv[1:])
