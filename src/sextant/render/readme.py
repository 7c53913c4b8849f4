"""The README of a bundle: for the operator who receives it and has never seen this product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sextant.catalog import images
from sextant.catalog.capabilities import cell_of
from sextant.render.dumping import text_file
from sextant.render.holdings import holding
from sextant.spec.bundle import Bundle, File, Need, Step
from sextant.spec.rendering import Order, ServedModel

PATH = "README.md"
STEPS = (
    ("Install", "install"),
    ("Verify", "verify"),
    ("Upgrade", "upgrade"),
    ("Roll back", "rollback"),
    ("Uninstall", "uninstall"),
)


def readme_file(bundle: Bundle, order: Order) -> File:
    """README.md of that bundle."""
    return text_file(PATH, "\n".join(_lines(bundle, order)))


def _lines(bundle: Bundle, order: Order) -> Iterator[str]:
    yield f"# {bundle.name}"
    yield ""
    yield f"A deployment of the mode `{bundle.mode}`, rendered by Sextant {order.version}."
    yield ""
    yield "Change the document and render again rather than these files: `sextant diff` shows what would"
    yield "change, and a folder that was changed by hand is not overwritten. `sextant verify .` checks it"
    yield "by every validator that is installed. Type commands in this folder; words in capitals are yours."
    yield ""
    yield from _diagram(bundle)
    yield from _models(order)
    yield from _files(bundle)
    yield from _needs(bundle.needs)
    for title, name in STEPS:
        yield from _steps(title, getattr(bundle, name))
    yield from _profile(order)
    yield from _images(bundle, order)
    yield from _notes(bundle)


def _diagram(bundle: Bundle) -> Iterator[str]:
    yield "```mermaid"
    yield bundle.diagram.strip()
    yield "```"
    yield ""


def _models(order: Order) -> Iterator[str]:
    yield "## What it serves"
    yield ""
    yield "| model | engine | hardware | layout | shown |"
    yield "|---|---|---|---|---|"
    for served in order.served:
        engine, shown = served.entry.engine.kind, cell_of(order, served).proof
        yield f"| `{served.entry.name}` | {engine} | {_hardware(served)} | {_layout(served)} | {shown} |"
    yield ""


def _hardware(served: ServedModel) -> str:
    option = served.option
    if option is None:
        return "elsewhere" if served.entry.engine.kind == "remote" else "CPU"
    return f"{option.count} x {option.accelerator.title}"


def _layout(served: ServedModel) -> str:
    option = served.option
    if option is None:
        return ""
    layout = option.layout
    parts = {
        "tensor": layout.tp,
        "pipeline": layout.pp,
        "attention": layout.attention_dp,
        "expert": layout.ep,
    }
    said = ", ".join(f"{name} {number}" for name, number in parts.items() if number > 1) or "one accelerator"
    return f"{said}; {layout.dp} {'replica' if layout.dp == 1 else 'replicas'}"


def _files(bundle: Bundle) -> Iterator[str]:
    yield "## What is here"
    yield ""
    yield "| file | holds |"
    yield "|---|---|"
    for file in bundle.files:
        yield f"| `{file.path}` | {holding(file)} |"
    yield ""
    yield "`MANIFEST.json` holds the SHA-256 of every file."
    yield ""


def _needs(needs: Sequence[Need]) -> Iterator[str]:
    yield "## Prerequisites"
    yield ""
    if not needs:
        yield "None."
    for need in needs:
        yield f"- **{need.name}** ({need.kind}): {need.why}" + (f"  \n  `{need.check}`" if need.check else "")
    yield ""


def _steps(title: str, steps: Sequence[Step]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    for number, step in enumerate(steps, start=1):
        yield f"{number}. **{step.title.rstrip('.')}.**" + (f" {step.why}" if step.why else "")
        if step.commands:
            yield ""
            yield "   ```sh"
            yield from (
                f"   {line}" if line else "" for command in step.commands for line in command.split("\n")
            )
            yield "   ```"
        yield ""
    if not steps:
        yield "Nothing to do."
        yield ""


def _profile(order: Order) -> Iterator[str]:
    defaults = order.defaults
    if not defaults.name:
        return
    yield f"## Profile {defaults.name}"
    yield ""
    yield f"Taken where the document says nothing: {defaults.why}."
    yield ""
    yield f"- usage and invoices are kept {defaults.usage_days} days, audit trails {defaults.audit_days} days"
    yield f"- logs are kept {defaults.log_days} days"
    yield f"- backups `{defaults.backup_schedule}`, kept {defaults.backup_keep_days} days"
    yield f"- at most {defaults.rpo_s} s of data may be lost"
    yield f"- zones {' > '.join(defaults.zones)}; outgoing traffic: {defaults.egress}"
    yield f"- encryption: {defaults.encryption}"
    if defaults.edge_share:
        yield f"- {defaults.edge_share:.0%} of requests are answered at the edge"
    if defaults.personal_data:
        yield f"- models that do not say are `{defaults.personal_data}` for personal data"
    yield ""


def _images(bundle: Bundle, order: Order) -> Iterator[str]:
    """The images that the files name and nobody locked."""
    whole = b"\n".join(file.content for file in bundle.files)
    named = [
        name
        for name, image in order.images.known.items()
        if (image.tag != "latest" or order.images.is_pinned(name))
        and order.images.reference(name).encode() in whole
    ]
    loose = images.unpinned(order, named)
    if not loose:
        return
    yield "## Images without a digest"
    yield ""
    yield "These are named by tag, which their makers can move. Write `repository:tag@sha256:…` for each into"
    yield "a file, name it as `spec.delivery.images_lock`, and render again."
    yield ""
    yield from (f"- `{image}`" for image in loose)
    yield ""


def _notes(bundle: Bundle) -> Iterator[str]:
    if not bundle.notes:
        return
    yield "## What is not shown, and what is left to you"
    yield ""
    yield from (f"- {note}" for note in bundle.notes)
    yield ""
