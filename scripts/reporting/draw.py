"""An account as a picture. Nothing else here needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from scripts.evaluating.draw import save
from scripts.reporting.account import Account, savings
from scripts.reporting.read import Answer

_SPENT, _STRONGEST = "tab:blue", "lightgrey"
_MOST_POLICIES = 20  # that are drawn: those that spent most


def draw_account(account: Account, answers: Sequence[Answer], file: Path) -> None:
    """Spent beside what the strongest model would have cost, for each policy, and over time."""
    policies = sorted(account.policies.items(), key=lambda each: each[1].at_strongest)[-_MOST_POLICIES:]
    figure = Figure(figsize=(11, 1.6 + max(2.4, 0.55 * len(policies))), layout="constrained")
    figure.suptitle(f"{account.total.requests:,} requests", fontsize=11)
    bars, over_time = figure.subplots(1, 2)
    places = range(len(policies))
    bars.barh(places, [sums.at_strongest for _, sums in policies], color=_STRONGEST, label="at the strongest model")
    bars.barh(places, [sums.compared for _, sums in policies], height=0.5, color=_SPENT, label="spent")
    # A `$` in a name begins no formula.
    bars.set_yticks(places, [policy or "(named by\nthe client)" for policy, _ in policies], parse_math=False)
    for place, (_, sums) in zip(places, policies, strict=True):
        if sums.saved_share is not None:
            bars.annotate(f" {sums.saved_share:.0%} saved", (max(sums.at_strongest, sums.compared), place), va="center")
    bars.margins(x=0.25)
    bars.set(xlabel="cost, in the configuration's currency", title="by policy")
    hours, spent, strongest = savings(answers)
    over_time.step(hours, strongest, where="post", color="grey", label="at the strongest model")
    over_time.step(hours, spent, where="post", color=_SPENT, label="spent")
    over_time.fill_between(hours, spent, strongest, step="post", color=_STRONGEST, alpha=0.5)
    over_time.set(xlabel="hours since the first request", ylabel="cost so far", title="over time")
    for axes in (bars, over_time):
        axes.grid(alpha=0.3)
        axes.title.set_fontsize(10)
        axes.legend(loc="lower right" if axes is bars else "upper left", fontsize=8)
    save(figure, file)
