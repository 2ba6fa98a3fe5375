"""Google Cloud Pub/Sub. So far its facts; the driver is being built on them."""
