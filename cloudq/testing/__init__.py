"""For the tests of your application: its queues in memory, on a clock that you move, with no worker and no provider.

    from cloudq.testing import sandbox

    def test_signup():
        with sandbox(app) as box:
            signup("ann@example.com")                      # your code, which enqueues as ever
            mail = box.assert_enqueued(welcome, "ann@example.com")
            assert mail.delay == 3600
            box.clock.advance("1h")
            box.run_pending()                              # runs what is due, here, on this thread

With pytest, the fixture `cloudq_sandbox` is there by itself: `box = cloudq_sandbox(app)`.
"""

from cloudq.testing.clock import ManualClock
from cloudq.testing.sandbox import Dead, Enqueued, Ran, Sandbox, sandbox

__all__ = ["Dead", "Enqueued", "ManualClock", "Ran", "Sandbox", "sandbox"]
