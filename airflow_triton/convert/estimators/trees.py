"""Where a missing value goes in scikit-learn's trees: skl2onnx sends it to the right always, they where each learned to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

OPERATORS = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")

Shape = tuple[tuple[int, int, int], ...]
"""A tree's branches: for each node its feature and its two children (0, 0, 0 for a leaf)."""


def send_missing_values(graph: Any, estimator: Any) -> None:
    """Let the trees of the graph send missing values where those of the estimator do (`Tree.missing_go_to_left`).

    A tree of the graph is found by its nodes: skl2onnx keeps their numbers. One that is not the estimator's own (of another library, or
    of the histogram kind, which skl2onnx writes rightly) stays as it is.
    """
    known = {_shape(tree): tree.missing_go_to_left for tree in _trees(estimator) if hasattr(tree, "missing_go_to_left")}
    if not known:
        return
    for node in graph.graph.node:
        if node.op_type in OPERATORS:
            _mend({entry.name: entry for entry in node.attribute}, known)


def _mend(attributes: dict[str, Any], known: dict[Shape, Any]) -> None:
    numbers: dict[int, list[int]] = {}
    for position, tree in enumerate(attributes["nodes_treeids"].ints):
        numbers.setdefault(tree, []).append(position)
    columns = [attributes[f"nodes_{name}"].ints for name in ("featureids", "truenodeids", "falsenodeids")]
    leaf = [mode == b"LEAF" for mode in attributes["nodes_modes"].strings]
    for positions in numbers.values():
        shape = tuple((0, 0, 0) if leaf[at] else (columns[0][at], columns[1][at], columns[2][at]) for at in positions)
        goes_left = known.get(shape)
        for at, left in zip(positions, goes_left if goes_left is not None else (), strict=False):
            attributes["nodes_missing_value_tracks_true"].ints[at] = int(left and not leaf[at])


def _shape(tree: Any) -> Shape:
    nodes = zip(tree.feature.tolist(), tree.children_left.tolist(), tree.children_right.tolist(), strict=True)
    return tuple((feature, left, right) if left > 0 else (0, 0, 0) for feature, left, right in nodes)


def _trees(thing: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Every fitted tree below an estimator."""
    import numpy as np

    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if hasattr(thing, "tree_"):
        yield thing.tree_
    if isinstance(thing, (list, tuple)) or (isinstance(thing, np.ndarray) and thing.dtype == object):
        below = list(thing.flat if isinstance(thing, np.ndarray) else thing)
    elif isinstance(thing, dict):
        below = list(thing.values())
    else:
        below = list(vars(thing).values()) if hasattr(thing, "get_params") else []
    for each in below:
        yield from _trees(each, seen)
