# Written by `make terraform-docs` from the facts of the adapter, by which Python refuses too.

locals {
  limits = {
    provider               = "pubsub"
    name                   = "Google Cloud Pub/Sub"
    message_bytes          = 9999000
    lease_seconds          = [10, 600]
    max_deliveries         = [5, 100]
    unrun                  = 5
    retention_seconds      = [600, 2678400]
    dead_retention_seconds = [600, 2678400]
    dead_ages              = false
    dedup                  = "none"
    dedup_seconds          = [0, 0]
    ages                   = null

    functions = {
      leases                 = 1
      timeout_seconds        = [1, 600]
      batch                  = [1, 1]
      ordered_batch          = [1, 1]
      window_seconds         = [0, 0]
      ordered_window_seconds = [0, 0]
      concurrency            = null
      ordered                = true
    }
  }
}
