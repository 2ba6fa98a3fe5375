"""Every order that there is has its invoice, and nothing is dead for want of one that there is not."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Django's fields have no types of their own.
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from shop.models import Order  # noqa: E402  after the setup

assert Order.objects.count() == 10
assert all(order.invoiced for order in Order.objects.all())
print("10 orders, 10 invoices")
