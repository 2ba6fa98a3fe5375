"""The bare SDK, high level: a streaming pull with a callback that acknowledges, at the SDK's own settings."""

from google.cloud import pubsub_v1
from with_unary import SUBSCRIPTION, create, enqueue_many, nothing  # noqa: F401  the same messages


def callback(message: pubsub_v1.subscriber.message.Message) -> None:
    nothing(message.data)
    message.ack()


WORKER = ["with_streaming.py"]

if __name__ == "__main__":
    pubsub_v1.SubscriberClient().subscribe(SUBSCRIPTION, callback).result()
