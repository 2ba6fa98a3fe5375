"""What Azure Functions loads."""

from archive import app as tasks

from cloudq_servicebus import functions_app

app = functions_app(tasks, connection="ServiceBus")
