# Written by `make terraform-docs` from the facts of the adapter, by which Python refuses too.

locals {
  limits = {
    provider               = "servicebus"
    name                   = "Azure Service Bus"
    message_bytes          = 260096
    lease_seconds          = [5, 300]
    max_deliveries         = [1, 2000]
    unrun                  = 5
    retention_seconds      = [60, 315360000]
    dead_retention_seconds = null
    dead_ages              = false
    dedup                  = "all"
    dedup_seconds          = [20, 604800]
    ages                   = [60, 300, 900, 1800, 3600, 21600, 43200, 86400]

    functions = {
      leases                 = 0
      timeout_seconds        = [1, 600]
      batch                  = [1, 1]
      ordered_batch          = [1, 1]
      window_seconds         = [0, 0]
      ordered_window_seconds = [0, 0]
      concurrency            = [1, 1000]
      ordered                = false
    }
  }
}
