"""The capability matrix: what of each vendor, engine and mode has been shown, and what is refused."""

from __future__ import annotations

from sextant.base.errors import Unsupported
from sextant.spec.rendering import Cell, Order, ServedModel


def cell_of(order: Order, served: ServedModel) -> Cell:
    """The cell of that model. Raises Unsupported where the matrix has none."""
    vendor, engine = served.vendor, served.entry.engine.kind
    for cell in order.facts.cells:
        if (cell.vendor, cell.engine, cell.mode) == (vendor, engine, order.mode):
            return cell
    raise Unsupported(f"the capability matrix has no cell {vendor} x {engine} x {order.mode}")


def check(order: Order) -> tuple[str, ...]:
    """What is not shown to work, a sentence for each model it is about. Raises Unsupported naming the cell,
    with the reason, for what cannot work."""
    said = []
    for served in order.served:
        cell = cell_of(order, served)
        named = f"{served.entry.name}: {cell.vendor} x {cell.engine} x {cell.mode}"
        if cell.proof == "unsupported":
            raise Unsupported(f"{named} is not supported: {cell.reason}", field="spec.mode")
        if cell.proof != "executed":
            said.append(f"{named} is {cell.proof}: {cell.reason}")
    return tuple(said)
