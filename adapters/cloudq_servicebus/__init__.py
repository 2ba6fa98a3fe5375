"""Azure Service Bus. So far its facts; the driver is being built on them."""
