"""The smallest program: one task, enqueued by running this file, run by a worker.

    python hello.py
    cloudq worker hello:app

The first task runs at once, the second two seconds later; the third is rejected, which the log reports as an error, and kept.
"""

from cloudq import Backoff, CloudQ, Context, Reject

app = CloudQ("sqlite:///hello.db")  # or CloudQ(), and CLOUDQ_URL


@app.task(retry=Backoff(max_attempts=5, first="1s"), timeout="1m")
def greet(ctx: Context, name: str, polite: bool = True) -> None:
    """Say hello. `ctx` is optional, and always first."""
    if not name:
        raise Reject("nobody to greet")
    print(f"{'Good day' if polite else 'Hi'}, {name}! (attempt {ctx.attempt})")


if __name__ == "__main__":
    print(greet.enqueue("world"))
    print(greet.options(delay="2s").enqueue("world, later", polite=False))
    print(greet.enqueue(""))
