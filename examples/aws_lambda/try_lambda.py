"""The function as Lambda runs it, on this machine: by the vendor's own runtime client, on the queues of an emulator."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# boto3 has no types of its own for what it makes.
import asyncio
import os
import shutil
import time
from pathlib import Path
from typing import Any

os.environ.update(OUT="resized", AWS_ACCESS_KEY_ID="local", AWS_SECRET_ACCESS_KEY="local")  # noqa: S106  no secret: the emulator looks at no key

import boto3

from cloudq_sqs.emulator import Server
from cloudq_sqs.emulator.lambdas import EventSource, Runtime

COUNT = 50


def main() -> None:
    shutil.rmtree("resized", ignore_errors=True)  # of an earlier run
    server = Server().start()
    os.environ["CLOUDQ_URL"] = f"sqs://us-east-1?endpoint={server.endpoint}"
    from resize import OUT, app, resize  # after the URL is known

    asyncio.run(create())
    app.enqueue_many(resize.message(f"p{number}", number) for number in range(COUNT))
    sqs: Any = boto3.client("sqs", region_name="us-east-1", endpoint_url=server.endpoint)
    queue = sqs.get_queue_url(QueueName="resizing-default")["QueueUrl"]
    with Runtime("function.handler", cwd=Path(__file__).parent, timeout=10) as runtime:
        with EventSource(sqs, queue, runtime, batch=10) as source:
            deadline = time.time() + 60
            while len(list(OUT.glob("*.txt"))) < COUNT - 1 and time.time() < deadline:
                time.sleep(0.1)
        calls = len(source.calls)
    done = sorted(path.read_text() for path in OUT.glob("*.txt"))
    # Number 0 can never be resized; it is kept with its reason. Those that failed once were tried again, alone.
    assert done == sorted(f"p{number} {number}\n" for number in range(1, COUNT)), done
    dead = sqs.receive_message(
        QueueUrl=sqs.get_queue_url(QueueName="resizing-default-dlq")["QueueUrl"], MessageAttributeNames=["All"]
    )["Messages"]
    assert ["cannot be 0 wide" in each["MessageAttributes"]["cloudq-dead"]["StringValue"] for each in dead] == [True]
    print(f"{len(done)} resized and 1 dead letter, in {calls} calls")
    app.close()
    server.stop()


async def create() -> None:
    from resize import app

    from cloudq.driver import Provisioner

    async with app.driver(app.url_of("default")) as driver:
        assert isinstance(driver, Provisioner)
        await driver.create(app.addresses("default"))


if __name__ == "__main__":
    main()
