"""A difference as text, for a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from scripts.diffing.compare import Change, Difference, Quality, left_out, no_cost
from scripts.diffing.outcome import Place
from scripts.evaluating.report import table


def format_difference(found: Difference, output_tokens: int, skipped: int) -> str:
    """Figures first, then which models and which labels the moved requests are of."""
    figures = table(("", "OLD", "NEW", "change"), list(_figures(found)), names=1)
    moved = f"{found.moved:,} of {found.requests:,} requests move ({found.moved_share:.1%})"
    parts = [f"{moved}, {skipped:,} lines skipped" if skipped else moved, figures]
    if found.moves:
        names = names_of([place for move in found.moves for place in (move.old, move.new)])
        moves = [(names[move.old], names[move.new], move.requests) for move in found.moves]
        parts.append(table(("OLD model", "NEW model", "requests"), moves))
    labels = [(each.label, each.old, each.new, each.moved) for each in found.by_label]
    parts.append(table(("label", "OLD", "NEW", "OLD's that move"), labels, names=1))
    return "\n\n".join([*parts, *_notes(found, output_tokens)])


def names_of(places: Sequence[Place]) -> dict[Place, str]:
    """A model's name, and where it is served when that is what tells it from another."""
    bases = defaultdict(set)
    for place in places:
        bases[place.model].add(place.api_base)
    return {
        place: f"{place.model} at {place.api_base}" if len(bases[place.model]) > 1 else place.model for place in places
    }


def _figures(found: Difference) -> Iterator[tuple[str, str, str, str]]:
    yield _row("share abstained", found.abstained)
    if found.strong is not None:
        yield _row("share of strong calls", found.strong)
    if found.cost.total is not None:
        total, increase = found.cost.total, found.cost.increase
        yield "estimated cost", f"{total.old:.6g}", f"{total.new:.6g}", f"{increase:+.1%}"
    yield from _quality("right labels", found.labels)
    if found.answered is not None and max(found.abstained):
        yield _row("right labels, not abstained", found.answered)
    yield from _quality("right answers", found.answers)


def _quality(name: str, quality: Quality | None) -> Iterator[tuple[str, str, str, str]]:
    if quality is not None:
        yield _row(f"{name} ({quality.requests:,} requests)", quality.share)


def _row(name: str, change: Change) -> tuple[str, str, str, str]:
    return name, f"{change.old:.3f}", f"{change.new:.3f}", f"{change.new - change.old:+.3f}"


def _notes(found: Difference, output_tokens: int) -> Iterator[str]:
    """What the figures rest on, or why there are none."""
    if found.unlike_log:
        yield (
            f"{found.unlike_log:,} logged requests were answered by another model than OLD's choice: a fallback, a "
            "threshold of their own, or another configuration"
        )
    cost = found.cost
    if cost.total is None:
        yield f"no estimated cost: {no_cost(cost, names_of(cost.unpriced).values())}"
        return
    for what in left_out(cost):
        yield f"cost: {what}, and are left out"
    if cost.assumed:
        yield f"cost: {output_tokens:,} tokens are assumed for each of {cost.assumed:,} answers"
    if cost.estimated:
        yield f"cost: {cost.estimated:,} prompts count with a token for four bytes; no model told their tokens"
