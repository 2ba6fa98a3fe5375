"""cloudq's handler, with one task that does nothing."""

from cloudq import CloudQ
from cloudq_sqs import lambda_handler

app = CloudQ("sqs://us-east-1?account=000000000000")


@app.task(name="noop")
def noop(number: int) -> None: ...


handler = lambda_handler(app)
