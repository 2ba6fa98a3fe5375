"""Ten orders, each with its invoice enqueued in the same transaction; and one that is rolled back, whose invoice never was."""

import os

import django
from django.db import transaction

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from django.core.management import call_command  # noqa: E402  after the setup
from shop.models import Order  # noqa: E402  as above
from shop.tasks import invoice  # noqa: E402  as above


class TooExpensive(Exception):
    pass


def order(customer: str, amount: int) -> None:
    with transaction.atomic():
        made = Order.objects.create(customer=customer, amount=amount)
        invoice.enqueue(order_id=made.pk)
        if amount > 1000:
            raise TooExpensive(customer)


if __name__ == "__main__":
    call_command("migrate", run_syncdb=True, verbosity=0)
    for number in range(10):
        order(f"customer {number}", number * 100)
    try:
        order("customer 10", 5000)
    except TooExpensive as error:
        print(error, "was rolled back")
    print(Order.objects.count(), "orders")
