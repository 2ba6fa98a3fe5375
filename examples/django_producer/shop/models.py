# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Django's fields have no types of their own.
from django.db import models


class Order(models.Model):
    customer = models.CharField(max_length=50)
    amount = models.IntegerField()
    invoiced = models.BooleanField(default=False)
