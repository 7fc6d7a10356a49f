"""An account as text, for a person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from scripts.evaluating.report import table
from scripts.reporting.account import Account, Sums

NOT_COUNTED = (
    "Not counted: what a conversation that changes models takes to be read anew, where a prefix cache would have known "
    "it (a cold prefix); nor that the strongest model might have written more or less."
)
_HEADER = (
    "policy",
    "model",
    "requests",
    "share",
    "tokens in",
    "tokens out",
    "spent",
    "at strongest",
    "saved",
    "saved %",
)
_NAMED = "(named by the client)"


def format_account(account: Account, others: int, first: datetime, last: datetime) -> str:
    """What each policy's models took and saved, why they were chosen, and what the figures leave out. Times are UTC."""
    total = account.total
    span = " to ".join(f"{time:%Y-%m-%d %H:%M:%S}" for time in (first, last))
    head = f"{total.requests:,} requests, {total.answers:,} answered, {span} UTC; {others:,} other lines"
    rows = [
        _row(policy or _NAMED, model, sums, account.policies[policy].requests)
        for (policy, model), sums in account.models.items()
    ]
    rows += [_row(policy or _NAMED, "all", sums, total.requests) for policy, sums in account.policies.items()]
    rows.append(_row("all", "all", total, total.requests))
    reasons = [
        (policy or _NAMED, reason, f"{n:,}", f"{n / counts.total():.1%}")
        for policy, counts in account.reasons.items()
        for reason, n in counts.items()
    ]
    parts = [head, table(_HEADER, rows), table(("policy", "reason", "requests", "share"), reasons)]
    return "\n\n".join([*parts, "\n".join(_notes(total))])


def _row(policy: str, model: str, sums: Sums, of: int) -> tuple[str, ...]:
    """A dash stands for what no answer of the row tells."""
    tokens = [f"{each:,}" if sums.with_tokens else "-" for each in (sums.input_tokens, sums.output_tokens)]
    spent = _money(sums.cost) if sums.with_cost else "-"
    compared = [_money(each) if sums.with_comparison else "-" for each in (sums.at_strongest, sums.saved)]
    part = "-" if sums.saved_share is None else f"{sums.saved_share:.1%}"
    return policy, model, f"{sums.requests:,}", f"{sums.requests / of:.1%}", *tokens, spent, *compared, part


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if abs(amount) >= 100 else f"{amount:.4g}"


def _notes(total: Sums) -> Iterator[str]:
    if total.without_tokens:
        yield (
            f"Answers in no sum: {total.without_tokens:,}. Their upstream did not tell their tokens, as of streams "
            "without stream_options.include_usage."
        )
    if total.without_cost:
        yield f"Answers of models without a cost: {total.without_cost:,}. What they took is not in what was spent."
    if total.without_comparison:
        count = f"{total.without_comparison:,}"
        yield f"Answers that saved nothing known: {count}. Their policy's strongest model has no cost."
    yield NOT_COUNTED
