"""Why a mutant may live: by its name in docs/proof/mutation.json."""

from __future__ import annotations

_SAME = "It changes nothing that can be observed: "

REASONS: dict[str, str] = {
    'outcome.py: if policy.on_expiry == "drop": [ReplaceComparisonOperator_Eq_GtE 0]': (
        _SAME + "there are two values, and the other comes before it in the alphabet."
    ),
    'outcome.py: reason = f"this worker does not know {what}; it is offered again, for {max(0.0, grace - waited):.0f} s more" '
    "[NumberReplacer 28]": _SAME + "a grace that is over has left by the line above.",
    'outcome.py: reason = f"this worker does not know {what}; it is offered again, for {max(0.0, grace - waited):.0f} s more" '
    "[NumberReplacer 29]": _SAME + "a grace that is over has left by the line above.",
    "settling.py: def _end(self, held: Held, *, ok: bool) -> None: [ReplaceBinaryOperator_Mul_Div 6]": (
        _SAME + "it is a marker in a signature, and its callers name the argument."
    ),
    "settling.py: if self._clock.monotonic() + pause >= patience: [ReplaceComparisonOperator_GtE_Gt 0]": (
        "The very moment of the end of a lease, which no clock meets."
    ),
    "settling.py: for (held, how), answer in zip(alive, await self._answers(alive, call), strict=True): "
    "[ReplaceTrueWithFalse 0]": (
        "It guards against an adapter that answers with too few; the contract model holds adapters to one answer each."
    ),
    "settling.py: except Unsupported as error:  # `decide` does not resend ordered work [ExceptionReplacer 3]": (
        "It guards what cannot happen, with an assertion."
    ),
    "settling.py: linger = 0.0 if station.queue.ordered else min(limits.linger, station.queue.lease / 10) "
    "[NumberReplacer 11]": (_SAME + "a timer of less than nothing fires at once too."),
    'leases.py: wait = None if self._target == float("inf") else self._target - now [ReplaceComparisonOperator_Eq_Gt 0]': (
        _SAME + "an endless wait has no end, however it is written."
    ),
    'leases.py: wait = None if self._target == float("inf") else self._target - now [ReplaceComparisonOperator_Eq_GtE 0]': (
        _SAME + "nothing is more than endless."
    ),
    "leases.py: if self._next_look(held) < self._target: [ReplaceComparisonOperator_Lt_NotEq 0]": (
        _SAME + "the keeper looks once more than it must."
    ),
    "leases.py: if self._next_look(held) < self._target: [ReplaceComparisonOperator_Lt_LtE 0]": (
        _SAME + "the keeper looks once more than it must."
    ),
    "leases.py: if held.renew_at <= now: [ReplaceComparisonOperator_LtE_NotEq 3]": (
        _SAME + "a gap of less than nothing is no worst gap."
    ),
    "leases.py: if held.renew_at <= now: [ReplaceComparisonOperator_LtE_Lt 3]": _SAME + "a gap of nothing is no worst gap.",
    "leases.py: if self._target > now: [ReplaceComparisonOperator_Gt_NotEq 0]": (
        _SAME + "a wait for a time that has passed ends at once."
    ),
    "leases.py: if self._target > now: [ReplaceComparisonOperator_Gt_GtE 0]": _SAME + "a wait of nothing ends at once.",
    "leases.py: for held, answer in zip(batch, answers, strict=True): [ReplaceTrueWithFalse 2]": (
        "It guards against an adapter that answers with too few; the contract model holds adapters to one answer each."
    ),
    "leases.py: held.reported_timeout = True [ReplaceTrueWithFalse 5]": (
        _SAME + "the line before has put the timeout off for ever; this is the second lock on the same door."
    ),
    "leases.py: self._report(Name.TIMED_OUT, held, timeout=held.job.task.timeout or 0.0) [NumberReplacer 10]": (
        "What has no timeout does not time out; the number is for the type checker."
    ),
    "leases.py: self._report(Name.TIMED_OUT, held, timeout=held.job.task.timeout or 0.0) [NumberReplacer 11]": (
        "What has no timeout does not time out; the number is for the type checker."
    ),
}
