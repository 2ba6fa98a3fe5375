"""Tasks as Django has them: nothing here knows of cloudq."""

from django_tasks import task

from shop.models import Order


@task()
def invoice(order_id: int) -> None:
    """Mark an order as invoiced. It is there: the task was enqueued when its transaction had committed."""
    order = Order.objects.get(pk=order_id)
    order.invoiced = True
    order.save(update_fields=["invoiced"])
