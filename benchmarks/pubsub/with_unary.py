"""The bare SDK, generated client: pull a hundred, run them, acknowledge a hundred. No retries, no leases, no dead letters."""

from google.api_core.exceptions import DeadlineExceeded
from google.pubsub_v1 import PublisherClient, SubscriberClient, types

TOPIC, SUBSCRIPTION = "projects/bench-project/topics/bench", "projects/bench-project/subscriptions/bench"


def create() -> None:
    PublisherClient().create_topic(name=TOPIC)
    SubscriberClient().create_subscription(name=SUBSCRIPTION, topic=TOPIC, ack_deadline_seconds=60)


def enqueue_many(count: int) -> None:
    publisher = PublisherClient()
    for start in range(0, count, 1000):
        messages = [types.PubsubMessage(data=b'{"task":"nothing"}') for _ in range(min(1000, count - start))]
        publisher.publish(topic=TOPIC, messages=messages)


def nothing(body: bytes) -> None: ...


WORKER = ["with_unary.py"]

if __name__ == "__main__":
    subscriber = SubscriberClient()
    while True:
        try:
            found = subscriber.pull(subscription=SUBSCRIPTION, max_messages=100, timeout=20).received_messages
        except DeadlineExceeded:
            continue
        for received in found:
            nothing(received.message.data)
        if found:
            subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=[received.ack_id for received in found])
